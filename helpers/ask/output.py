"""Answers as lines of text and JSON, and as PNGs of boxes and masks that remember their prompt."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

from PIL import Image, PngImagePlugin

from helpers.ask.answers import QUESTION, Answer, Sampling
from helpers.ask.images import EXAMPLE_KEYWORD, example_image
from helpers.files import file_name, write_new

KEYWORD = "ddpm-to-stable-diffusion-answer"  # of the PNG's text with the JSON
READABLE = "Description"  # of the text with prompt and answer, which many programs show


def to_record(answer: Answer, sampling: Sampling) -> dict[str, Any]:
    """Question and answer as JSON has them; boxes are left, top, right, bottom in pixels."""
    record: dict[str, Any] = {"model": answer.model, "image": answer.name, "prompt": answer.prompt}
    if sampling.temperature:
        record |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    record["text"] = answer.text
    if answer.is_located:
        record["size"] = answer.image.size
        record["objects"] = [{"name": name, "box": [round(side, 1) for side in box]} for name, box in answer.boxes()]
    return record


def describe_objects(answer: Answer) -> list[str]:
    """A line for every object: its name, two corners of its box in pixels, and the size of its mask."""
    boxes = answer.boxes()
    width = max((len(name) for name, _ in boxes), default=0)
    lines = []
    for name, (left, top, right, bottom) in boxes:
        lines.append(f"{name:{width}}  from ({left:.1f}, {top:.1f}) to ({right:.1f}, {bottom:.1f})")
    for index, mask in enumerate(answer.masks()):
        share = mask.histogram()[255] / (mask.width * mask.height)
        lines[index] += f", its mask covers {share:.0%} of the image"
    return lines or ["nothing found"]


def write_drawing(folder: Path, answer: Answer, record: dict[str, Any]) -> Path:
    """Write the image with boxes and masks on it, and the record in its metadata. Raises OSError."""
    texts = {
        READABLE: f"{answer.prompt}\n{answer.text}",
        KEYWORD: json.dumps(record, ensure_ascii=False),
    }
    return write_new(folder, _name(answer), ".png", _encode(answer.draw(), texts))


def write_masks(folder: Path, answer: Answer) -> list[Path]:
    """Write the masks as PNGs, white inside, as `python -m helpers.generate --mask` takes them. Raises OSError."""
    return [write_new(folder, f"{_name(answer)}-mask", ".png", _encode(mask, {})) for mask in answer.masks()]


def write_example(folder: Path, number: int) -> Path:
    """Write an example as a PNG, unless it is there from another time. Raises OSError."""
    image = example_image(number)
    data = _encode(image, {EXAMPLE_KEYWORD: image.info[EXAMPLE_KEYWORD]})
    path = folder / f"example_{number}.png"
    if path.is_file() and path.read_bytes() == data:
        return path
    return write_new(folder, path.stem, path.suffix, data)


def heading(image: str, prompt: str, images: Sequence[Any], prompts: Sequence[Any]) -> str:
    """What a line of several has in front: the image and the prompt, where there are several of them."""
    question = prompt.removeprefix(QUESTION)
    parts = [image] * (len(images) > 1) + [question] * (len(prompts) > 1)
    text = ", ".join(parts)
    return f"{text}{' ' if text.endswith('?') else ': '}" if parts else ""


def _name(answer: Answer) -> str:
    return file_name(PurePath(answer.name).stem, answer.prompt)


def _encode(image: Image.Image, texts: dict[str, str]) -> bytes:
    """A PNG with these texts in its metadata."""
    information = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        information.add_itxt(keyword, text)
    file = BytesIO()
    image.save(file, "PNG", pnginfo=information)
    return file.getvalue()
