"""PNG files and animations as WebP, which all browsers of the last years read and which takes a fraction of the bytes.

Lossless where that is small (curves, diagrams), else with losses that nobody sees (grids of faces).
"""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

SMALL = 50_000  # bytes up to which an image stays as it is, pixel by pixel
QUALITY = 90  # of WebP, of 100
HOPELESS = 80_000  # bytes of a PNG that is never as small as that without losses: not worth the attempt
DRAWING = 1_000_000  # pixels of the large diagrams, whose plain surfaces are often smaller without losses


def webp(png: bytes) -> bytes:
    """A PNG as WebP; nothing where that would be larger."""
    opened = Image.open(io.BytesIO(png))
    image = opened.convert("RGBA" if "A" in opened.getbands() or "transparency" in opened.info else "RGB")
    if len(png) <= HOPELESS:
        quick = _encode(image, lossless=True, quality=20, method=0)  # a sixth larger in a third of the time
        if len(quick) <= SMALL:
            return quick if len(quick) < len(png) else b""
    encoded = [_encode(image, quality=QUALITY, method=4)]
    if image.width * image.height >= DRAWING:
        encoded.append(_encode(image, lossless=True, quality=80, method=4))
    smallest = min(encoded, key=len)
    return smallest if len(smallest) < len(png) else b""


def _encode(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return file.getvalue()


def animated_webp(images: Sequence[Image.Image], milliseconds: Sequence[int], times: int, quality: int) -> bytes:
    """Images of one size as an animation.

    Args:
        milliseconds: how long each is shown.
        times: how often it is played; 0: for ever.
        quality: of 100.
    """
    return _encode(
        images[0],
        save_all=True,
        append_images=images[1:],
        duration=list(milliseconds),
        loop=times,
        quality=quality,
        method=6,
    )
