"""The images that generation starts from: an initial image and a mask, upright, cropped and resized for the model."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.data.images import ImageSource, read_image, upright_mask, upright_rgb
from helpers.files import portable_name
from helpers.generate.settings import ImageReference
from helpers.text_to_image.input_images import fit_image, fit_mask


class Inputs(NamedTuple):
    """Both images as the pipelines take them, or None."""

    init: Tensor | None = None  # (3, H, W) in [-1, 1]
    init_reference: ImageReference | None = None
    mask: Tensor | None = None  # (H, W) in [0, 1]; 1 is generated anew
    mask_reference: ImageReference | None = None


def read_inputs(init: ImageSource | None, mask: ImageSource | None, width: int, height: int) -> Inputs:
    """Read an initial image and a mask: turned upright, cropped at the centre and resized.

    Args:
        init, mask: a file or a PIL image; of the mask, white is generated anew and black is kept.
        width, height: pixels of the generated image.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that cannot be used, and a mask of another size than the image.
    """
    if mask is not None and init is None:
        raise ValueError("a mask needs an initial image: the one whose other parts are kept")
    if init is None:
        return Inputs()
    image = read_image(init, "the initial image", upright_rgb)
    rgb = np.array(fit_image(image, width, height))
    inputs = Inputs(torch.from_numpy(rgb).permute(2, 0, 1) / 127.5 - 1, _reference(init, rgb))
    if mask is None:
        return inputs
    values = read_image(mask, "the mask", upright_mask)
    mask_size = values.shape[::-1]
    if mask_size != image.size:
        raise ValueError(
            f"the mask is {mask_size[0]}x{mask_size[1]} pixels and the initial image {image.width}x{image.height}: "
            "they must have the same size"
        )
    levels = np.array(fit_mask(values, width, height))
    return inputs._replace(mask=torch.from_numpy(levels) / 255, mask_reference=_reference(mask, levels))


def _reference(source: ImageSource, pixels: np.ndarray) -> ImageReference:
    name = "" if isinstance(source, Image.Image) else portable_name(source)
    digest = hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    return ImageReference(name, digest.hexdigest())
