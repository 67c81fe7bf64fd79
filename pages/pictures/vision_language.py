"""Diagrams of notebooks 14 and 15: CLIP's loss beside SigLIP's, and a resampler."""

import numpy as np
import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from helpers.show.diagrams import LINE, SOFT, Canvas
from helpers.show.figures import INK
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

LOSSES_ALT = (
    "Two matrices of four images by four captions, from the same similarities. On the left CLIP: each row of "
    "percentages adds up to one hundred, because a softmax compares all captions of an image; one row and one column "
    "are framed. On the right SigLIP: every cell is a percentage of its own, high on the diagonal and low elsewhere, "
    "with the label yes on the diagonal and no elsewhere."
)
CAPTIONS = ("orange cat", "grey dog", "brown lion", "white cat")
FACES = (
    {"species": "cat", "fur": "orange"},
    {"species": "dog", "fur": "grey"},
    {"species": "wild", "fur": "brown"},
    {"species": "cat", "fur": "white"},
)
SIMILARITIES = torch.tensor(  # cosines, made up: high where image and caption match, higher again for the second cat
    [[0.52, 0.10, 0.18, 0.36], [0.08, 0.48, 0.20, 0.16], [0.20, 0.14, 0.50, 0.06], [0.34, 0.18, 0.04, 0.46]]
)
CLIP_SCALE = 10.0
SIGLIP_SCALE = 20.0
SIGLIP_BIAS = -8.0
CELL = 52
THUMB = 40


def clip_shares(similarities: Tensor) -> Tensor:
    """For each image (row), the probability of each caption: a softmax over the row."""
    return torch.softmax(CLIP_SCALE * similarities, dim=1)


def siglip_shares(similarities: Tensor) -> Tensor:
    """For each pair by itself, the probability that it belongs together."""
    return torch.sigmoid(SIGLIP_SCALE * similarities + SIGLIP_BIAS)


def losses() -> Canvas:
    """CLIP's matrix and SigLIP's, of the same four images and captions."""
    canvas = Canvas(WIDTH, 378, LOSSES_ALT)
    for left, title, text, shares, colour in (
        (92, "CLIP: which caption?", "a softmax over each row and column", clip_shares, BLUE),
        (456, "SigLIP: yes or no?", "one sigmoid for each pair, on its own", siglip_shares, GREEN),
    ):
        middle = left + 2 * CELL - 22
        write(canvas, middle, 18, title, 12, colour, bold=True)
        write(canvas, middle, 40, text, 9.5, LINE)
        _matrix(canvas, left, 118, shares(SIMILARITIES), colour, signs=colour == GREEN)
    top = 118
    for x, y, w, h in ((92, top + CELL, 4 * CELL, CELL), (92 + CELL, top, CELL, 4 * CELL)):
        frame = Rectangle((x + 1, y + 1), w - 2, h - 2, facecolor="none", edgecolor=ORANGE, linewidth=2.2, zorder=7)
        canvas.axes.add_patch(frame)
    write(canvas, 92 + 2 * CELL, 346, "the loss of one pair depends on its row and column", 9, ORANGE)
    write(canvas, 92 + 2 * CELL, 362, "(the percentages are those of the rows)", 9, ORANGE)
    write(canvas, 456 + 2 * CELL, 346, "the loss of one pair depends", 9, GREEN)
    write(canvas, 456 + 2 * CELL, 362, "on its own cell only", 9, GREEN)
    return canvas


def _matrix(canvas: Canvas, left: float, top: float, shares: Tensor, colour: str, signs: bool) -> None:
    pale = np.array([1.0, 1.0, 1.0])
    strong = np.array([int(PALE[colour][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    for i, look in enumerate(FACES):
        y = top + i * CELL
        face = synthetic_face(2 * THUMB, 5 + i, **look)
        canvas.image(left - THUMB - 8, y + (CELL - THUMB) / 2, THUMB, THUMB, face)
        write(canvas, left + i * CELL + CELL / 2, top - 24, CAPTIONS[i].replace(" ", "\n"), 9)
        for j in range(len(CAPTIONS)):
            share = float(shares[i, j])
            ground = pale + (strong * 0.86 - pale) * share
            cell = Rectangle((left + j * CELL, y), CELL, CELL, facecolor=ground, edgecolor="#c5ccd3", linewidth=0.8)
            canvas.axes.add_patch(cell)
            text = f"{100 * share:.0f} %"
            middle = left + j * CELL + CELL / 2
            write(canvas, middle, y + CELL / 2 - (7 if signs else 0), text, 10, INK, bold=i == j)
            if signs:
                write(canvas, middle, y + CELL / 2 + 11, "yes" if i == j else "no", 8.5, GREEN if i == j else LINE)


RESAMPLER_ALT = (
    "A resampler. On the left an image, cut into patches, becomes many keys and values. A few learned queries, which "
    "are the same for every image, attend to all of them by cross-attention. Out come as many tokens as there are "
    "queries, and they go to the language model."
)
PATCHES = 6  # a side
QUERIES = 4


def resampler() -> Canvas:
    """Many patches in, as many tokens out as there are learned queries."""
    canvas = Canvas(WIDTH, 282, RESAMPLER_ALT)
    side = 132
    middle = 104
    face = synthetic_face(2 * side, 9, species="dog", fur="brown", background="yellow", tongue=True)
    top = middle - side / 2
    canvas.image(16, top, side, side, face)
    for k in range(1, PATCHES):
        at = k * side / PATCHES
        canvas.axes.plot([16 + at, 16 + at], [top, top + side], color="white", lw=1.2, zorder=5)
        canvas.axes.plot([16, 16 + side], [top + at, top + at], color="white", lw=1.2, zorder=5)
    frame_image(canvas, 16, top, side, side, SOFT, 1)
    write(canvas, 16 + side / 2, top - 14, f"{PATCHES**2} patches", 10)
    canvas.arrow((150, middle), (174, middle))
    tinted_box(canvas, 176, middle - 32, 78, 64, "vision\nencoder", size=10)
    canvas.arrow((254, middle), (290, middle))
    _bars(canvas, 292, middle, PATCHES**2, BLUE)
    write(canvas, 292 + 54, middle + 30, f"{PATCHES**2} keys and values", 9.5, BLUE)
    canvas.arrow((402, middle), (428, middle))
    tinted_box(canvas, 430, middle - 38, 102, 76, "cross-\nattention", ground=PALE[PURPLE], edge=PURPLE, size=11)
    canvas.arrow((532, middle), (558, middle))
    _bars(canvas, 560, middle, QUERIES, PURPLE)
    write(canvas, 560 + 22, middle + 30, f"{QUERIES} tokens", 9.5, PURPLE)
    canvas.arrow((606, middle), (628, middle))
    tinted_box(canvas, 630, middle - 32, 80, 64, "language\nmodel", size=10)
    _bars(canvas, 459, 216, QUERIES, ORANGE)
    canvas.arrow((481, 198), (481, middle + 40), colour=ORANGE)
    write(canvas, 481, 248, f"{QUERIES} learned queries", 10, ORANGE, bold=True)
    write(canvas, 481, 266, "parameters: the same for every image", 9, ORANGE)
    return canvas


def _bars(canvas: Canvas, x: float, middle: float, count: int, colour: str) -> None:
    """Vectors as thin upright bars."""
    step = 3 if count > QUERIES else 12
    width = 2 if count > QUERIES else 8
    for i in range(count):
        bar = Rectangle((x + i * step, middle - 17), width, 34, facecolor=colour, linewidth=0, zorder=3)
        canvas.axes.add_patch(bar)
