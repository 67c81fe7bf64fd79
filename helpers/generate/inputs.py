"""The images that generation starts from: an initial image and a mask, upright, cropped and resized for the model."""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from helpers.data.images import FORMATS, MAX_PIXELS, BadImageError, upright_mask, upright_rgb
from helpers.generate.settings import ImageReference

ImageSource = str | Path | Image.Image
Pixels = TypeVar("Pixels")


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
    image = _read(init, "the initial image", upright_rgb)
    rgb = np.array(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    inputs = Inputs(torch.from_numpy(rgb).permute(2, 0, 1) / 127.5 - 1, _reference(init, rgb))
    if mask is None:
        return inputs
    values = _read(mask, "the mask", upright_mask)
    mask_size = values.shape[::-1]
    if mask_size != image.size:
        raise ValueError(
            f"the mask is {mask_size[0]}x{mask_size[1]} pixels and the initial image {image.width}x{image.height}: "
            "they must have the same size"
        )
    grey = Image.fromarray((values * 255).round().astype(np.uint8))
    levels = np.array(ImageOps.fit(grey, (width, height), Image.Resampling.BILINEAR))
    return inputs._replace(mask=torch.from_numpy(levels) / 255, mask_reference=_reference(mask, levels))


def portable_name(path: str | Path) -> str:
    """A path as a PNG records it: as it is where it leads down from here, else the last part alone.

    The folders of one computer are nobody else's business.
    """
    pure = PurePath(path)
    leads_down = not pure.is_absolute() and ".." not in pure.parts and not str(path).startswith("~")
    return pure.as_posix() if leads_down else pure.name


def _read(source: ImageSource, name: str, convert: Callable[[Image.Image], Pixels]) -> Pixels:
    """Open an image and convert it. Raises FileNotFoundError or ValueError, naming what cannot be used."""
    label = name if isinstance(source, Image.Image) else f"{name} {source}"
    try:
        if isinstance(source, Image.Image):
            return convert(source)
        with Image.open(Path(source).expanduser(), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadImageError(f"{image.width}x{image.height} are too many pixels")
            return convert(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{label}: there is no such file") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{label}: this is no image ({', '.join(FORMATS)})") from None
    except (BadImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{label}: {error}") from error
    except OSError as error:
        raise ValueError(f"{label}: cannot be read ({error.strerror or error})") from error


def _reference(source: ImageSource, pixels: np.ndarray) -> ImageReference:
    name = "" if isinstance(source, Image.Image) else portable_name(source)
    digest = hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    return ImageReference(name, digest.hexdigest())
