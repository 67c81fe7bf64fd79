"""From settings to images: `generate` for new ones, `repeat` for one whose PNG is there.

Each image is computed alone, from its own seed: the numbers of a network depend in their last bits on what else is in
the batch, and an image must not depend on how many others were generated with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import torch
from PIL import Image
from torch import Tensor

import helpers
from helpers.data.faces import to_uint8
from helpers.diffusion.noise_levels import check_sigmas
from helpers.generate.inputs import Inputs, read_inputs
from helpers.generate.models import SYSTEMS, Model, load_model
from helpers.generate.settings import (
    KEYWORD,
    Computation,
    ImageReference,
    Record,
    Settings,
    attach,
    encode_png,
    parse,
    read_record,
)
from helpers.text_to_image.request import check_integer

LARGEST_SEED = 2**63 - 1  # that a random generator takes; the pipelines stop a little earlier
LARGEST_SIDE = 16384  # pixels; each pipeline has its own limits
MOST_THREADS = 1024
MOST_FRAMES = 32  # of a trajectory: each has to be decoded
COMMON = ("steps", "guidance_scale", "sampler")  # options that every model has
OPTIONAL = {  # options that only some have, and what they are called in messages
    "negative_prompt": "negative prompt",
    "width": "other size",
    "height": "other size",
    "clip_skip": "CLIP skip",
    "shift": "shift",
    "weighted_prompts": "weights of words",
    "sigmas": "choice of noise levels",
    "churn": "churn",
    "init_image": "initial image",
    "strength": "strength",
    "mask_image": "mask",
}


class Generated(NamedTuple):
    """One image, and where it was requested what the sampler held on the way."""

    settings: Settings
    image: Image.Image  # its `info` has the settings, too
    frames: list[Image.Image]


class Repeated(NamedTuple):
    """The result of repeating an image, and how it compares with the file."""

    image: Image.Image
    record: Record
    same_bytes: bool
    different_pixels: int
    largest_difference: int  # of 255
    changes: list[str]  # what was computed with something else than at the time


def generate(
    model: str | Path | Model,
    prompts: str | Sequence[str],
    *,
    count: int = 1,
    seed: int = 0,
    same_seed: bool = False,
    progress: bool = True,
    **options: Any,
) -> list[Image.Image]:
    """Generate images: `generate("tiny_sd_animals", "cat", count=4)`.

    Args:
        model: a name, file or folder, see `load_model`; or the result of `load_model`, to load it only once.
        prompts: one or several; captions, or the class for a model without captions.
        count: images per prompt.
        seed: of the first image; each further one has the next seed.
        same_seed: every prompt begins with `seed` again, so that its first image starts from the same noise.
        progress: show a bar.
        options: steps, guidance_scale, sampler; and where the model has them negative_prompt, width, height,
            clip_skip, shift, weighted_prompts, sigmas, churn, init_image (a file or a PIL image), strength, mask_image
            (white is generated anew).

    Returns:
        all images of the first prompt, then those of the second, ...; each has its settings in `info`, which
        `encode_png` writes.

    Raises:
        FileNotFoundError, ValueError, TypeError: for bad arguments, before any work is done.
        FloatingPointError: at the first step whose state is NaN or infinite.
    """
    if not isinstance(model, Model):
        model = load_model(model)
    settings, inputs = make_settings(model, prompts, count=count, seed=seed, same_seed=same_seed, **options)
    return [generated.image for generated in generate_all(model, settings, inputs, progress=progress)]


def make_settings(
    model: Model,
    prompts: str | Sequence[str],
    *,
    count: int = 1,
    seed: int = 0,
    same_seed: bool = False,
    **options: Any,
) -> tuple[list[Settings], Inputs]:
    """The settings of every image, all of them checked, and the images that they start from; see `generate`."""
    chosen = {name: value for name, value in options.items() if value is not None}
    check_options(model, chosen)
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts:
        raise ValueError("there is no prompt")
    check_integer("count", count, 1, 1_000_000)
    check_integer("seed", seed, 0, LARGEST_SEED)
    height = check_integer("height", chosen.pop("height", model.size[0]), 1, LARGEST_SIDE)
    width = check_integer("width", chosen.pop("width", model.size[1]), 1, LARGEST_SIDE)
    inputs = read_inputs(chosen.pop("init_image", None), chosen.pop("mask_image", None), width, height)
    if "strength" in chosen and inputs.init is None:
        raise ValueError("strength says how much of an initial image is generated anew, and there is no initial image")
    sigmas = check_sigmas(chosen.get("sigmas"))
    if isinstance(sigmas, tuple):  # numbers, which the settings keep as text
        chosen |= {"sigmas": ",".join(map(repr, sigmas)), "steps": len(sigmas)}
    first = Settings(
        model=model.name,
        prompt=texts[0],
        seed=seed,
        steps=chosen.pop("steps", model.default("steps")),
        guidance_scale=chosen.pop("guidance_scale", model.default("guidance_scale")),
        sampler=chosen.pop("sampler", model.default("sampler")),
        width=width,
        height=height,
        init_image=inputs.init_reference,
        mask_image=inputs.mask_reference,
        **_with_defaults(model, chosen, inputs),
    )
    settings = []
    for index, text in enumerate(texts):
        start = seed if same_seed else seed + index * count
        settings += [replace(first, prompt=text, seed=start + i) for i in range(count)]
    for each in {each.prompt: each for each in settings}.values():
        model.check(each, inputs)
    model.check(settings[-1], inputs)  # whose seed is the largest
    return [_with_plain_numbers(each) for each in settings], inputs


def check_options(model: Model, options: dict[str, Any]) -> None:
    """Raise ValueError for an option that the model does not have, saying which models have it."""
    for name in options:
        if name not in (*COMMON, *OPTIONAL):
            raise TypeError(f"there is no option {name!r}; options: {', '.join((*COMMON, *OPTIONAL))}")
        is_its_size = options[name] == dict(zip(("height", "width"), model.size, strict=True)).get(name)
        if not model.system.has(name) and not is_its_size:
            others = [system.title for system in SYSTEMS.values() if system.has(name)]
            raise ValueError(
                f"{model.name} takes no {OPTIONAL[name]}; {' and '.join(others)} {'do' if len(others) > 1 else 'does'}"
            )


def _with_defaults(model: Model, chosen: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    names = [name for name in ("negative_prompt", "clip_skip", "shift") if model.system.has(name)]
    if chosen.get("weighted_prompts"):  # not recorded where it is not used
        names.append("weighted_prompts")
    names += [name for name in ("sigmas", "churn") if name in chosen]
    if inputs.init is not None:
        names.append("strength")
    return {name: chosen.get(name, model.default(name)) for name in names}


def _with_plain_numbers(settings: Settings) -> Settings:
    """Python's own numbers, whatever was passed, and 7.0 where a 7 means the same: so the JSON is the same."""
    return replace(
        settings,
        seed=int(settings.seed),
        steps=int(settings.steps),
        guidance_scale=float(settings.guidance_scale),
        clip_skip=None if settings.clip_skip is None else int(settings.clip_skip),
        shift=None if settings.shift is None else float(settings.shift),
        strength=None if settings.strength is None else float(settings.strength),
        churn=None if settings.churn is None else float(settings.churn),
    )


