"""Boxes and masks as words: `<loc0123>` is a coordinate, `<seg045>` a piece of a mask (Beyer et al. 2024).

An object is four `<loc>`, top, left, bottom, right (y before x), with sixteen `<seg>` behind them where its mask is
asked for, then its name; several are separated by " ; ".
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOC_MAX = 1023  # the number of the last <loc>: 1.0
CODES = 16  # <seg> tokens of a mask
OBJECT = re.compile(r"^((?:<loc\d{4}>)*)\s*((?:<seg\d{3}>)*)\s*([^<>]*)$")


class Box(NamedTuple):
    """Left, top, right and bottom as shares of the picture's sides, in [0, 1]: the drawn faces' order."""

    x0: float
    y0: float
    x1: float
    y1: float

    def iou(self, other: "Box") -> float:
        """What two boxes share over what they cover together: 0 to 1."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        shared = max(0.0, width) * max(0.0, height)
        return shared / max(1e-9, self.area + other.area - shared)

    @property
    def area(self) -> float:
        """As a share of the picture."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


class Detection(NamedTuple):
    """An object that an answer names."""

    name: str
    box: Box
    codes: tuple[int, ...] | None = None  # of its mask


def box_to_tokens(box: Sequence[float], grid: int = LOC_MAX) -> str:
    """A box (x0, y0, x1, y1) as four `<loc>`, y before x.

    Args:
        grid: steps of a side that may be told: a coordinate is rounded to the nearest of them first. A picture of 64
            pixels does not know a thousandth of its side.

    Raises:
        ValueError: for a box that is none, or leaves the picture.
    """
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(f"a box is 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, got {tuple(box)}")
    return "".join(f"<loc{round(round(c * grid) / grid * LOC_MAX):04}>" for c in (y0, x0, y1, x1))


def mask_to_tokens(codes: Sequence[int]) -> str:
    """Sixteen codes as `<seg>`. Raises ValueError for another number of them, or codes outside 0..127."""
    if len(codes) != CODES or not all(0 <= code < 128 for code in codes):
        raise ValueError(f"a mask is {CODES} codes in 0..127, got {list(codes)}")
    return "".join(f"<seg{code:03}>" for code in codes)


def parse(answer: str) -> list[Detection]:
    """What an answer to `detect` or `segment` says.

    Raises:
        ValueError: for an answer that is not of this form; it says which part and why.
    """
    return [_object(part.strip()) for part in answer.split(";") if part.strip()]


def _object(text: str) -> Detection:
    match = OBJECT.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no object: <loc> four times, <seg> sixteen times or never, a name")
    places = [int(number) for number in re.findall(r"<loc(\d{4})>", match[1])]
    codes = tuple(int(number) for number in re.findall(r"<seg(\d{3})>", match[2]))
    if len(places) != 4:
        raise ValueError(f"{text!r} has {len(places)} <loc> tokens, a box has 4")
    if len(codes) not in (0, CODES):
        raise ValueError(f"{text!r} has {len(codes)} <seg> tokens, a mask has {CODES}")
    if max(places) > LOC_MAX or max(codes, default=0) > 127:
        raise ValueError(f"{text!r} has a <loc> above {LOC_MAX} or a <seg> above 127")
    y0, x0, y1, x1 = (place / LOC_MAX for place in places)
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"{text!r} is a box of no size: top, left, bottom, right are {places}")
    return Detection(match[3].strip(), Box(x0, y0, x1, y1), codes or None)


def crop_mask(mask: Tensor, box: Box, side: int = 64) -> Tensor:
    """What a box holds of a mask, squeezed to a square: (H, W) in [0, 1] -> (side, side)."""
    y, x = (_inside(low, high, side) for low, high in ((box.y0, box.y1), (box.x0, box.x1)))
    return _sampled(mask, x, y)


def pasted(mask: Tensor, box: Box, height: int, width: int) -> Tensor:
    """Inverts `crop_mask`: (side, side) into an empty mask (height, width)."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    full = _sampled(mask, (x - box.x0) / (box.x1 - box.x0), (y - box.y0) / (box.y1 - box.y0))
    inside = ((x >= box.x0) & (x <= box.x1))[None] & ((y >= box.y0) & (y <= box.y1))[:, None]
    return full * inside


def _inside(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * (torch.arange(count) + 0.5) / count


def _sampled(mask: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A mask's values at the grid of x (W,) and y (H,), shares of its sides, between its pixels linearly."""
    grid = torch.stack(torch.meshgrid(2 * x - 1, 2 * y - 1, indexing="xy"), dim=-1)[None]  # (1, H, W, 2)
    return F.grid_sample(mask[None, None].float(), grid, padding_mode="border", align_corners=False)[0, 0]
