"""Chelsea, a real cat: the one photograph that the course can always show.

scikit-image ships her photograph in its package, so nothing is downloaded, and the photographer waived his rights
(CC0). No model of the course was trained on her.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from helpers.data.faces import SIZES, to_float

if TYPE_CHECKING:
    import torch

CREDIT = "Chelsea, photographed by Stefan van der Walt, CC0; part of scikit-image."
# The photograph is 451 x 300. AFHQ centres the eyes and keeps the ears in the frame. Her ears are cut off by the
# photograph itself, so the crop takes its full height, with the eyes centred from left to right.
FACE = (90, 0, 390, 300)  # left, top, right, bottom in pixels


def load_chelsea(size: int = 64) -> "torch.Tensor":
    """Return Chelsea's face, cropped and resized with antialiasing as `load_faces` does it.

    Args:
        size: H = W in pixels, at most the 300 that the crop has.

    Returns:
        float32 (1, 3, size, size) in [-1, 1].

    Raises:
        ValueError: if the size is out of range.
    """
    from skimage import data  # here, because it takes a second to import

    largest = FACE[3] - FACE[1]
    if size not in SIZES or size > largest:
        raise ValueError(f"size must be a whole number from {SIZES[0]} to {largest} pixels, got {size!r}")
    face = Image.fromarray(data.chelsea()).crop(FACE)
    face = face.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(face).transpose(2, 0, 1)  # (3, size, size) uint8
    return to_float(pixels)[None]
