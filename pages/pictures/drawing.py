"""What the small diagrams of the notebooks share: width, colours, a few shapes, and files of few bytes."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.patches import FancyBboxPatch, Polygon
from PIL import Image

from helpers.data.toy_faces import draw_face, sample_attributes
from helpers.show.diagrams import LINE, Canvas
from helpers.show.figures import INK, PAPER, SHARPNESS

WIDTH = 720  # page pixels, the width of a page's column
BLUE = "#0b6fb8"
ORANGE = "#c2410c"
GREEN = "#0f7a5c"
PURPLE = "#a3308f"
PALE = {BLUE: "#d6e8f6", ORANGE: "#fbe0d2", GREEN: "#d3ece3", PURPLE: "#f3dcef"}  # the same colours as a ground
GREY = "#eceff2"
EXACT = 96  # colours that a stored diagram keeps as they are, the most frequent ones
OTHERS = 160  # colours that stand for all the rest, where there are small images
FEW_OTHERS = 32  # and where there are only lines and letters


def save_diagram(canvas: Canvas, path: Path) -> None:
    """Write a diagram as a PNG file of at most 256 colours; flat areas keep theirs, small images share the others."""
    raw = BytesIO()
    packed = BytesIO()
    canvas.figure.savefig(raw, format="rgba", dpi=100 * SHARPNESS)
    width, height = (round(100 * SHARPNESS * inches) for inches in canvas.figure.get_size_inches())
    image = Image.frombytes("RGBA", (width, height), raw.getvalue()).convert("RGB")
    others = OTHERS if any(axes.images for axes in canvas.figure.axes) else FEW_OTHERS
    _reduced(np.asarray(image), others).save(packed, format="PNG", optimize=True)
    path.write_bytes(packed.getvalue())


def _reduced(pixels: np.ndarray, others: int) -> Image.Image:
    """An image (H, W, 3) in few colours: the most frequent ones as they are, and the nearest of `others` more."""
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colours, which, counts = np.unique(packed, return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:EXACT]
    places = np.full(len(colours), EXACT, dtype=np.uint8)  # in the palette; EXACT: not one of the frequent colours
    places[frequent] = np.arange(len(frequent))
    indices = places[which].reshape(packed.shape)
    palette = [byte for colour in colours[frequent].tolist() for byte in colour.to_bytes(3, "big")]
    other = indices == EXACT
    if other.any():
        nearest, few = _nearest_of_few(Image.fromarray(pixels[other][None]), others)
        indices[other] = EXACT + nearest
        palette += few
    reduced = Image.fromarray(indices)
    reduced.putpalette(palette)
    return reduced


def _nearest_of_few(image: Image.Image, count: int) -> tuple[np.ndarray, list[int]]:
    """For each pixel of an image of one row a place in a palette, and the palette: common colours and rare ones."""
    palette: list[int] = []
    for method in (Image.Quantize.MEDIANCUT, Image.Quantize.MAXCOVERAGE):
        part = image.quantize(count // 2, method=method).getpalette() or []
        palette += part[: 3 * (count // 2)]
    known = len(palette) // 3
    holder = Image.new("P", (1, 1))
    holder.putpalette(palette + palette[:3] * (256 - known))
    nearest = np.asarray(image.quantize(palette=holder, dither=Image.Dither.NONE))[0]
    return np.where(nearest < known, nearest, 0), palette


def synthetic_face(size: int, seed: int, **fixed: str | bool) -> np.ndarray:
    """A face of the course's synthetic dataset, uint8 (3, size, size)."""
    return draw_face(sample_attributes(np.random.default_rng(seed), **fixed), size)


def tinted_box(
    canvas: Canvas,
    x: float,
    y: float,
    w: float,
    h: float,
    text: str = "",
    *,
    ground: str = GREY,
    edge: str = LINE,
    ink: str = INK,
    size: float = 9,
    bold: bool = False,
    dashed: bool = False,
) -> None:
    """A rounded box in any colour, with text in its middle."""
    canvas.axes.add_patch(
        FancyBboxPatch(
            (x, y),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=5",
            linewidth=1.1,
            facecolor=ground,
            edgecolor=edge,
            linestyle=(0, (4, 3)) if dashed else "solid",
            zorder=2,
        )
    )
    write(canvas, x + w / 2, y + h / 2, text, size, ink, bold=bold)


def trapezoid(
    canvas: Canvas,
    x: float,
    y: float,
    w: float,
    left: float,
    right: float,
    text: str = "",
    *,
    ground: str = GREY,
    edge: str = LINE,
    ink: str = INK,
    size: float = 9,
    bold: bool = False,
) -> None:
    """An encoder (high on the left) or a decoder (high on the right), centred vertically on y."""
    corners = [(x, y - left / 2), (x + w, y - right / 2), (x + w, y + right / 2), (x, y + left / 2)]
    shape = Polygon(corners, closed=True, facecolor=ground, edgecolor=edge, linewidth=1.1, joinstyle="round", zorder=2)
    canvas.axes.add_patch(shape)
    write(canvas, x + w / 2, y, text, size, ink, bold=bold)


def write(
    canvas: Canvas,
    x: float,
    y: float,
    text: str,
    size: float = 9,
    ink: str = INK,
    *,
    align: str = "center",
    bold: bool = False,
) -> None:
    """Text above everything else, one line or several, centred vertically on y by their baselines."""
    em = size * 100 / 72  # page pixels
    lines = text.split("\n")
    for i, line in enumerate(lines):
        middle = y + 1.3 * em * (i - (len(lines) - 1) / 2)
        canvas.axes.text(
            x,
            middle + 0.33 * em,
            line,
            size=size,
            ha=align,
            va="baseline",
            color=ink,
            weight="bold" if bold else "normal",
            zorder=6,
        )


def frame_image(canvas: Canvas, x: float, y: float, w: float, h: float, colour: str, width: float = 1.6) -> None:
    """A coloured line around an image."""
    canvas.axes.plot([x, x + w, x + w, x, x], [y, y, y + h, y + h, y], color=colour, lw=width, zorder=5)


def faded(image: np.ndarray, strength: float = 0.7) -> np.ndarray:
    """An image in pale grey, uint8 (3, H, W): there, but not the subject."""
    grey = image.astype(float).mean(axis=0, keepdims=True)
    white = np.array([int(PAPER[i : i + 2], 16) for i in (1, 3, 5)]).reshape(3, 1, 1)
    return np.round(strength * white + (1 - strength) * np.repeat(grey, 3, axis=0)).astype(np.uint8)


def listed(names: Sequence[str]) -> str:
    """Names as a part of a sentence: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
