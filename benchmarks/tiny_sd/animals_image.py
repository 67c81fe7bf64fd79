"""The README's image of generated animals: unchosen samples, a row of each class, small enough for a repository."""

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks.tiny_sd.animals_scores import Sampling, labels_of
from helpers.course import repository_root
from helpers.data.faces import to_uint8
from helpers.tiny_sd.model import TinySD

IMAGE = "00_assets/image/real_animals.png"
COLUMNS = 9
MOST_BYTES = 500_000
SIDE = 128  # pixels of an image in the figure: smaller ones are enlarged


def sheet(images: Tensor, columns: int = COLUMNS) -> Image.Image:
    """Images (N, 3, H, W) in rows of `columns`; those of less than SIDE pixels are enlarged (Lanczos)."""
    pixels = to_uint8(images).numpy()
    rows = [np.concatenate(list(pixels[i : i + columns]), axis=2) for i in range(0, len(pixels), columns)]
    image = Image.fromarray(np.concatenate(rows, axis=1).transpose(1, 2, 0))
    factor = max(1, SIDE // pixels.shape[-1])
    if factor == 1:
        return image
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)


def png(image: Image.Image, most: int = MOST_BYTES) -> bytes:
    """The image as PNG of at most `most` bytes: exact where that fits, else with fewer levels of each colour.

    Raises:
        ValueError: where 32 levels are still too large.
    """
    pixels = np.asarray(image).astype(int)
    for bits in (8, 7, 6, 5):
        step = 2 ** (8 - bits)
        coarse = ((pixels + step // 2) // step * step).clip(max=255).astype(np.uint8)
        data = io.BytesIO()
        Image.fromarray(coarse).save(data, "PNG", optimize=True)
        if data.tell() <= most:
            return data.getvalue()
    raise ValueError(f"the image takes {data.tell():,} bytes, more than {most:,}, with 32 levels of each colour")


def write_image(model: TinySD, sampling: Sampling, columns: int = COLUMNS) -> Path:
    """Generate seeds 0, 1, 2 ... without leaving one out, a row of each class; the file is replaced in one move."""
    images = model.generate(labels_of(model, columns), seed=0, progress=True, **sampling.arguments())
    path = repository_root() / IMAGE
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_bytes(png(sheet(images, columns)))
    os.replace(unfinished, path)
    return path
