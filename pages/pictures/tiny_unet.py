"""A diagram of notebook 09: the U-Net of Method 1, its shapes read off a forward pass of the trained network."""

import numpy as np
import torch
import torch.nn.functional as F

from helpers.show.diagrams import LINE, SOFT, Canvas, shape_text, trace
from helpers.show.figures import to_rgb_array
from helpers.tiny_sd.model import TinySD
from pages.pictures.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PALE,
    PURPLE,
    WIDTH,
    frame_image,
    synthetic_face,
    tinted_box,
    write,
)

ALT = (
    "The network of Method 1. A noisy image is patchified into small copies of itself, and goes through a U: three "
    "levels down on the left, the middle at the bottom, three levels up on the right, with dashed skip connections "
    "between the sides. The upper level has residual blocks, the lower ones have attention as well. The detail branch "
    "at the top sees the U-Net's output and the noisy image itself, and outputs the prediction."
)
HEIGHT = 424
SIDE = 84  # of the images, in page pixels
BOX = 92  # width of a level
CENTRE = 386  # of the U
ROWS = (162, 232, 302, 368)  # of the levels and of the middle
PARTS = r"stem|(down|up)\.\d+\.residual\.0|middle\.residual\.1|head|detail"
TIME = 0.35  # of the noisy image


class Pass:
    """One forward pass: the images that go in and come out, and the shapes between them."""

    def __init__(self, model: TinySD, seed: int = 5) -> None:
        face = synthetic_face(model.size, 4, species="cat", fur="orange", background="blue", eyes="green")
        x0 = torch.from_numpy(face).float()[None] / 127.5 - 1
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
        x_t = (1 - TIME) * x0 + TIME * noise
        calls = trace(model.unet, x_t, torch.tensor([TIME]), torch.tensor([0]), parts=PARTS)
        self.shapes = {call.name: call.output for call in calls}
        with torch.no_grad():
            prediction, _ = model.denoiser(torch.tensor([0]), None, guidance_scale=1)(x_t, TIME)
        patches = F.pixel_unshuffle(x_t, model.unet.config.patch)
        self.noisy = _bytes(x_t)
        self.patches = _bytes(_mosaic(patches, model.unet.config.patch))
        self.prediction = _bytes(prediction)
        self.patch_shape = patches.shape
        self.image_shape = x_t.shape
        self.config = model.unet.config


def _bytes(image: torch.Tensor) -> np.ndarray:
    return to_rgb_array(image.clamp(-1, 1))[0].transpose(2, 0, 1)


def _mosaic(patches: torch.Tensor, patch: int) -> torch.Tensor:
    """Patches (1, 3 p p, h, w) as p x p small images beside one another (1, 3, p h, p w)."""
    _, _, height, width = patches.shape
    small = patches.reshape(3, patch, patch, height, width)
    return small.permute(0, 1, 3, 2, 4).reshape(1, 3, patch * height, patch * width)


def draw(model: TinySD) -> Canvas:
    """The network around one noisy image."""
    canvas = Canvas(WIDTH, HEIGHT, ALT)
    through = Pass(model)
    _entry(canvas, through)
    for level in range(len(through.config.widths)):
        _level(canvas, through, level)
    _middle(canvas, through)
    _detail(canvas, through)
    _conditions(canvas, through)
    _legend(canvas)
    return canvas


def _image(canvas: Canvas, x: float, middle: float, image: np.ndarray) -> None:
    canvas.image(x, middle - SIDE / 2, SIDE, SIDE, image)
    frame_image(canvas, x, middle - SIDE / 2, SIDE, SIDE, SOFT, 1)


def _entry(canvas: Canvas, through: Pass) -> None:
    """The noisy image and its patches."""
    y = ROWS[0]
    _image(canvas, 14, y, through.noisy)
    write(canvas, 14 + SIDE / 2, y + 54, "noisy image", 9)
    write(canvas, 14 + SIDE / 2, y + 69, shape_text(through.image_shape), 8.5, LINE)
    canvas.arrow((98, y), (124, y))
    _image(canvas, 126, y, through.patches)
    write(canvas, 126 + SIDE / 2, y + 54, "patchified", 9)
    write(canvas, 126 + SIDE / 2, y + 69, shape_text(through.patch_shape), 8.5, LINE)


