"""Boxes and masks as tokens: `<loc0123>` is a coordinate, `<seg045>` a code of a mask (Beyer et al. 2024).

An object is four `<loc>`, top, left, bottom, right (y before x), then sixteen `<seg>` if its mask is requested, then
its name; several objects are separated by " ; ".
"""

import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOC_MAX = 1023  # the index of the last <loc>: coordinate 1.0
CODES = 16  # <seg> tokens of a mask
OBJECT = re.compile(r"^((?:<loc\d{4}>)*)\s*((?:<seg\d{3}>)*)\s*([^<>]*)$")


class Box(NamedTuple):
    """Left, top, right and bottom as fractions of the image's sides, in [0, 1]: the order of the synthetic faces."""

    x0: float
    y0: float
    x1: float
    y1: float

    def iou(self, other: "Box") -> float:
        """Intersection over union, 0 to 1."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        intersection = max(0.0, width) * max(0.0, height)
        return intersection / max(1e-9, self.area + other.area - intersection)

    @property
    def area(self) -> float:
        """As a fraction of the image."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


class Detection(NamedTuple):
    """A detected object."""

    name: str
    box: Box
    codes: tuple[int, ...] | None = None  # of its mask


def box_to_tokens(box: Sequence[float], grid: int = LOC_MAX) -> str:
    """Write a box (x0, y0, x1, y1) as four `<loc>`, y before x.

    Args:
        grid: coordinates are first rounded to multiples of 1 / grid: an image of 64 pixels cannot determine a
            thousandth of its side.

    Raises:
        ValueError: for a box that is empty or leaves the image.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"a box is 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, got {tuple(box)}")
    return "".join(f"<loc{round(round(c * grid) / grid * LOC_MAX):04}>" for c in (y0, x0, y1, x1))


def mask_to_tokens(codes: Sequence[int]) -> str:
    """Write sixteen mask codes as `<seg>`. Raises ValueError for another number of codes, or codes outside 0..127."""
    if len(codes) != CODES or not all(0 <= code < 128 for code in codes):
        raise ValueError(f"a mask is {CODES} codes in 0..127, got {list(codes)}")
    return "".join(f"<seg{code:03}>" for code in codes)


def parse(answer: str, *, strict: bool = False) -> list[Detection]:
    """Parse an answer to `detect` or `segment`.

    Args:
        strict: refuse the whole answer for one object that cannot be read. Otherwise that object is left out, with a
            warning: a model that was cut off, or puts two corners the wrong way round, has still found the others.

    Raises:
        ValueError: where no object can be read, with the part that is wrong and the reason.
    """
    detections = []
    problems = []
    for part in filter(None, map(str.strip, answer.split(";"))):
        try:
            detections.append(_parse_object(part))
        except ValueError as error:
            problems.append(str(error))
    if problems and (strict or not detections):
        raise ValueError(problems[0])
    for problem in problems:
        warnings.warn(f"an object is left out: {problem}", stacklevel=2)
    return detections


def _parse_object(text: str) -> Detection:
    match = OBJECT.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not an object: four <loc>, sixteen <seg> or none, and a name")
    coordinates = [int(number) for number in re.findall(r"<loc(\d{4})>", match[1])]
    codes = tuple(int(number) for number in re.findall(r"<seg(\d{3})>", match[2]))
    if len(coordinates) != 4:
        raise ValueError(f"{text!r} has {len(coordinates)} <loc> tokens, a box has 4")
    if len(codes) not in (0, CODES):
        raise ValueError(f"{text!r} has {len(codes)} <seg> tokens, a mask has {CODES}")
    if max(coordinates) > LOC_MAX or max(codes, default=0) > 127:
        raise ValueError(f"{text!r} has a <loc> above {LOC_MAX} or a <seg> above 127")
    y0, x0, y1, x1 = (coordinate / LOC_MAX for coordinate in coordinates)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{text!r} is an empty box: top, left, bottom, right are {coordinates}")
    return Detection(match[3].strip(), Box(x0, y0, x1, y1), codes or None)


def crop_mask(mask: Tensor, box: Box, side: int = 64) -> Tensor:
    """Crop a mask (H, W) in [0, 1] to a box and resize it to a square -> (side, side)."""
    y = _pixel_centres(box.y0, box.y1, side)
    x = _pixel_centres(box.x0, box.x1, side)
    return _sample_bilinear(mask, x, y)


def paste_mask(mask: Tensor, box: Box, height: int, width: int) -> Tensor:
    """Invert `crop_mask`: resize (side, side) to the box and paste it into an empty mask (height, width)."""
    y = _pixel_centres(0.0, 1.0, height)
    x = _pixel_centres(0.0, 1.0, width)
    resized = _sample_bilinear(mask, (x - box.x0) / (box.x1 - box.x0), (y - box.y0) / (box.y1 - box.y0))
    inside = ((x >= box.x0) & (x <= box.x1))[None] & ((y >= box.y0) & (y <= box.y1))[:, None]
    return resized * inside


def _pixel_centres(low: float, high: float, count: int) -> Tensor:
    """The centres of `count` equal pixels between low and high, (count,)."""
    return low + (high - low) * (torch.arange(count) + 0.5) / count


def _sample_bilinear(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Interpolate a mask at the grid of x (W,) and y (H,), fractions of its sides -> (H, W)."""
    grid = torch.stack(torch.meshgrid(2 * x - 1, 2 * y - 1, indexing="xy"), dim=-1)[None]  # (1, H, W, 2)
    return F.grid_sample(mask[None, None].float(), grid, padding_mode="border", align_corners=False)[0, 0]
