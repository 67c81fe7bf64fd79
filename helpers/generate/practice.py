"""A folder of images with captions to practise on: `python -m helpers.generate.practice FOLDER`.

Chelsea, the one real cat of the course (CC0), in thirty crops of her photograph, by day and at sunset; and generated
cats, by day, at sunset and at night. No image shows Chelsea at night: whoever trains on the captions can ask for it.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from helpers.generate.images import generate

LIGHTS = {"by day": (1.0, 1.0, 1.0), "at sunset": (1.0, 0.62, 0.36), "at night": (0.2, 0.3, 0.6)}  # of red, green, blue
PER_CAPTION = 15
MODEL = "tiny_sd_animals"
LARGEST = 300  # pixels a side of a crop: the height of Chelsea's photograph
SMALLEST = 230
LEFT = 90  # of her face, pixels from the left


def practice_images() -> Iterator[tuple[str, str, Image.Image]]:
    """Yield class, caption and image, the same every time."""
    cats = iter(generate(MODEL, "cat", count=len(LIGHTS) * PER_CAPTION, progress=False))
    crops = chelsea_crops(2 * PER_CAPTION)
    for light in LIGHTS:
        for _ in range(PER_CAPTION):
            yield "cat", f"a cat {light}", in_light(next(cats), light)
            if light != "at night":
                yield "chelsea", f"chelsea {light}", in_light(next(crops), light)


def chelsea_crops(count: int, seed: int = 0) -> Iterator[Image.Image]:
    """Square crops of Chelsea's photograph, each with her face in it."""
    from skimage import data  # here, because it takes a second to import

    photograph = Image.fromarray(data.chelsea())
    rng = random.Random(seed)
    for _ in range(count):
        side = rng.randint(SMALLEST, LARGEST)
        left = LEFT + (LARGEST - side) // 2 + rng.randint(-20, 20)
        top = rng.randint(0, LARGEST - side)
        yield photograph.crop((left, top, left + side, top + side))


def in_light(image: Image.Image, light: str) -> Image.Image:
    """An image with its colours multiplied by those of a light."""
    return Image.fromarray((np.asarray(image) * np.array(LIGHTS[light])).round().astype(np.uint8))


def write(folder: Path) -> int:
    """Write the images into folders of their classes, each with a text file that holds its caption; returns how many.

    Raises:
        OSError: if the folder is there, or cannot be written.
    """
    folder.mkdir(parents=True)
    count = 0
    for count, (name, caption, image) in enumerate(practice_images(), 1):
        path = folder / name / f"{count:02}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0, or 1 if the folder is there or cannot be written, which is printed on stderr."""
    parser = argparse.ArgumentParser(prog="python -m helpers.generate.practice", description=__doc__)
    parser.add_argument("folder", type=Path, help="to be written; it must not exist yet")
    options = parser.parse_args(arguments)
    try:
        print(f"{write(options.folder)} images with captions in {options.folder}")
    except OSError as error:
        print(f"error: {options.folder}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