def _left(level: int) -> float:
    """The left edge of a level on the way down."""
    return 232 + 20 * level


def _level(canvas: Canvas, through: Pass, level: int) -> None:
    y = ROWS[level]
    down = _left(level)
    up = 2 * CENTRE - down - BOX
    colour = ORANGE if through.config.attention[level] else BLUE
    for x, name in ((down, f"down.{level}.residual.0"), (up, f"up.{level}.residual.0")):
        text = shape_text(through.shapes[name])
        tinted_box(canvas, x, y - 19, BOX, 38, text, ground=PALE[colour], edge=colour, size=8.5)
    canvas.arrow((down + BOX, y), (up - 1, y), dashed=True, colour=SOFT)
    if level == 0:
        canvas.arrow((126 + SIDE, y), (down - 1, y))
    below = ROWS[level + 1] - 20
    if level + 1 < len(through.config.widths):
        canvas.arrow((down + 58, y + 20), (down + 58, below))
        canvas.arrow((up + BOX - 58, below), (up + BOX - 58, y + 20))


def _middle(canvas: Canvas, through: Pass) -> None:
    low = ROWS[-1]
    above = ROWS[-2] + 20
    text = shape_text(through.shapes["middle.residual.1"])
    colour = ORANGE if through.config.attention[-1] else BLUE
    tinted_box(canvas, CENTRE - BOX / 2, low - 19, BOX, 38, text, ground=PALE[colour], edge=colour, size=8.5)
    left = _left(len(through.config.widths) - 1) + 30
    canvas.arrow((left, above), (left, low), (CENTRE - BOX / 2 - 1, low))
    canvas.arrow((CENTRE + BOX / 2, low), (2 * CENTRE - left, low), (2 * CENTRE - left, above))


def _detail(canvas: Canvas, through: Pass) -> None:
    """From the U-Net's output and the noisy image to the prediction."""
    y = 56
    x = 2 * CENTRE - _left(0) - BOX
    middle = x + BOX / 2
    patch = through.config.detail_patch
    side = through.image_shape[-1] // patch
    channels = through.image_shape[1] * patch**2
    canvas.arrow((56, ROWS[0] - SIDE / 2 - 1), (56, y), (x - 13, y))
    write(canvas, 246, y - 11, f"patches of {patch} × {patch}: {channels} × {side} × {side}", 8.5, LINE)
    tinted_box(canvas, x - 12, y - 24, BOX + 24, 48, "detail\nbranch", ground=PALE[GREEN], edge=GREEN, size=10)
    canvas.arrow((middle, ROWS[0] - 20), (middle, y + 26))
    head = f"{through.config.detail_channels} × {side} × {side}"
    write(canvas, middle + 8, (y + ROWS[0] + 4) / 2 - 5, "pixel shuffle:", 8.5, LINE, align="left")
    write(canvas, middle + 8, (y + ROWS[0] + 4) / 2 + 9, head, 8.5, LINE, align="left")
    canvas.arrow((x + BOX + 12, y), (612, y))
    _image(canvas, 614, y, through.prediction)
    write(canvas, 614 + SIDE / 2, y + 54, "prediction", 9)
    write(canvas, 614 + SIDE / 2, y + 69, shape_text(through.image_shape), 8.5, LINE)


def _conditions(canvas: Canvas, through: Pass) -> None:
    tinted_box(canvas, 14, 266, 150, 30, "time and class", ground=PALE[PURPLE], edge=PURPLE, size=9)
    write(canvas, 14, 308, "scale and shift in every block", 8.5, LINE, align="left")
    length = through.config.caption_length
    tinted_box(canvas, 14, 336, 150, 30, f"caption, {length} tokens", ground=PALE[PURPLE], edge=PURPLE, size=9)
    write(canvas, 14, 378, "cross-attention, in orange blocks", 8.5, LINE, align="left")


def _legend(canvas: Canvas) -> None:
    for y, colour, text in ((268, BLUE, "residual block"), (290, ORANGE, "and attention")):
        tinted_box(canvas, 590, y - 8, 20, 16, ground=PALE[colour], edge=colour)
        write(canvas, 618, y, text, 8.5, align="left")
    canvas.arrow((588, 312), (612, 312), dashed=True, colour=SOFT)
    write(canvas, 618, 312, "skip connection", 8.5, align="left")
