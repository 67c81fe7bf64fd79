"""Diagrams drawn from the live module: shapes and sizes are read off a forward pass, never typed.

`trace` runs a module once (on the meta device too, where it costs nothing) and writes down what went through its
parts; `Canvas` draws boxes, arrows and small pictures; `unet_figure` lays a trace out as the U that gave the name.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from helpers.show.figures import INK, PAPER, to_rgb_array

FILLS = {
    "data": "#e8eef7",
    "convolution": "#cfe0f5",
    "attention": "#f6d9c4",
    "resample": "#d5ead9",
    "text": "#efe0f3",
    "other": "#eceff2",
}
LINE = "#4a5560"
SOFT = "#8894a0"


class Traced(NamedTuple):
    """One call of one part."""

    name: str  # dotted, within the traced module
    kind: str  # the part's class
    inputs: tuple[tuple, ...]  # shapes of the tensors it was given
    output: tuple  # shape of what came out
    parameters: int


def trace(module: Any, *inputs: Any, parts: str | Callable[[str], bool] = r"[^.]+") -> list[Traced]:
    """Call a module once without gradients and list the calls of its parts, in order.

    Args:
        module: a torch module.
        inputs: what to call it with; tensors on the meta device if the module is there.
        parts: which parts, by a pattern of their whole name or a test of it; by default the direct children.
    """
    import torch

    wanted = parts if callable(parts) else lambda name: re.fullmatch(parts, name) is not None
    seen: list[Traced] = []

    def note(name: str) -> Callable:
        def hook(part: Any, given: tuple, out: Any) -> None:
            shapes = tuple(tuple(x.shape) for x in given if isinstance(x, torch.Tensor))
            count = sum(parameter.numel() for parameter in part.parameters())
            seen.append(Traced(name, type(part).__name__, shapes, tuple(out.shape), count))

        return hook

    hooks = [part.register_forward_hook(note(name)) for name, part in module.named_modules() if name and wanted(name)]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def shape_text(shape: Sequence[int]) -> str:
    """Sizes without the batch: (1, 320, 64, 64) -> "320 × 64 × 64"."""
    return " × ".join(f"{size:,}" for size in shape[1:])


class Canvas:
    """A figure in page pixels, y downwards, on which boxes, arrows, words and pictures are placed."""

    def __init__(self, width: float, height: float, alt: str):
        self.figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor=PAPER, layout="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.figure.alt = alt

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        text: str = "",
        kind: str = "other",
        size: float = 8,
        bold: bool = False,
    ) -> None:
        """A rounded box with words in its middle; `kind` chooses the colour."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                w,
                h,
                boxstyle="round,pad=0,rounding_size=4",
                linewidth=0.9,
                facecolor=FILLS[kind],
                edgecolor=LINE,
            )
        )
        self.words(x + w / 2, y + h / 2, text, size, bold=bold)

    def frame(self, x: float, y: float, w: float, h: float, title: str = "") -> None:
        """A large pale box around others, titled above its upper left corner."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                w,
                h,
                boxstyle="round,pad=0,rounding_size=8",
                linewidth=1,
                facecolor="#fafbfc",
                edgecolor="#c5ccd3",
                zorder=0,
            )
        )
        self.words(x + 10, y + 13, title, 9.5, align="left", bold=True)

    def words(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 8,
        *,
        align: str = "center",
        colour: str = INK,
        bold: bool = False,
        turn: float = 0,
    ) -> None:
        """Text centred on y; `align` says where x is."""
        self.axes.text(
            x,
            y,
            text,
            size=size,
            ha=align,
            va="center",
            color=colour,
            rotation=turn,
            linespacing=1.25,
            weight="bold" if bold else "normal",
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False, colour: str = LINE, head: bool = True) -> None:
        """A line through the points with a head at the end."""
        for start, end in zip(points, points[1:], strict=False):
            last = head and end is points[-1]
            self.axes.add_patch(
                FancyArrowPatch(
                    start,
                    end,
                    arrowstyle="-|>" if last else "-",
                    mutation_scale=9,
                    linewidth=1.1,
                    color=colour,
                    shrinkA=0,
                    shrinkB=0,
                    linestyle=(0, (4, 3)) if dashed else "solid",
                )
            )

    def dot(self, x: float, y: float, sign: str) -> None:
        """A small circle with a sign: + where two ways are added, × where they are multiplied."""
        self.axes.plot([x], [y], "o", ms=11, mfc=PAPER, mec=LINE, mew=0.9)
        self.words(x, y, sign, 9)

    def picture(self, x: float, y: float, w: float, h: float, image: Any) -> None:
        """A picture (3, H, W), uint8 or floats in [-1, 1], its pixels unblurred."""
        (pixels,) = to_rgb_array(image)
        self.axes.imshow(pixels, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto", zorder=3)
        self.axes.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=LINE, lw=0.8, zorder=4)

    def outline(self, x: float, y: float, w: float, h: float, sides: Sequence[float]) -> None:
        """A white frame on a picture at x, y; its sides (left, top, right, bottom) are shares of the picture's."""
        left, top, right, bottom = sides
        across = [left, right, right, left, left]
        down = [top, top, bottom, bottom, top]
        self.axes.plot(
            [x + w * share for share in across], [y + h * share for share in down], color="white", lw=1.4, zorder=5
        )

    def heat(self, x: float, y: float, w: float, h: float, values: np.ndarray) -> None:
        """A matrix as colours."""
        self.axes.imshow(
            values, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto", cmap="PuOr", zorder=3
        )
        self.axes.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=LINE, lw=0.8, zorder=4)