def generate_all(
    model: Model, settings: Sequence[Settings], inputs: Inputs, *, progress: bool = False, with_frames: bool = False
) -> Iterator[Generated]:
    """Yield one image after another.

    Args:
        model, settings, inputs: of `make_settings`.
        progress: show a bar.
        with_frames: also decode the states of the sampler, at most MOST_FRAMES of them.
    """
    from tqdm.auto import tqdm

    total = sum(each.steps for each in settings)
    with tqdm(total=total, desc="generating", unit=" steps", leave=False, disable=None if progress else True) as bar:
        for number, each in enumerate(settings, 1):
            if len(settings) > 1:
                bar.set_description(f"image {number} of {len(settings)}")
            states = []
            for step in model.sample_steps(each, inputs):
                states.append(step.x)
                bar.update(1)
            image = to_pil(model.finish(model.decode(states[-1]), inputs))
            frames = [to_pil(model.decode(x)) for x in _some(states)] if with_frames else []
            attach(image, Record(each, computation(model)))
            yield Generated(each, image, [*frames[:-1], image] if frames else [])
            bar.update(each.steps - len(states))  # image-to-image leaves out the first steps


def _some(states: Sequence[Tensor]) -> list[Tensor]:
    """At most MOST_FRAMES of the states, evenly chosen, the last one among them."""
    count = min(len(states), MOST_FRAMES)
    return [states[round((i + 1) * len(states) / count) - 1] for i in range(count)]


def to_pil(image: Tensor) -> Image.Image:
    """(1, 3, H, W) in [-1, 1] as a PIL image."""
    return Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).contiguous().numpy())


def computation(model: Model) -> Computation:
    """With what this process computes the images of a model."""
    return Computation(
        weights=model.weights,
        device=model.device,
        precision=model.precision,
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        torch=torch.__version__,
        pillow=PIL.__version__,
        course=helpers.__version__,
        licence=model.licence,
    )


# --- once more --------------------------------------------------------------------------------------------------------


