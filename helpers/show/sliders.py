"""Sliders that choose an image with and without a kernel: in JupyterLab, on a rendered page, and under a test.

Every frame is rendered beforehand and the browser links slider and image, so no Python runs when the slider moves.
"""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from helpers.show.figures import SHARPNESS, TILE, page_width, png_bytes, to_rgb_array
from helpers.show.webp import webp

Frame = Figure | np.ndarray | Any  # a matplotlib figure, or an image (C, H, W) as for `to_rgb_array`


class ImageSlider(widgets.VBox):
    """A slider above a stack of images; its text form is its description, the same on every machine."""

    link: Any  # between slider and stack; it works as long as the widget refers to it

    def __init__(self, slider: widgets.SelectionSlider, stack: widgets.Stack, alt: str, still: bytes) -> None:
        super().__init__([slider, stack])
        self.alt = alt
        self.still = still

    def __repr__(self) -> str:
        return f"Slider: {self.alt}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add a still frame, which is shown where widgets are not rendered."""
        data = super()._repr_mimebundle_(**kwargs)
        data["image/png"] = base64.b64encode(self.still).decode()
        data["text/plain"] = repr(self)
        return data, {"image/png": {"alt": self.alt, "width": page_width(self.still)}}


def image_slider(
    frames: Sequence[Frame],
    labels: Sequence[str],
    description: str,
    *,
    alt: str,
    start: int = 0,
) -> ImageSlider:
    """Show the frame that is chosen with a slider.

    Args:
        frames: matplotlib figures (closed here) or single images (C, H, W), uint8 or floats in [-1, 1].
        labels: a word or number for each frame, shown beside the slider.
        description: what the slider changes, such as "t".
        alt: what can be seen as it moves; each frame's description is this and its label.
        start: index of the frame shown first, and where only a still can be shown.

    Raises:
        ValueError: if there are fewer than two frames, not a different label for each, or no description.
    """
    labels = [str(label) for label in labels]
    if len(frames) < 2 or len(frames) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(
            f"a slider needs two or more frames and a different label for each: {len(frames)} frames, labels {labels}"
        )
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError('a slider needs a description: image_slider(..., alt="what to see as it moves")')
    images = [_png(frame) for frame in frames]
    tiles = [_tile(png, f"{alt} ({description} {label})") for png, label in zip(images, labels)]
    slider = widgets.SelectionSlider(
        options=labels, index=start, description=description, layout=widgets.Layout(width="min(480px, 100%)")
    )
    stack = widgets.Stack(tiles, selected_index=start)
    widget = ImageSlider(slider, stack, alt, images[start])
    widget.link = widgets.jslink((slider, "index"), (stack, "selected_index"))
    return widget


def training_slider(folder: Path, *, alt: str) -> ImageSlider:
    """Show the sample grids of a training, update by update, at twice their size; the last one is shown first.

    Args:
        folder: holds a WebP image for every grid, named by the number of updates before it: `1000.webp`.
        alt: what can be seen as the slider moves, as for `image_slider`.

    Raises:
        ValueError: if the folder holds fewer than two such images, or one whose name is not a number.
    """
    paths = sorted(folder.glob("*.webp"), key=lambda path: int(path.stem))
    frames = [_at_twice_its_size(path) for path in paths]
    return image_slider(frames, [path.stem for path in paths], "update", alt=alt, start=len(paths) - 1)


def _at_twice_its_size(path: Path) -> np.ndarray:
    """An image file, enlarged smoothly: uint8 (3, H, W)."""
    with Image.open(path) as image:
        size = (2 * image.width, 2 * image.height)
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def _tile(png: bytes, alt: str) -> widgets.HTML:
    """An image with a description, which `widgets.Image` has no field for; WebP keeps notebooks small."""
    style = "max-width: 100%; height: auto; border-radius: 4px"
    smaller = webp(png)
    subtype = "webp" if smaller else "png"
    source = f"data:image/{subtype};base64,{base64.b64encode(smaller or png).decode()}"
    return widgets.HTML(f'<img alt="{html.escape(alt)}" width="{page_width(png)}" style="{style}" src="{source}">')


def _png(frame: Frame) -> bytes:
    if isinstance(frame, Figure):
        png = png_bytes(frame)
        plt.close(frame)
        return png
    (image,) = to_rgb_array(frame)  # (H, W, 3)
    enlarge = max(1, 2 * TILE * SHARPNESS // image.shape[1])  # small images grow by a whole number, unblurred
    image = image.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
