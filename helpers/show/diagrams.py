"""Architecture diagrams drawn from live modules: shapes and sizes come from a forward pass and are never typed in.

`trace` runs a module once (on the meta device too, where it costs nothing) and records the shapes that go through its
parts; `Canvas` draws boxes, arrows and small images; `draw_unet` lays a trace out as a U.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from helpers.show.figures import INK, PAPER, blank_figure, to_rgb_array

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
    """A call of a part of a module."""

    name: str  # dotted, within the traced module
    class_name: str  # of the part
    inputs: tuple[tuple, ...]  # shapes of the tensors that it got
    output: tuple  # shape of the result
    parameters: int


def trace(module: Any, *inputs: Any, parts: str | Callable[[str], bool] = r"[^.]+") -> list[Traced]:
    """Call a module once without gradients and list the calls of its parts, in order.

    Args:
        module: a torch module.
        inputs: what to call it with; tensors on the meta device if the module is there.
        parts: which parts, by a regular expression for their full name or a test of it; by default the direct children.
    """
    import torch

    calls: list[Traced] = []

    def is_traced(name: str) -> bool:
        return parts(name) if callable(parts) else re.fullmatch(parts, name) is not None

    def record(name: str) -> Callable:
        def hook(part: Any, args: tuple, output: Any) -> None:
            shapes = tuple(tuple(x.shape) for x in args if isinstance(x, torch.Tensor))
            count = sum(parameter.numel() for parameter in part.parameters())
            calls.append(Traced(name, type(part).__name__, shapes, tuple(output.shape), count))

        return hook

    traced = [(name, part) for name, part in module.named_modules() if name and is_traced(name)]
    hooks = [part.register_forward_hook(record(name)) for name, part in traced]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def shape_text(shape: Sequence[int]) -> str:
    """A shape without the batch: (1, 320, 64, 64) -> "320 × 64 × 64"."""
    return " × ".join(f"{size:,}" for size in shape[1:])


class Canvas:
    """A figure in page pixels, y downwards, on which boxes, arrows, text and images are placed."""

    def __init__(self, width: float, height: float, alt: str):
        self.figure = blank_figure(width, height, alt)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        text: str = "",
        fill: str = "other",
        size: float = 8,
        bold: bool = False,
    ) -> None:
        """A rounded box with text in its middle; `fill` is a key of FILLS."""
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y),
                w,
                h,
                boxstyle="round,pad=0,rounding_size=4",
                linewidth=0.9,
                facecolor=FILLS[fill],
                edgecolor=LINE,
            )
        )
        self.text(x + w / 2, y + h / 2, text, size, bold=bold)

    def frame(self, x: float, y: float, w: float, h: float, title: str = "") -> None:
        """A large pale box around others, with a title in its upper left corner."""
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
        self.text(x + 10, y + 13, title, 9.5, align="left", bold=True)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 8,
        *,
        align: str = "center",
        colour: str = INK,
        bold: bool = False,
        rotation: float = 0,
    ) -> None:
        """Text centred vertically on y; `align` says which end of it is at x."""
        self.axes.text(
            x,
            y,
            text,
            size=size,
            ha=align,
            va="center",
            color=colour,
            rotation=rotation,
            linespacing=1.25,
            weight="bold" if bold else "normal",
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False, colour: str = LINE, head: bool = True) -> None:
        """A line through the points with an arrow head at its end."""
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
        """A small circle with a sign: + for a sum, × for a product."""
        self.axes.plot([x], [y], "o", ms=11, mfc=PAPER, mec=LINE, mew=0.9)
        self.text(x, y, sign, 9)

    def image(self, x: float, y: float, w: float, h: float, image: Any) -> None:
        """An image (3, H, W), uint8 or floats in [-1, 1], its pixels unblurred."""
        (pixels,) = to_rgb_array(image)
        self.axes.imshow(pixels, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto", zorder=3)
        self.axes.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=LINE, lw=0.8, zorder=4)

    def outline(self, x: float, y: float, w: float, h: float, sides: Sequence[float]) -> None:
        """A white frame on an image at x, y; its sides (left, top, right, bottom) are fractions of the image's."""
        left, top, right, bottom = sides
        across = [left, right, right, left, left]
        down = [top, top, bottom, bottom, top]
        xs = [x + w * fraction for fraction in across]
        ys = [y + h * fraction for fraction in down]
        self.axes.plot(xs, ys, color="white", lw=1.4, zorder=5)

    def heatmap(self, x: float, y: float, w: float, h: float, values: np.ndarray) -> None:
        """A matrix as colours."""
        self.axes.imshow(
            values, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto", cmap="PuOr", zorder=3
        )
        self.axes.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=LINE, lw=0.8, zorder=4)


class UNetTrace(NamedTuple):
    """The traced parts of a U-Net in order, level by level."""

    stem: Traced
    down: list[list[Traced]]  # finest level first, each ending in the downsampling if there is one
    middle: list[Traced]
    up: list[list[Traced]]  # coarsest level first, each ending in the upsampling if there is one
    head: Traced


