"""What determines an image, and how a PNG keeps it: as JSON, to repeat the image, and as text, for other programs."""

import json
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from PIL import Image, PngImagePlugin

KEYWORD = "ddpm-to-stable-diffusion"  # of the PNG's text chunk with the JSON
READABLE = "parameters"  # of the chunk that the Stable Diffusion web UI and its relatives show
FORMAT = 1  # of the JSON; raise it when older programs could no longer read it

Record_ = TypeVar("Record_")


@dataclass(frozen=True)
class ImageReference:
    """An image that generation starts from: its file, without the folders of one computer, and a checksum."""

    name: str  # "" for an image that came without a file
    sha256: str  # of its pixels, cropped and resized as the model takes them


@dataclass(frozen=True)
class Settings:
    """What a user chooses about one image; None: the model has no such option, or it is not used."""

    model: str  # a name of the course, or a path
    prompt: str
    seed: int
    steps: int
    guidance_scale: float
    sampler: str
    width: int
    height: int
    negative_prompt: str | None = None
    clip_skip: int | None = None
    shift: float | None = None
    init_image: ImageReference | None = None
    strength: float | None = None
    mask_image: ImageReference | None = None
    weighted_prompts: bool | None = None
    sigmas: str | None = None  # a name, or numbers with commas between them
    churn: float | None = None


@dataclass(frozen=True)
class Computation:
    """What else the bits of an image depend on."""

    weights: str  # SHA-256 of all tensors of the model
    device: str  # of helpers.devices.DEVICES
    precision: str  # "fp32", "bf16" or "fp16"
    threads: int  # of torch: sums of floats depend on how they are shared out
    instructions: str  # of the processor that torch used, such as "AVX512"
    torch: str
    pillow: str  # compresses the PNG
    course: str
    licence: str = ""  # of the weights, and so of the image


class Record(NamedTuple):
    """All that a PNG says about its image."""

    settings: Settings
    computation: Computation


def attach(image: Image.Image, record: Record) -> Image.Image:
    """Add the record to an image's `info`, from where `encode_png` writes it; returns the image."""
    content = {"format": FORMAT, "settings": _without_nones(record.settings), "computation": asdict(record.computation)}
    image.info[KEYWORD] = json.dumps(content, ensure_ascii=False)
    image.info[READABLE] = readable(record)
    return image


def encode_png(image: Image.Image) -> bytes:
    """Encode as PNG, with the settings where the image has them."""
    text = PngImagePlugin.PngInfo()
    for keyword in (READABLE, KEYWORD):
        if keyword in image.info:
            text.add_text(keyword, image.info[keyword])
    file = BytesIO()
    image.save(file, "PNG", pnginfo=text)
    return file.getvalue()


def readable(record: Record) -> str:
    """The settings in the lines that the Stable Diffusion web UI writes, for programs that show those."""
    settings = record.settings
    entries: dict[str, Any] = {
        "Steps": settings.steps,
        "Sampler": settings.sampler,
        "CFG scale": settings.guidance_scale,
        "Seed": settings.seed,
        "Size": f"{settings.width}x{settings.height}",
        "Model hash": record.computation.weights[:10],
        "Model": settings.model,
        "Denoising strength": settings.strength,
        "Clip skip": settings.clip_skip or None,
        "Shift": settings.shift,
        "Schedule type": settings.sigmas,
        "Sigma churn": settings.churn,
    }
    lines = [settings.prompt]
    if settings.negative_prompt:
        lines.append(f"Negative prompt: {settings.negative_prompt}")
    lines.append(", ".join(f"{name}: {value}" for name, value in entries.items() if value is not None))
    return "\n".join(lines)


def read_record(path: str | Path) -> Record:
    """Read the settings of a PNG that this command wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another file, a PNG without settings, and settings that are damaged or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # text chunks may stand behind the pixels
            text = getattr(image, "text", {}).get(KEYWORD)
    except Exception as error:  # on malformed files Pillow raises nearly anything
        raise ValueError(f"{path} is no PNG that can be read ({type(error).__name__}: {error})") from error
    if text is None:
        raise ValueError(
            f"{path} holds no settings of this course: python -m helpers.generate writes them into each of its images, "
            "but not into grids, and many programs drop them when they save or send an image"
        )
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"the settings in {path} cannot be read: {error}") from error


def parse(text: str) -> Record:
    """Read the JSON of `attach`. Raises ValueError for anything else."""
    content = json.loads(text)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, this version of the course reads {FORMAT}")
        return Record(_build(Settings, content["settings"]), _build(Computation, content["computation"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def _without_nones(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if value is not None}


def _build(record: type[Record_], values: dict[str, Any]) -> Record_:
    """The dataclass with these values. Raises ValueError or TypeError for unknown fields and other types."""
    types = {field.name: field.type for field in fields(record)}  # type: ignore[arg-type]
    arguments = {}
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"unknown field {name!r}")
        if name.endswith("_image"):
            value = _build(ImageReference, value)
        if not isinstance(value, types[name]):  # type: ignore[arg-type]
            raise ValueError(f"{name} is {value!r}")
        arguments[name] = value
    return record(**arguments)
