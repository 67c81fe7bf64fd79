"""An animation for README and pages: noise becomes animals, as an animated WebP, and the same as a still film strip."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.data.faces import to_uint8
from helpers.show.webp import animated_webp
from helpers.tiny_sd.model import TinySD

MOST_BYTES = 400_000
FRAME_SECONDS = 0.09
LAST_SECONDS = 0.5  # what was generated stays a little longer
TIMES = 2  # it is played, and then stands still: less than five seconds in all, so that no pause button is needed
COLUMNS = 6
SIDE = 128  # pixels of a tile: smaller images are enlarged


def trajectory(model: TinySD, steps: int = 20, guidance_scale: float = 4.0, seed: int = 0) -> Tensor:
    """Decode what the sampler holds after every step, for equally many images of each class with consecutive seeds.

    Returns:
        (steps, N, 3, H, W) in [-1, 1]: from the state after the first step to the generated images.
    """
    labels = [name for name in model.class_names for _ in range(COLUMNS * 2 // len(model.class_names))]
    walk = model.sample_steps(labels, steps=steps, guidance_scale=guidance_scale, seed=seed)
    with torch.no_grad():
        return torch.stack([model.codec.decode(step.x) for step in walk])


def sheets(frames: Tensor, columns: int = COLUMNS) -> list[Image.Image]:
    """Frames (T, N, 3, H, W) as images of N tiles in rows of `columns`; small ones are enlarged."""
    tiled = []
    for images in frames:
        pixels = to_uint8(images).numpy()
        rows = [np.concatenate(list(pixels[i : i + columns]), axis=2) for i in range(0, len(pixels), columns)]
        image = Image.fromarray(np.concatenate(rows, axis=1).transpose(1, 2, 0))
        factor = max(1, SIDE // images.shape[-1])
        size = (image.width * factor, image.height * factor)
        tiled.append(image.resize(size, Image.Resampling.LANCZOS))
    return tiled


def animated(images: Sequence[Image.Image], most: int = MOST_BYTES) -> bytes:
    """An animated WebP of at most `most` bytes, in the best quality that fits.

    Raises:
        ValueError: where the lowest quality is still too large.
    """
    milliseconds = [round(1000 * FRAME_SECONDS)] * (len(images) - 1) + [round(1000 * LAST_SECONDS)]
    for quality in (80, 60, 40, 25, 15):
        data = animated_webp(images, milliseconds, TIMES, quality)
        if len(data) <= most:
            return data
    raise ValueError(f"the animation takes {len(data):,} bytes, more than {most:,}: fewer frames or smaller tiles")


def film_strip(frames: Tensor, shown: int = 8) -> Image.Image:
    """One image of each class in a row each, at `shown` moments from noise to the end: for readers without motion."""
    moments = torch.linspace(0, len(frames) - 1, shown).round().long()
    first_of_class = range(0, frames.shape[1], frames.shape[1] // 3)
    tiles = torch.cat([frames[moments, i] for i in first_of_class])
    return sheets(tiles[None], columns=shown)[0]


def write(folder: Path, model: TinySD, most: int = MOST_BYTES) -> None:
    """Write `noise_to_animals.webp` and the film strip `noise_to_animals_still.webp` into a folder."""
    frames = trajectory(model)
    (folder / "noise_to_animals.webp").write_bytes(animated(sheets(frames), most))
    film_strip(frames).save(folder / "noise_to_animals_still.webp", "WEBP", quality=80, method=6)
