"""The images of image-to-image and inpainting: read, cropped and resized, as tensors, and put together with the result.

Alphabet: B images, H W their size in pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from helpers.data.images import BadImageError, upright_mask, upright_rgb


def image_list(name: str, images: Any) -> list[Any]:
    """A list of images as it is, one image as a list, None as an empty one. Raises ValueError for an empty list."""
    if images is None:
        return []
    if isinstance(images, list | tuple) and not images:
        raise ValueError(f"{name} is an empty list: pass an image, one for each prompt, or None")
    return list(images) if isinstance(images, list | tuple) else [images]


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Crop an upright RGB image at its centre to the shape of width x height, and resize it."""
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def fit_mask(values: np.ndarray, width: int, height: int) -> Image.Image:
    """The same for a mask (H, W) in [0, 1], as `upright_mask` reads it."""
    grey = Image.fromarray((values * 255).round().astype(np.uint8))
    return ImageOps.fit(grey, (width, height), Image.Resampling.BILINEAR)


def fit_all(
    images: Sequence[Any], masks: Sequence[Any], height: int | None, width: int | None, multiple: int
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Crop and resize PIL images and masks to one size.

    Args:
        height, width: pixels; None: those of the first image, rounded down to a multiple of `multiple`.

    Raises:
        TypeError: for tensors.
        ValueError: for images that cannot be read or are smaller than `multiple`.
    """
    for name, every in (("init_image", images), ("mask_image", masks)):
        if not all(isinstance(image, Image.Image) for image in every):
            raise TypeError(f"resize=True is for PIL images, and {name} is a tensor: resize it with torch")
    upright = [_read("init_image", upright_rgb, image) for image in images]
    own_width, own_height = (side // multiple * multiple for side in upright[0].size)
    size = (width or own_width, height or own_height)
    if not all(size):
        raise ValueError(f"init_image is {upright[0].width}x{upright[0].height} pixels: pass the height and width")
    fitted = [fit_image(image, *size) for image in upright]
    return fitted, [fit_mask(_read("mask_image", upright_mask, mask), *size) for mask in masks]


def composite(images: Tensor, known: Tensor, mask: Tensor) -> Tensor:
    """Blend generated images (B, 3, H, W) with the known ones by the mask in [0, 1]: where it is 0, these are kept."""
    return torch.lerp(known, images, mask)


def image_tensor(image: Any) -> Tensor:
    """Convert a PIL image, or a tensor (3, H, W) in [-1, 1], to that tensor.

    A PIL image is read as `helpers.data.images.upright_rgb` does: turned upright, transparent parts on white.

    Raises:
        TypeError, ValueError: for anything else; the message says what it got.
    """
    if isinstance(image, Image.Image):
        return _read_pixels("init_image", upright_rgb, image).permute(2, 0, 1) / 127.5 - 1
    _check_tensor("init_image", image, "(3, H, W) in [-1, 1]")
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point() or not image.abs().max() <= 1.0001:
        raise ValueError(
            f"init_image must be (3, H, W) floats in [-1, 1], got {image.dtype} {tuple(image.shape)}, "
            f"values up to {image.abs().max().item():.3g}"
        )
    return image.float().cpu()


def mask_tensor(mask: Any) -> Tensor:
    """Convert a PIL image, or a tensor (H, W) in [0, 1], to (1, H, W). Raises as `image_tensor`.

    A PIL image is read as `helpers.data.images.upright_mask` does: 0 and 1 alone, or grey levels of 8 or 16 bits.
    """
    if isinstance(mask, Image.Image):
        return _read_pixels("mask_image", upright_mask, mask)[None]
    _check_tensor("mask_image", mask, "(H, W) in [0, 1]")
    mask = mask.float().cpu()
    if mask.ndim != 2 or not (0 <= mask.min() and mask.max() <= 1):
        raise ValueError(
            f"mask_image must be (H, W) in [0, 1], 1 where to redraw, got {tuple(mask.shape)}, "
            f"values {mask.min().item():.3g} to {mask.max().item():.3g}"
        )
    return mask[None]


def _read_pixels(name: str, read: Callable[[Image.Image], Any], image: Image.Image) -> Tensor:
    """The values of a PIL image as floats."""
    return torch.from_numpy(np.array(_read(name, read, image))).float()


def _read(name: str, read: Callable[[Image.Image], Any], image: Image.Image) -> Any:
    """What `read` makes of the image. Raises ValueError, naming the argument, where it cannot be used."""
    try:
        return read(image)
    except BadImageError as error:
        raise ValueError(f"{name} cannot be used: {error}. Pass another image, or a tensor") from error


def _check_tensor(name: str, image: Any, expected: str) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a PIL image or a tensor {expected}, got {type(image).__name__}")
    if not image.numel() or image.isnan().any():
        raise ValueError(f"{name} is empty or holds NaN")