CLASS_FILLS = {  # class of a part -> fill
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


class UNetLayout(NamedTuple):
    """Where the parts of a U-Net diagram lie, in page pixels."""

    down: list[list[Traced]]  # with the stem in the finest level
    up: list[list[Traced]]  # coarsest level first, with the head in the finest level
    down_x: list[float]  # left edge of each level, finest first
    middle_x: float
    up_x: list[float]  # left edge of each level, coarsest first
    y: float
    row: float  # distance of levels
    bar: float  # width of a part
    part_height: float

    @property
    def step(self) -> float:
        """The distance of parts."""
        return self.bar + 3

    def top(self, level: int) -> float:
        """The upper edge of a level; the one below the last is that of the middle."""
        return self.y + level * self.row


def _unet_layout(traced: UNetTrace, x: float, y: float, row: float, bar: float) -> UNetLayout:
    down = [[traced.stem, *traced.down[0]], *traced.down[1:]]
    up = [*traced.up[:-1], [*traced.up[-1], traced.head]]
    step = bar + 3
    left = x
    down_x = []
    for parts in down:  # each level begins under the downsampling of the one above
        down_x.append(left)
        left += step * (len(parts) - 1)
    middle_x = left + 3 * step
    right = middle_x + step * (len(traced.middle) + 2)
    up_x = []
    for parts in up:
        up_x.append(right)
        right += step * (len(parts) - 1)
    return UNetLayout(down, up, down_x, middle_x, up_x, y, row, bar, row * 0.56)


def draw_unet(canvas: Canvas, traced: UNetTrace, x: float, y: float, row: float = 66, bar: float = 10) -> tuple:
    """Draw the U with its upper left corner at (x, y): down on the left, up on the right, skips as dashed arrows.

    Args:
        canvas: to draw on.
        traced: from `unet_trace`.
        x, y: upper left corner.
        row: distance of levels.
        bar: width of a part.

    Returns:
        (width, height, entry, exit): its size, and the points where the latent goes in and comes out.
    """
    layout = _unet_layout(traced, x, y, row, bar)
    for level in range(len(traced.down)):
        _draw_level(canvas, layout, level)
    bottom = _draw_middle(canvas, layout, traced.middle)
    middle = y + layout.part_height / 2
    right = layout.up_x[-1] + layout.step * len(layout.up[-1]) - 3
    return right - x, bottom - y, (x, middle), (right, middle)


def _draw_level(canvas: Canvas, layout: UNetLayout, level: int) -> None:
    """The parts of a level on both sides, its skips and parameter count, and the arrows to the level below."""
    mirror = len(layout.up) - 1 - level
    down = layout.down[level]
    up = layout.up[mirror]
    down_x = layout.down_x[level]
    up_x = layout.up_x[mirror]
    top = layout.top(level)
    bottom = top + layout.part_height
    _draw_parts(canvas, layout, down, down_x, top)
    _draw_parts(canvas, layout, up, up_x, top)
    _draw_skips(canvas, down, down_x + layout.step * len(down) - 3, up_x, top + 0.5 * layout.part_height)
    canvas.text(down_x - 8, top + layout.part_height / 2, _level_text(down, up), 7, align="right", colour=LINE)
    if level + 1 < len(layout.down):
        below = layout.top(level + 1)
        into = down_x + layout.step * (len(down) - 1) + layout.bar / 2
        back = up_x + layout.bar / 2
        canvas.arrow((into, bottom + 1), (into, below - 1))
        canvas.arrow((back, below - 1), (back, bottom + 1))


def _draw_middle(canvas: Canvas, layout: UNetLayout, parts: list[Traced]) -> float:
    """The parts below the last level with their parameter count; returns the lower edge of the diagram."""
    top = layout.top(len(layout.down))
    _draw_parts(canvas, layout, parts, layout.middle_x, top)
    above = layout.top(len(layout.down) - 1) + layout.part_height + 1
    centre = top + layout.part_height / 2
    into = layout.down_x[-1] + layout.step * (len(layout.down[-1]) - 1) + layout.bar / 2
    back = layout.up_x[0] + layout.bar / 2
    end = layout.middle_x + layout.step * len(parts) - 3
    canvas.arrow((into, above), (into, centre), (layout.middle_x - 1, centre))
    canvas.arrow((end + 1, centre), (back, centre), (back, above))
    count = sum(call.parameters for call in parts)
    bottom = top + layout.part_height
    canvas.text((layout.middle_x + end) / 2, bottom + 12, f"{count / 1e6:.3g} M", 7, colour=LINE)
    return bottom + 20


def _draw_parts(canvas: Canvas, layout: UNetLayout, parts: list[Traced], x: float, y: float) -> None:
    for index, call in enumerate(parts):
        default = "data" if call.name in ("stem", "head") else "convolution"
        fill = CLASS_FILLS.get(call.class_name, default)
        canvas.box(x + index * layout.step, y, layout.bar, layout.part_height, fill=fill)


def _draw_skips(canvas: Canvas, down: list[Traced], start: float, end: float, y: float) -> None:
    """The skip connections of a level: its input and the outputs of its blocks, which go to the upward blocks."""
    blocks = [call for call in down if "resample" not in call.name]
    shapes = [blocks[0].output if blocks[0].name == "stem" else blocks[0].inputs[0]]
    shapes += [call.output for call in blocks if "residual" in call.name]
    widths = " and ".join(f"{width:,}" for width in sorted({shape[1] for shape in shapes}))
    canvas.arrow((start + 3, y), (end - 2, y), dashed=True, colour=SOFT)
    canvas.text((start + end) / 2, y - 9, shape_text(blocks[-1].output), 7.5, colour=LINE)
    canvas.text((start + end) / 2, y + 9, f"{len(shapes)} skips: {widths}", 7, colour=SOFT)


def _level_text(down: list[Traced], up: list[Traced]) -> str:
    count = sum(call.parameters for call in (*down, *up))
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"
