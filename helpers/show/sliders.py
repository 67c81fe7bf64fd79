"""Sliders that move pictures with and without a kernel: in JupyterLab, on a rendered page, and under a test.

Every frame is drawn beforehand and the browser alone links slider and picture, so no Python runs when it moves.
"""

import base64
import html
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from helpers.show.figures import SHARPNESS, TILE, png_bytes, to_rgb_array

Frame = Figure | np.ndarray | Any  # a matplotlib figure, or one picture (C, H, W) as for `to_rgb_array`


class PictureSlider(widgets.VBox):
    """A slider above a stack of pictures; its text form is its description, the same on every machine."""

    def __init__(self, slider: widgets.SelectionSlider, stack: widgets.Stack, alt: str, still: bytes) -> None:
        super().__init__([slider, stack])
        self.alt = alt
        self.still = still

    def __repr__(self) -> str:
        return f"Slider: {self.alt}"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add one still frame: what a reader sees where widgets are not rendered at all."""
        data = super()._repr_mimebundle_(**kwargs)
        data["image/png"] = base64.b64encode(self.still).decode()
        data["text/plain"] = repr(self)
        return data, {"image/png": {"alt": self.alt, "width": _width(self.still)}}


def image_slider(
    frames: Sequence[Frame],
    labels: Sequence[str],
    description: str,
    *,
    alt: str,
    start: int = 0,
) -> PictureSlider:
    """Show one of several frames, chosen with a slider.

    Args:
        frames: matplotlib figures (closed here) or single pictures (C, H, W), uint8 or floats in [-1, 1].
        labels: one word or number for each frame, shown beside the slider.
        description: what the slider changes, such as "t".
        alt: what to see as it moves; each frame's own description ends with its label.
        start: the frame shown first, and where only a still can be shown.

    Raises:
        ValueError: if there are fewer than two frames, not one label for each, equal labels, or no description.
    """
    labels = [str(label) for label in labels]
    if len(frames) < 2 or len(frames) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(
            f"a slider needs two or more frames and a different label for each: {len(frames)} frames, labels {labels}"
        )
    alt = " ".join(alt.split())
    if not alt:
        raise ValueError('a slider needs a description: image_slider(..., alt="what to see as it moves")')
    pictures = [_png(frame) for frame in frames]
    tiles = [_tile(png, f"{alt} ({description} {label})") for png, label in zip(pictures, labels)]
    slider = widgets.SelectionSlider(
        options=labels, index=start, description=description, layout=widgets.Layout(width="min(480px, 100%)")
    )
    stack = widgets.Stack(tiles, selected_index=start)
    link = widgets.jslink((slider, "index"), (stack, "selected_index"))
    widget = PictureSlider(slider, stack, alt, pictures[start])
    widget.link = link  # keeps the link alive as long as the widget
    return widget


def _tile(png: bytes, alt: str) -> widgets.HTML:
    """A picture with a description: `widgets.Image` has no place for one."""
    style = "max-width: 100%; height: auto; border-radius: 4px"
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return widgets.HTML(f'<img alt="{html.escape(alt)}" width="{_width(png)}" style="{style}" src="{source}">')


def _png(frame: Frame) -> bytes:
    if isinstance(frame, Figure):
        png = png_bytes(frame)
        plt.close(frame)
        return png
    (picture,) = to_rgb_array(frame)  # (H, W, 3)
    enlarge = max(1, 2 * TILE * SHARPNESS // picture.shape[1])  # small pictures grow by a whole number, unblurred
    picture = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def _width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big") // SHARPNESS
