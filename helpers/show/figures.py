"""Figures with a description, legible on light and dark pages, and byte for byte the same on every run.

A notebook's figure cell ends in `show(figure, alt="what to see")`. Images are (N, C, H, W), C = 1 or 3, uint8 or floats
in [-1, 1], as torch tensors (on any device) or numpy arrays.
"""

import base64
import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from PIL import Image

from helpers.show.bars import bar_table, bars
from helpers.show.tables import table

__all__ = [
    "STYLE",
    "bar_table",
    "bars",
    "compare",
    "grid",
    "png_bytes",
    "save_png",
    "show",
    "style",
    "table",
    "to_rgb_array",
]

Images = Any  # np.ndarray or torch.Tensor: torch is not imported here, so that showing stays light

INK = "#1b1f24"
PAPER = "#ffffff"
PALETTE = ("#0b6fb8", "#c2410c", "#0f7a5c", "#a3308f", "#7a5b00", "#5b4bc4")  # each at least 4.5 : 1 on paper

# A figure has a white background: on a dark page it is a light card, so nothing in it can vanish into the page.
STYLE: dict[Any, Any] = {  # keys are rcParams, which matplotlib's stubs list one by one
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.prop_cycle": plt.cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.figsize": (7.2, 3.2),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "image.interpolation": "nearest",
    "image.cmap": "gray",
    "svg.hashsalt": "course",
}

SHARPNESS = 2  # image pixels per page pixel: sharp on high-density screens
PAGE_WIDTH = 720  # page pixels of the widest grid
TILE = 112  # of the widest automatic tile
GAP = 6
LINE = 18  # of text


def style() -> None:
    """Make `STYLE` the default of every later matplotlib figure in this process."""
    plt.rcParams.update(STYLE)


def to_rgb_array(images: Images) -> np.ndarray:
    """Convert images to the RGB bytes that a screen shows.

    Args:
        images: (N, C, H, W) or one (C, H, W), C = 1 or 3; uint8, or floats in [-1, 1] (clipped).

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        ValueError: for another shape, for NaN or infinity, and for floats that look like a 0..255 scale.
    """
    array = images.detach().cpu().float().numpy() if _is_float_tensor(images) else np.asarray(images)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"images must be (N, 3, H, W) or (N, 1, H, W), got {tuple(array.shape)}")
    if array.dtype != np.uint8:
        array = _from_floats(array)
    array = array.transpose(0, 2, 3, 1)  # (N, H, W, C)
    return np.repeat(array, 3, axis=3) if array.shape[3] == 1 else array


