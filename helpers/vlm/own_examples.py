"""Training examples of one's own: images, prefixes and suffixes in a JSONL file, as big_vision and Roboflow write them.

Every line is one example; images are named relative to the file:

`{"image": "photos/1.png", "prefix": "answer en what is this?", "suffix": "a teapot"}`

Alphabet: N examples, P distinct images, S pixels a side.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.vlm.processor import preprocess_image

FIELDS = ("image", "prefix", "suffix")
MAX_LISTED = 6  # lines that an error names
HELD_OUT = 10  # one image in so many is not trained on


class OwnExample(NamedTuple):
    """One line."""

    line: int  # its number, from 1
    image: Path
    prefix: str
    suffix: str


class OwnExamples(NamedTuple):
    """Examples with their decoded images."""

    examples: list[OwnExample]
    images: Tensor  # uint8 (P, 3, S, S)
    image_of: Tensor  # int64 (N,), the index of each example's image

    def split(self) -> tuple["OwnExamples", "OwnExamples"]:
        """Those for training, and those of every tenth image, which are held out; with fewer images none are."""
        held_out = self.image_of % HELD_OUT == HELD_OUT - 1
        return self.select(~held_out), self.select(held_out)

    def select(self, which: Tensor) -> "OwnExamples":
        """The examples where `which`, bool (N,), is True."""
        chosen = [self.examples[i] for i in which.nonzero().flatten().tolist()]
        return OwnExamples(chosen, self.images, self.image_of[which])

    def pixels(self, index: Tensor) -> Tensor:
        """The images of the examples with these indices, (B, 3, S, S) in [-1, 1]."""
        return self.images[self.image_of[index]] / 127.5 - 1


def load_own_examples(file: str | Path, size: int) -> OwnExamples:
    """Read a JSONL file and decode its images, every one once, as squares of `size` pixels a side.

    Raises:
        FileNotFoundError: without such a file.
        ValueError: for lines and images that cannot be used; it names the first of them.
    """
    examples = read_examples(Path(file).expanduser())
    paths = {example.image: i for i, example in enumerate({e.image: e for e in examples}.values())}
    first_line = {example.image: example.line for example in reversed(examples)}

    def decode(path: Path) -> Tensor:
        return ((preprocess_image(path, size) + 1) * 127.5).round().byte()

    images = _collect(file, [(first_line[path], path) for path in paths], decode)
    return OwnExamples(examples, torch.stack(images), torch.tensor([paths[example.image] for example in examples]))


def read_examples(file: Path) -> list[OwnExample]:
    """Read a JSONL file without decoding its images; fields other than the three are left out.

    Raises:
        FileNotFoundError, ValueError: as `load_own_examples`.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}: name a JSONL file, with the fields {', '.join(FIELDS)} in every line")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8, so it is no JSONL file") from error
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{file} has no lines: every line is one example")
    values = _collect(file, lines, lambda line: _parse_line(line, file.parent))
    return [OwnExample(number, *value) for (number, _), value in zip(lines, values, strict=True)]


def _collect(file: str | Path, lines: Sequence[tuple[int, Any]], function: Callable[[Any], Any]) -> list[Any]:
    """Apply a function to something of each line. Raises ValueError with the messages of those for which it did."""
    results = []
    problems = []
    for number, content in lines:
        try:
            results.append(function(content))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = f"\nand {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        listed = "\n".join(problems[:MAX_LISTED])
        raise ValueError(f"{file} cannot be used, {len(problems)} of {len(lines)} are wrong:\n{listed}{more}")
    return results


def _parse_line(line: str, folder: Path) -> tuple[Path, str, str]:
    """Image, prefix and suffix of a line. Raises ValueError."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON ({error.msg}): {line[:60]!r}") from error
    if not isinstance(value, dict):
        raise ValueError(f'this should be {{"image": ..., "prefix": ..., "suffix": ...}}, not {line[:60]!r}')
    missing = [name for name in FIELDS if name not in value]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}, only {', '.join(value) or 'nothing'}")
    for name in FIELDS:
        if not isinstance(value[name], str):
            raise ValueError(f"{name} should be a text, not {value[name]!r}")
    image = folder / value["image"]
    if not image.is_file():
        raise ValueError(f"there is no image {image}")
    return image, value["prefix"], value["suffix"]
