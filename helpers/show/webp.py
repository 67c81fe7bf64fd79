"""PNG files and animations as WebP, which all browsers of the last years read and which takes a fraction of the bytes.

Lossless where that is small (curves, diagrams), else with losses that nobody sees (grids of faces).
"""

import io
from collections.abc import Sequence

from PIL import Image

SMALL = 50_000  # bytes up to which an image stays as it is, pixel by pixel
QUALITY = 90  # of WebP, of 100
HOPELESS = 80_000  # bytes of a PNG that is never as small as that without losses: not worth the attempt


def webp(png: bytes) -> bytes:
    """A PNG as WebP; nothing where that would be larger."""
    opened = Image.open(io.BytesIO(png))
    image = opened.convert("RGBA" if "A" in opened.getbands() or "transparency" in opened.info else "RGB")
    file = io.BytesIO()
    if len(png) <= HOPELESS:
        image.save(file, "WEBP", lossless=True, quality=20, method=0)  # a sixth larger in a third of the time
    if not 0 < file.tell() <= SMALL:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=QUALITY, method=2)
    return file.getvalue() if file.tell() < len(png) else b""


def animated_webp(images: Sequence[Image.Image], milliseconds: Sequence[int], times: int, quality: int) -> bytes:
    """Images of one size as an animation.

    Args:
        milliseconds: how long each is shown.
        times: how often it is played; 0: for ever.
        quality: of 100.
    """
    file = io.BytesIO()
    images[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=list(milliseconds),
        loop=times,
        quality=quality,
        method=6,
    )
    return file.getvalue()