def repeat(
    path: str | Path,
    *,
    model: str | Path | None = None,
    init_image: str | Path | None = None,
    mask_image: str | Path | None = None,
    progress: bool = True,
) -> Repeated:
    """Generate the image of a PNG anew, from the settings in it, with as many threads as then.

    Args:
        path: of the PNG.
        model, init_image, mask_image: where these are now; None: where the settings say, or beside the PNG.
        progress: show a bar.

    Raises:
        FileNotFoundError, ValueError: as `read_record`; where the model, the initial image or the mask is not there or
            not the same as then.
    """
    record = read_record(path)
    check_integer("width", record.settings.width, 1, LARGEST_SIDE)  # a PNG may come from anywhere
    check_integer("height", record.settings.height, 1, LARGEST_SIDE)
    recorded_threads = check_integer("threads", record.computation.threads, 1, MOST_THREADS)
    threads = torch.get_num_threads()
    torch.set_num_threads(recorded_threads)
    try:
        loaded = load_recorded(path, model)
        inputs = _read_recorded(Path(path), record.settings, init_image, mask_image)
        loaded.check(record.settings, inputs)
        (generated,) = generate_all(loaded, [record.settings], inputs, progress=progress)
    finally:
        torch.set_num_threads(threads)
    return _compared(Path(path), record, generated.image)


def recorded_options(
    path: str | Path, init_image: str | Path | None = None, mask_image: str | Path | None = None
) -> dict[str, Any]:
    """The options of a PNG's settings, as `generate` takes them, for the same image with changes.

    Raises:
        FileNotFoundError, ValueError: as `repeat`.
    """
    settings = read_record(path).settings
    _read_recorded(Path(path), settings, init_image, mask_image)  # are these the images of then?
    names = [*COMMON, *(name for name in OPTIONAL if not name.endswith("_image"))]
    return {name: getattr(settings, name) for name in names} | {
        "init_image": _locate(Path(path), "--init", settings.init_image, init_image),
        "mask_image": _locate(Path(path), "--mask", settings.mask_image, mask_image),
    }


def load_recorded(path: str | Path, model: str | Path | None = None) -> Model:
    """Load the model of a PNG's settings, and check that it is the same as then. Arguments and errors as `repeat`."""
    record = read_record(path)
    name = record.settings.model
    computed = record.computation
    try:
        loaded = load_model(model or name, device=computed.device, precision=computed.precision)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} was generated with {name}: {error}. Say where it is with --model") from error
    if loaded.weights != computed.weights:
        raise ValueError(
            f"the weights of {model or name} are not those that generated {path}: their SHA-256 begins with "
            f"{loaded.weights[:12]}, the recorded one with {computed.weights[:12]}"
        )
    loaded.name = name  # wherever it lies now: the settings stay the same
    return loaded


def _read_recorded(
    path: Path, settings: Settings, init_image: str | Path | None, mask_image: str | Path | None
) -> Inputs:
    init = _locate(path, "--init", settings.init_image, init_image)
    mask = _locate(path, "--mask", settings.mask_image, mask_image)
    inputs = read_inputs(init, mask, settings.width, settings.height)
    for option, file, recorded, current in (
        ("--init", init, settings.init_image, inputs.init_reference),
        ("--mask", mask, settings.mask_image, inputs.mask_reference),
    ):
        if recorded and current and recorded.sha256 != current.sha256:
            raise ValueError(f"{file} is not the image that {path} was generated from: pass that one as {option}")
    return inputs


def _locate(path: Path, option: str, recorded: ImageReference | None, source: str | Path | None) -> Path | None:
    """Where an image of the settings is now. Raises FileNotFoundError, or ValueError where there was none."""
    if recorded is None:
        if source is not None:
            raise ValueError(f"{path} was generated without {option}")
        return None
    if source is not None:
        return Path(source)
    for folder in (Path(), path.parent):
        if recorded.name and (folder / recorded.name).is_file():
            return folder / recorded.name
    raise FileNotFoundError(
        f"{path} was generated from {recorded.name or 'an image without a file'}, which is neither here nor beside it: "
        f"say where it is with {option}"
    )


def _compared(path: Path, record: Record, image: Image.Image) -> Repeated:
    with Image.open(path) as file:
        before = torch.frombuffer(bytearray(file.convert("RGB").tobytes()), dtype=torch.uint8)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    if len(before) != len(pixels):
        raise ValueError(f"{path} is no longer {image.width}x{image.height} pixels: it was changed after it was made")
    differences = (before.int() - pixels.int()).abs().view(-1, 3).amax(1)
    current = parse(image.info[KEYWORD])
    changes = [
        f"{name} {value} instead of {getattr(record.computation, name)}"
        for name, value in vars(current.computation).items()
        if value != getattr(record.computation, name)
    ]
    return Repeated(
        image,
        record,
        encode_png(image) == path.read_bytes(),
        int((differences > 0).sum()),
        int(differences.max()),
        changes,
    )
