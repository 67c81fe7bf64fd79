"""Detected objects on an image: boxes, masks and names, readable on any image and at any size."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from contourpy import contour_generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from helpers.show.figures import Images, to_rgb_array

COLOURS = ("#ffd60a", "#4cc9f0", "#ff5db1", "#8ae234", "#ff9f1c", "#c8a2ff")  # light: black letters are legible on each
SMALLEST_SIDE = 512  # pixels up to which small images are enlarged: letters need room
LINES_PER_SIDE = 200  # the longer side is this many lines thick
LETTERS_PER_SIDE = 28
SMALLEST_LETTERS = 15  # pixels
TINT = 0.25  # opacity of a mask


class Rectangle(NamedTuple):
    """Pixels of a drawing; right and bottom lie outside."""

    left: int
    top: int
    right: int
    bottom: int

    def overlap(self, other: "Rectangle") -> int:
        """The area that two rectangles share, in pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0, width) * max(0, height)

    @property
    def area(self) -> int:
        """In pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


def annotate(image: Image.Image | Images, objects: Sequence[Any]) -> Image.Image:
    """Draw the objects on a copy of an image, each in a colour of its own; small images are enlarged first.

    Args:
        image: a PIL image, or (3, H, W) as for `to_rgb_array`.
        objects: each with a `name`, a `box` (left, top, right, bottom as fractions of the image's sides), and where
            there is one a `mask`, (H, W) in [0, 1]; for instance the detections and segments of PaliGemma.

    Returns:
        an RGB image whose longer side has at least 512 pixels.
    """
    rgb = image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(to_rgb_array(image)[0])
    factor = -(-SMALLEST_SIDE // max(rgb.size))  # 1 for large images
    drawing = rgb.resize((rgb.width * factor, rgb.height * factor), Image.Resampling.LANCZOS)
    boxes = [_to_pixels(each.box, drawing.size) for each in objects]
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(objects))]
    for each, colour in zip(objects, colours, strict=True):
        if getattr(each, "mask", None) is not None:
            _draw_mask(drawing, each.mask, colour)
    for box, colour in zip(boxes, colours, strict=True):
        _draw_box(drawing, box, colour)
    _draw_names(drawing, [each.name for each in objects], boxes, colours)
    return drawing


def _to_pixels(box: Sequence[float], size: tuple[int, int]) -> Rectangle:
    width, height = size
    left, top, right, bottom = box
    return Rectangle(round(left * width), round(top * height), round(right * width), round(bottom * height))


def _thickness(drawing: Image.Image) -> int:
    """Of lines, in pixels."""
    return max(2, round(max(drawing.size) / LINES_PER_SIDE))


def _draw_box(drawing: Image.Image, box: Rectangle, colour: str) -> None:
    """A coloured frame between two dark ones: one of them stands out on every image."""
    thickness = _thickness(drawing)
    draw = ImageDraw.Draw(drawing)
    last = (box.left, box.top, max(box.left, box.right - 1), max(box.top, box.bottom - 1))
    draw.rectangle((last[0] - 1, last[1] - 1, last[2] + 1, last[3] + 1), outline="black", width=thickness + 2)
    draw.rectangle(last, outline=colour, width=thickness)


def _draw_mask(drawing: Image.Image, mask: Any, colour: str) -> None:
    """A tint inside, and an outline where the probability crosses one half."""
    probabilities = np.asarray(mask, dtype=np.float32)
    levels = Image.fromarray((probabilities * 255).round().astype(np.uint8))
    smooth = levels.resize(drawing.size, Image.Resampling.BICUBIC)
    drawing.paste(colour, mask=smooth.point([round(TINT * 255 * (level > 127)) for level in range(256)]))
    thickness = _thickness(drawing)
    drawing.paste("black", mask=_outline(smooth, thickness + 2))
    drawing.paste(colour, mask=_outline(smooth, thickness))


def _outline(levels: Image.Image, thickness: int) -> Image.Image:
    """The border of a mask of grey levels: opaque along a line."""
    opacity = Image.new("L", levels.size)
    draw = ImageDraw.Draw(opacity)
    padded = np.pad(np.asarray(levels, dtype=np.float32), 1)  # so that all lines are closed
    lines: Any = contour_generator(z=padded).lines(127.5)
    for line in lines:
        draw.line([(float(x) - 1, float(y) - 1) for x, y in line], fill=255, width=thickness, joint="curve")
    return opacity.filter(ImageFilter.GaussianBlur(0.7))


# --- names ------------------------------------------------------------------------------------------------------------


@lru_cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which ships with matplotlib: the same letters on every machine."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", pixels)


def _draw_names(drawing: Image.Image, names: Sequence[str], boxes: Sequence[Rectangle], colours: Sequence[str]) -> None:
    """Each name on a label in its object's colour, where it hides least of other labels and of the objects."""
    font = _font(max(SMALLEST_LETTERS, round(max(drawing.size) / LETTERS_PER_SIDE)))
    draw = ImageDraw.Draw(drawing)
    ascent, descent = font.getmetrics()
    margin = descent
    labels: list[Rectangle] = []
    for name, box, colour in zip(names, boxes, colours, strict=True):
        if not name:
            continue
        name = _shortened(name, font, drawing.width - 2 * margin)
        size = (round(font.getlength(name)) + 2 * margin, ascent + descent)
        label = _place_label(box, size, drawing.size, labels, boxes)
        labels.append(label)
        draw.rectangle((label.left, label.top, label.right - 1, label.bottom - 1), fill=colour, outline="black")
        draw.text((label.left + margin, label.top), name, fill="black", font=font)


def _shortened(name: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The name, or as much of it as fits into so many pixels."""
    shown = name
    while len(shown) > 1 and font.getlength(shown) > width:
        name = name[:-1]
        shown = f"{name}…"
    return shown


def _place_label(
    box: Rectangle,
    size: tuple[int, int],
    canvas: tuple[int, int],
    labels: Sequence[Rectangle],
    boxes: Sequence[Rectangle],
) -> Rectangle:
    """Above the box, below it, beside it or in it, inside the canvas: where it covers least."""
    width, height = size
    corners = [
        (box.left, box.top - height),
        (box.left, box.bottom),
        (box.right - width, box.top - height),
        (box.right - width, box.bottom),
        (box.right, box.top),
        (box.left - width, box.top),
        (box.left, box.top),
    ]
    candidates = []
    for x, y in corners:
        left = max(0, min(x, canvas[0] - width))
        top = max(0, min(y, canvas[1] - height))
        candidates.append(Rectangle(left, top, left + width, top + height))
    return min(candidates, key=lambda label: _hidden(label, labels, boxes))


def _hidden(label: Rectangle, labels: Sequence[Rectangle], boxes: Sequence[Rectangle]) -> float:
    """What a label covers, in its own area: other labels, which matter most, and shares of the objects' boxes."""
    of_labels = sum(label.overlap(other) for other in labels) / label.area
    of_boxes = sum(label.overlap(box) / max(1, box.area) for box in boxes)
    return 10 * of_labels + of_boxes