def grid(
    images: Images,
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    scale: float | None = None,
    alt: str | None = None,
) -> Figure:
    """Lay images out in rows, left to right.

    Args:
        images: (N, C, H, W) or (C, H, W), as for `to_rgb_array`.
        columns: images per row; by default as many as fit.
        titles: a short line above each image.
        scale: page pixels per image pixel; by default as large as fits, never blurred.
        alt: what to see, kept for `show`.

    Raises:
        ValueError: if there is no image, or not a title for each.
    """
    tiles = to_rgb_array(images)  # (N, H, W, 3)
    if not len(tiles):
        raise ValueError("grid needs at least one image, got none")
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"grid needs one title for each image: {len(titles)} titles, {len(tiles)} images")
    columns = min(columns or 8, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    row_titles = None
    if titles is not None:
        row_titles = [list(titles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return _mosaic(rows, row_titles, None, scale, alt)


def compare(
    rows: Mapping[str, Images],
    titles: Sequence[str] | None = None,
    scale: float | None = None,
    alt: str | None = None,
) -> Figure:
    """Lay out named rows of images: the same columns, treated differently.

    Args:
        rows: name -> (N, C, H, W); the images of all rows have the same size, N may differ.
        titles: a short line above each column.
        scale: page pixels per image pixel.
        alt: what to see, kept for `show`.

    Raises:
        ValueError: if there is no row, or rows of different image sizes.
    """
    tiles = [to_rgb_array(images) for images in rows.values()]
    if not tiles:
        raise ValueError("compare needs at least one named row of images, got none")
    if len({row.shape[1:] for row in tiles}) > 1:
        sizes = {name: row.shape[1:3] for name, row in zip(rows, tiles)}
        raise ValueError(f"compare needs images of one size in every row, got {sizes}: resize them first")
    row_titles = [list(titles)] + [[]] * (len(tiles) - 1) if titles else None
    return _mosaic(tiles, row_titles, list(rows), scale, alt)


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure with its description, and close it.

    The description is stored in the output's metadata (where nbconvert and the course pages read it) and is its plain
    text, which is what screen readers and the notebook tests see.

    Args:
        figure: any matplotlib figure.
        alt: one or two sentences that say what to see; may be omitted if `grid` or `compare` got it.

    Raises:
        ValueError: if there is no description.
    """
    from IPython.display import display

    alt = describe(figure, alt)
    png = png_bytes(figure)
    width = page_width(png)
    plt.close(figure)
    display(
        {"image/png": base64.b64encode(png).decode(), "text/plain": alt},
        metadata={"image/png": {"alt": alt, "width": width}},
        raw=True,
    )


def describe(figure: Figure, alt: str | None = None) -> str:
    """Return the figure's description on a single line.

    Raises:
        ValueError: if there is none.
    """
    alt = " ".join((alt or getattr(figure, "alt", None) or "").split())
    if not alt:
        raise ValueError('a figure needs a description: show(figure, alt="what to see in it")')
    return alt


def png_bytes(figure: Figure) -> bytes:
    """Render the figure as PNG, `SHARPNESS` times its page size, without dates or versions: equal figures, equal bytes.

    Lines and text are reduced to 256 colours, a third of the bytes; images and heat maps keep all of theirs.
    """
    raw = BytesIO()
    packed = BytesIO()
    figure.savefig(raw, format="png", dpi=100 * SHARPNESS, metadata={"Software": None})
    image = Image.open(raw).convert("RGB")
    if not any(map(_has_pixels, figure.axes)):
        image = image.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def _has_pixels(axes: Axes) -> bool:
    """Whether axes show images or heat maps, which may have more than 256 colours."""
    return bool(axes.images) or any(isinstance(collection, QuadMesh) for collection in axes.collections)


def save_png(figure: Figure, path: str | Path) -> Path:
    """Write the figure to a PNG file, completely or not at all, and close it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + f".{os.getpid()}.part")
    unfinished.write_bytes(png_bytes(figure))
    unfinished.replace(path)
    plt.close(figure)
    return path


def _is_float_tensor(images: Images) -> bool:
    return hasattr(images, "detach") and images.is_floating_point()


def _from_floats(array: np.ndarray) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images must be uint8 or floats in [-1, 1], got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("images contain NaN or infinity: check the step that computed them")
    if np.abs(array).max(initial=0) > 50:
        worst = np.abs(array).max()
        raise ValueError(f"float images must be in [-1, 1], got values up to {worst:.0f}; convert 0..255 to uint8")
    return np.round((array.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


class DescribedFigure(Figure):
    """A figure with a description; built to the pixel, so matplotlib does not move anything in it."""

    alt: str | None = None


def blank_figure(width: float, height: float, alt: str | None) -> DescribedFigure:
    """An empty figure of this size in page pixels, for layouts that are computed to the pixel."""
    figure = DescribedFigure(
        figsize=(width / 100, height / 100),
        dpi=100,
        facecolor=PAPER,
        layout="none",  # type: ignore[arg-type]  # matplotlib documents "none", its stubs lack it
    )
    figure.alt = alt
    return figure


class Mosaic(NamedTuple):
    """Where the tiles of a mosaic lie, in page pixels."""

    tile_width: float
    tile_height: float
    left: float  # of the first column, after the names
    tops: list[float]  # of each row's tiles
    width: float
    height: float


def _mosaic(
    rows: Sequence[np.ndarray],
    titles: Sequence[Sequence[str]] | None,
    names: Sequence[str] | None,
    scale: float | None,
    alt: str | None,
) -> Figure:
    """Place every tile to the pixel: matplotlib's own layouts resample images to odd sizes."""
    titles = titles or [[]] * len(rows)
    layout = _mosaic_layout(rows, titles, names, scale)
    figure = blank_figure(layout.width, layout.height, alt)
    for r, row in enumerate(rows):
        top = layout.tops[r]
        for c, tile in enumerate(row):
            x = layout.left + c * (layout.tile_width + GAP)
            bottom = 1 - (top + layout.tile_height) / layout.height
            size = (layout.tile_width / layout.width, layout.tile_height / layout.height)
            axes = figure.add_axes((x / layout.width, bottom, *size))
            axes.imshow(tile, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if c < len(titles[r]):
                middle = (x + layout.tile_width / 2) / layout.width
                above = 1 - (top - 4) / layout.height
                figure.text(middle, above, titles[r][c], size=9, color=INK, ha="center", va="bottom")
        if names:
            middle = 1 - (top + layout.tile_height / 2) / layout.height
            figure.text(8 / layout.width, middle, names[r], size=9, color=INK, va="center")
    return figure


def _mosaic_layout(
    rows: Sequence[np.ndarray], titles: Sequence[Sequence[str]], names: Sequence[str] | None, scale: float | None
) -> Mosaic:
    columns = max(map(len, rows))
    height, width = rows[0].shape[1:3]
    lines = "\n".join(names or []).split("\n")
    left = 16 + 7 * max(map(len, lines)) if names else 0  # about 7 page pixels per letter, and a gap
    available = (PAGE_WIDTH - left - GAP) / columns - GAP
    scale = scale or _whole(min(TILE, available) / width)
    tile_width = width * scale
    tile_height = height * scale
    title_heights = [LINE if row_titles else 0 for row_titles in titles]
    tops = []
    y: float = GAP
    for title_height in title_heights:
        tops.append(y + title_height)
        y += title_height + tile_height + GAP
    total_width = left + GAP + columns * (tile_width + GAP)
    total_height = GAP + sum(title_height + tile_height + GAP for title_height in title_heights)
    return Mosaic(tile_width, tile_height, left + GAP, tops, total_width, total_height)


def _whole(scale: float) -> float:
    """Enlarge by whole numbers and shrink by whole fractions, so that every image pixel gets the same area."""
    return float(math.floor(scale)) if scale >= 1 else 1 / math.ceil(1 / scale)


def page_width(png: bytes) -> int:
    """The width at which a page shows a PNG file: that of its IHDR chunk, divided by `SHARPNESS`."""
    return int.from_bytes(png[16:20], "big") // SHARPNESS
