"""Files of generated images: names that never overwrite, grids, and animations from noise to the image."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from helpers.files import atomic_write
from helpers.show.webp import animated_webp

LONGEST_NAME = 48  # characters of a prompt in a file's name
TILE = 128  # pixels a side up to which the small images of grids and animations are enlarged
GAP = 4
FRAME_MILLISECONDS = 100
LAST_MILLISECONDS = 2000  # what was generated stays
QUALITY = 85


def write_new(folder: Path, name: str, ending: str, data: bytes) -> Path:
    """Write a file that was not there before: `NAME.png`, or `NAME-2.png` where that exists, and so on.

    Returns:
        its path.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / (f"{name}{ending}" if number == 1 else f"{name}-{number}{ending}")
        try:
            path.touch(exist_ok=False)  # the name is taken from now on, also for other processes
            break
        except FileExistsError:
            number += 1
    try:
        with atomic_write(path) as file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def file_name(*parts: str) -> str:
    """Parts of a file's name, joined by "-": letters and digits of any script, all else as "_"."""
    return "-".join(re.sub(r"\W+", "_", part.lower()).strip("_")[:LONGEST_NAME] or "any" for part in parts)


def tile(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Lay images of one size out in rows on white, small ones enlarged."""
    factor = max(1, TILE // images[0].width)
    width = images[0].width * factor
    height = images[0].height * factor
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        enlarged = image.resize((width, height), Image.Resampling.LANCZOS)
        canvas.paste(enlarged, (column * (width + GAP), row * (height + GAP)))
    return canvas


def animation(trajectories: Sequence[Sequence[Image.Image]], columns: int) -> bytes:
    """An animated WebP of several trajectories of equal length, side by side."""
    frames = [tile(images, columns) for images in zip(*trajectories, strict=True)]
    milliseconds = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    return animated_webp(frames, milliseconds, 0, QUALITY)
