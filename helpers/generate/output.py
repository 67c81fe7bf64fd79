"""Several generated images in one file: grids, and animations from noise to the image."""

from collections.abc import Sequence

from PIL import Image

from helpers.show.webp import animated_webp

TILE = 128  # pixels a side up to which the small images of grids and animations are enlarged
GAP = 4
FRAME_MILLISECONDS = 100
LAST_MILLISECONDS = 2000  # what was generated stays
QUALITY = 85


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
