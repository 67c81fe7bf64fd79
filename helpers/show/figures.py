"""Figures that carry a description, stay legible on light and dark pages, and are the same bytes every time.

A notebook's figure cell ends in `show(figure, alt="what to see")`. Pictures come as (N, C, H, W), C = 1 or 3,
either uint8 or floats in [-1, 1]; torch tensors (on any device) and numpy arrays are both welcome.
"""

import base64
import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
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

# A figure brings its own paper: on a dark page it is a light card, so nothing in it can vanish into the page.
STYLE: dict[str, Any] = {
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

SHARPNESS = 2  # picture pixels per page pixel: sharp on high-density screens
PAGE_WIDTH = 720  # page pixels of the widest grid
TILE = 112  # of the widest automatic tile
GAP = 6
LINE = 18  # of text


def style() -> None:
    """Make `STYLE` the default of every later matplotlib figure in this process."""
    plt.rcParams.update(STYLE)


def to_rgb_array(images: Images) -> np.ndarray:
    """Turn pictures into what a screen shows.

    Args:
        images: (N, C, H, W) or one (C, H, W), C = 1 or 3; uint8, or floats in [-1, 1] (clipped to it).

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        ValueError: on another shape, on NaN or infinity, or on floats that must be on a 0..255 scale.
    """
    array = images.detach().cpu().float().numpy() if _is_float_tensor(images) else np.asarray(images)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise ValueError(f"pictures must be (N, 3, H, W) or (N, 1, H, W), got {tuple(array.shape)}")
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
    """Lay pictures out in rows, left to right.

    Args:
        images: (N, C, H, W) or (C, H, W), as for `to_rgb_array`.
        columns: pictures in a row; by default as many as fit.
        titles: one short line above each picture.
        scale: page pixels per picture pixel; by default as large as fits, never blurred.
        alt: what to see, kept for `show`.

    Raises:
        ValueError: if there is no picture, or not one title for each.
    """
    tiles = to_rgb_array(images)  # (N, H, W, 3)
    if not len(tiles):
        raise ValueError("grid needs at least one picture, got none")
    if titles is not None and len(titles) != len(tiles):
        raise ValueError(f"grid needs one title for each picture: {len(titles)} titles, {len(tiles)} pictures")
    columns = min(columns or 8, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    words = [list(titles[start : start + columns]) for start in range(0, len(tiles), columns)] if titles else None
    return _mosaic(rows, words, None, scale, alt)


def compare(
    rows: Mapping[str, Images],
    titles: Sequence[str] | None = None,
    scale: float | None = None,
    alt: str | None = None,
) -> Figure:
    """Lay named rows of pictures below one another: the same columns, treated differently.

    Args:
        rows: name -> (N, C, H, W); the pictures of all rows have one size, N may differ.
        titles: one short line above each column.
        scale: page pixels per picture pixel.
        alt: what to see, kept for `show`.

    Raises:
        ValueError: if there is no row, or rows of different picture sizes.
    """
    tiles = [to_rgb_array(images) for images in rows.values()]
    if not tiles:
        raise ValueError("compare needs at least one named row of pictures, got none")
    if len({row.shape[1:] for row in tiles}) > 1:
        sizes = {name: row.shape[1:3] for name, row in zip(rows, tiles)}
        raise ValueError(f"compare needs pictures of one size in every row, got {sizes}: resize them first")
    words = [list(titles)] + [[]] * (len(tiles) - 1) if titles else None
    return _mosaic(tiles, words, list(rows), scale, alt)


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure with its description, and close it.

    The description travels in the output's metadata (where nbconvert and the course pages read it) and is the
    output's plain text, so that a reader without pictures, and the notebook test, get the words.

    Args:
        figure: any matplotlib figure.
        alt: one or two sentences that say what to see; may be left out where `grid` or `compare` were told.

    Raises:
        ValueError: if there is no description.
    """
    from IPython.display import display

    alt = describe(figure, alt)
    png = png_bytes(figure)
    width = _png_width(png) // SHARPNESS
    plt.close(figure)
    display(
        {"image/png": base64.b64encode(png).decode(), "text/plain": alt},
        metadata={"image/png": {"alt": alt, "width": width}},
        raw=True,
    )


def describe(figure: Figure, alt: str | None = None) -> str:
    """The figure's description on one line.

    Raises:
        ValueError: if there is none.
    """
    alt = " ".join((alt or getattr(figure, "alt", None) or "").split())
    if not alt:
        raise ValueError('a figure needs a description: show(figure, alt="what to see in it")')
    return alt


def png_bytes(figure: Figure) -> bytes:
    """The figure as PNG, `SHARPNESS` times its page size, without dates or versions: equal figures, equal bytes.

    Lines and words need 256 colours at most, which takes a third of the room; pictures and heat maps keep every one.
    """
    raw = BytesIO()
    packed = BytesIO()
    figure.savefig(raw, format="png", dpi=100 * SHARPNESS, metadata={"Software": None})
    drawn = Image.open(raw).convert("RGB")
    if not any(axes.images or any(isinstance(c, QuadMesh) for c in axes.collections) for axes in figure.axes):
        drawn = drawn.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    drawn.save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def save_png(figure: Figure, path: str | Path) -> Path:
    """Write the figure to a PNG file, whole or not at all, and close it."""
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
        raise ValueError(f"pictures must be uint8 or floats in [-1, 1], got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError("pictures hold NaN or infinity: look at the step that made them")
    if np.abs(array).max(initial=0) > 50:
        worst = np.abs(array).max()
        raise ValueError(f"float pictures must be in [-1, 1], got values up to {worst:.0f}; make 0..255 uint8")
    return np.round((array.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def _mosaic(
    rows: Sequence[np.ndarray],
    words: Sequence[Sequence[str]] | None,
    names: Sequence[str] | None,
    scale: float | None,
    alt: str | None,
) -> Figure:
    """Place every tile to the pixel: matplotlib's own layouts resample pictures to odd sizes."""
    columns = max(map(len, rows))
    height, width = rows[0].shape[1:3]
    left = 8 + 7 * max(map(len, names)) if names else 0  # about 7 page pixels per letter
    fits = (PAGE_WIDTH - left - GAP) / columns - GAP
    scale = scale or _whole(min(TILE, fits) / width)
    tile_w = width * scale
    tile_h = height * scale
    heads = [LINE if words and words[r] else 0 for r in range(len(rows))]
    total_w = left + GAP + columns * (tile_w + GAP)
    total_h = GAP + sum(head + tile_h + GAP for head in heads)
    figure = Figure(figsize=(total_w / 100, total_h / 100), dpi=100, facecolor=PAPER, layout="none")
    top = GAP
    for r, row in enumerate(rows):
        top += heads[r]
        for c, tile in enumerate(row):
            x = left + GAP + c * (tile_w + GAP)
            axes = figure.add_axes((x / total_w, 1 - (top + tile_h) / total_h, tile_w / total_w, tile_h / total_h))
            axes.imshow(tile, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            if heads[r] and c < len(words[r]):
                middle = (x + tile_w / 2) / total_w
                figure.text(middle, 1 - (top - 4) / total_h, words[r][c], size=9, color=INK, ha="center", va="bottom")
        if names:
            figure.text(8 / total_w, 1 - (top + tile_h / 2) / total_h, names[r], size=9, color=INK, va="center")
        top += tile_h + GAP
    figure.alt = alt
    return figure


def _whole(scale: float) -> float:
    """Enlarge by whole numbers and shrink by whole fractions: every picture pixel gets the same area."""
    return float(math.floor(scale)) if scale >= 1 else 1 / math.ceil(1 / scale)


def _png_width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")  # the first field of the IHDR chunk
