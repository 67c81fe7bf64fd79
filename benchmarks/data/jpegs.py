"""JPEG files like those of the photographs, made without a photograph."""

import io
from typing import Any

import numpy as np
from PIL import Image

from helpers.data.toy_faces import draw_face, toy_attributes


def jpegs_like_afhq(count: int) -> list[bytes]:
    """JPEG files of 512 x 512 pixels and about 50 kB, as AFHQ's are (0.73 GB / 16,130): synthetic faces with grain."""
    rng = np.random.default_rng(0)
    jpegs = []
    for face in toy_attributes(count, seed=0):
        grain = Image.fromarray(rng.integers(0, 256, (256, 256), dtype=np.uint8)).resize((512, 512))
        pixels = draw_face(face, 512).transpose(1, 2, 0) + 0.08 * (np.asarray(grain, np.float32)[..., None] - 127)
        jpegs.append(encode_image(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "JPEG", quality=88))
    return jpegs


def encode_image(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """The bytes of an image file; `options` are those of Pillow's `Image.save`."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()
