"""The images that questions are about: files, PIL images, and synthetic faces as examples."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from helpers.data.drawing import COUNTS, attributes_of
from helpers.data.images import ImageSource, read_image, upright_rgb
from helpers.data.toy_faces import draw_face
from helpers.files import portable_name

EXAMPLES = COUNTS["val"]  # held-out synthetic faces
EXAMPLE_KEYWORD = "Title"  # of the text in a PNG that marks it as an example
EXAMPLE_TITLE = "Synthetic face {} of From DDPM to Stable Diffusion"


class InputImage(NamedTuple):
    """An image as it is shown: upright, in RGB."""

    name: str  # of its file, without the folders of one computer; "" without a file
    image: Image.Image
    is_example: bool


def example_image(number: int) -> Image.Image:
    """A synthetic face of 64 pixels that no model was trained on, with its title in `info`.

    Raises:
        ValueError: for a number outside 0..899.
    """
    if not 0 <= number < EXAMPLES:
        raise ValueError(f"there are {EXAMPLES} examples: choose a number from 0 to {EXAMPLES - 1}, got {number}")
    face = attributes_of("val", number + 1, seed=0)[number]
    image = Image.fromarray(draw_face(face).transpose(1, 2, 0))
    image.info[EXAMPLE_KEYWORD] = EXAMPLE_TITLE.format(number)
    return image


def open_image(source: ImageSource) -> InputImage:
    """Read an image: upright, in RGB, transparent parts on white.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for one that cannot be used.
    """
    name = "" if isinstance(source, Image.Image) else portable_name(source)
    if not isinstance(source, Image.Image) and Path(source).expanduser().is_dir():
        raise ValueError(f"the image {source} is a folder: name the images in it, such as {Path(source) / '*.png'}")
    return read_image(source, "the image", lambda image: _input_image(name, image))


def _input_image(name: str, image: Image.Image) -> InputImage:
    pixels = np.asarray(upright_rgb(image))  # a plain copy: no EXIF data that would turn it once more
    title = EXAMPLE_TITLE.partition("{}")[0]
    return InputImage(name, Image.fromarray(pixels), str(image.info.get(EXAMPLE_KEYWORD, "")).startswith(title))