class UNetTrace(NamedTuple):
    """A U-Net's parts in order, level by level; every part is what was traced of it."""

    stem: Traced
    down: list[list[Traced]]  # finest level first, each ending in the halving where there is one
    middle: list[Traced]
    up: list[list[Traced]]  # coarsest level first, each ending in the doubling where there is one
    head: Traced


KINDS = {
    "SpatialTransformer": "attention",
    "TransformerBlock": "attention",
    "Downsample": "resample",
    "Upsample": "resample",
}


def unet_trace(unet: Any, *inputs: Any) -> UNetTrace:
    """Trace a U-Net whose modules are called stem, down, middle, up and head, its blocks `residual`, `transformer`."""
    pattern = r"stem|head|(down|up)\.\d+\.(residual\.\d+|transformer\.\d+|resample)|middle\.\d+"
    calls = trace(unet, *inputs, parts=pattern)

    def levels(side: str) -> list[list[Traced]]:
        numbers = sorted({int(call.name.split(".")[1]) for call in calls if call.name.startswith(side + ".")})
        return [[call for call in calls if call.name.startswith(f"{side}.{number}.")] for number in numbers]

    named = {call.name: call for call in calls}
    middle = [call for call in calls if call.name.startswith("middle.")]
    return UNetTrace(named["stem"], levels("down"), middle, levels("up"), named["head"])


def draw_unet(canvas: Canvas, traced: UNetTrace, x: float, y: float, row: float = 66, bar: float = 10) -> tuple:
    """Draw the U with its upper left corner at (x, y): down on the left, up on the right, handed across in dashes.

    Returns:
        (width, height, entry, exit): its size, and the points where the latent goes in and comes out.
    """
    step = bar + 3
    rows = len(traced.down)
    tall = row * 0.56
    downs = [[traced.stem, *traced.down[0]], *traced.down[1:]]
    ups = [*traced.up[:-1], [*traced.up[-1], traced.head]]
    left = x
    starts = []
    for parts in downs:  # each level begins under the halving of the one above
        starts.append(left)
        left += step * (len(parts) - 1)
    middle = left + 3 * step
    right = middle + step * (len(traced.middle) + 2)
    mirrored = []
    for parts in ups:
        mirrored.append(right)
        right += step * (len(parts) - 1)
    for i, (down, up) in enumerate(zip(downs, reversed(ups), strict=True)):
        top = y + i * row
        a = starts[i]
        b = mirrored[rows - 1 - i]
        for start, parts in ((a, down), (b, up)):
            for j, call in enumerate(parts):
                _part(canvas, call, start + j * step, top, bar, tall)
        _across(canvas, down, a + step * len(down) - 3, b, top + 0.5 * tall)
        canvas.words(a - 8, top + tall / 2, _level_text(down, up), 7, align="right", colour=LINE)
        if i + 1 < rows:
            turn = a + step * (len(down) - 1) + bar / 2
            back = b + bar / 2
            canvas.arrow((turn, top + tall + 1), (turn, top + row - 1))
            canvas.arrow((back, top + row - 1), (back, top + tall + 1))
    low = y + rows * row
    for j, call in enumerate(traced.middle):
        _part(canvas, call, middle + j * step, low, bar, tall)
    into = starts[-1] + step * (len(downs[-1]) - 1) + bar / 2
    out = mirrored[0] + bar / 2
    end = middle + step * len(traced.middle) - 3
    centre = low + tall / 2
    canvas.arrow((into, low - row + tall + 1), (into, centre), (middle - 1, centre))
    canvas.arrow((end + 1, centre), (out, centre), (out, low - row + tall + 1))
    count = sum(call.parameters for call in traced.middle)
    canvas.words((middle + end) / 2, low + tall + 12, f"{count / 1e6:.3g} M", 7, colour=LINE)
    entry = (x, y + tall / 2)
    leave = (mirrored[-1] + step * len(ups[-1]) - 3, y + tall / 2)
    return leave[0] - x, low + tall + 20 - y, entry, leave


def _across(canvas: Canvas, down: list[Traced], start: float, end: float, y: float) -> None:
    """The skip connections of a level: what its blocks, and the way into it, hand to the blocks of the way up."""
    blocks = [call for call in down if "resample" not in call.name]
    handed = [blocks[0].output if blocks[0].name == "stem" else blocks[0].inputs[0]]
    handed += [call.output for call in blocks if "residual" in call.name]
    widths = " and ".join(f"{width:,}" for width in sorted({shape[1] for shape in handed}))
    canvas.arrow((start + 3, y), (end - 2, y), dashed=True, colour=SOFT)
    canvas.words((start + end) / 2, y - 9, shape_text(blocks[-1].output), 7.5, colour=LINE)
    canvas.words((start + end) / 2, y + 9, f"{len(handed)} skips: {widths}", 7, colour=SOFT)


def _part(canvas: Canvas, call: Traced, x: float, y: float, w: float, h: float) -> None:
    kind = KINDS.get(call.kind, "data" if call.name in ("stem", "head") else "convolution")
    canvas.box(x, y, w, h, kind=kind)


def _level_text(down: list[Traced], up: list[Traced]) -> str:
    count = sum(call.parameters for call in (*down, *up))
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"
