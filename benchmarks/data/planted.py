"""Faults planted in a folder of images, and whether `python -m helpers.data check` names them."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks.report import Row, claim
from helpers.data.check import Finding, find_faults, inspect_images

PER_CLASS = 24
SIDE = 48


def textured(seed: int, side: int = SIDE) -> Image.Image:
    """An image of coloured blots, like no other of another seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def write_pets(folder: Path) -> None:
    """Write two classes of good images."""
    for start, name in ((0, "cats"), (1000, "dogs")):
        (folder / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            textured(start + i).save(folder / name / f"{i:02}.png")


def findings(folder: Path, size: int = 32) -> list[Finding]:
    """What is wrong with the images of a folder."""
    return find_faults(inspect_images(folder, size, folder.parent / "cache", progress=False))


def save(path: str, image: Image.Image) -> Callable[[Path], object]:
    def plant(folder: Path) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        image.save(folder / path)

    return plant


def several(*plants: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [plant(folder) for plant in plants]


def split_up(folder: Path) -> None:
    """Folders for training and validation, and one image in both."""
    for name in ("cats", "dogs"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
        (folder / "val" / name).mkdir(parents=True)
        textured(5000 + len(name)).save(folder / "val" / name / "new.png")
    textured(3).filter(ImageFilter.GaussianBlur(0.5)).save(folder / "val" / "cats" / "copy.jpg")


TINTED = [
    save(f"cats/{i:02}.png", Image.blend(textured(i), Image.new("RGB", (SIDE, SIDE), "orange"), 0.7)) for i in range(24)
]


# what is done to the folder, the name of the fault, and what its text says
PLANTED = [
    (
        lambda folder: (folder / "cats/x.jpg").write_bytes(b"half"),
        "unreadable",
        "1 files .*cats/x.jpg: not an image",
    ),
    (save("cover.png", textured(7000)), "not used", "1 images .*: cover.png .it lies beside the class folders"),
    (lambda folder: (folder / "cats/x.HEIC").write_bytes(b"1"), "not used", "cats/x.HEIC .*convert it to JPEG"),
    (lambda folder: (folder / "more.zip").write_bytes(b""), "archives", "1 zips .*more.zip. Unpack them"),
    (save("dogs/thumb.png", textured(7000, 20)), "too small", "1 files have fewer than 32 pixels .*dogs/thumb.png"),
    (
        several(*(save(f"cats/p{i}.png", textured(6000 + i).resize((200, 40))) for i in range(4))),
        "elongated",
        "less than half is used of 4 files, .* cats/p0.png, cats/p1.png, cats/p2.png and 1 more",
    ),
    (save("cats/clear.png", Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 9))), "transparent", "cats/clear.png"),
    (save("dogs/blank.png", Image.new("RGB", (SIDE, SIDE), "navy")), "blank", "1 images .*dogs/blank.png"),
    (
        several(*(save(f"dogs/g{i}.png", textured(8000 + i).convert("L")) for i in range(4))),
        "grey among colour",
        "4 of 52 images are grey and the others in colour: dogs/g",
    ),
    (several(*TINTED), "colour cast", "far from grey .*: cats "),
    (
        several(*(save(f"birds/{i}.png", textured(9000 + i)) for i in range(6))),
        "small class",
        "fewer than 20 training images: birds 5",
    ),
    (
        several(*(save(f"dogs/m{i}.png", textured(20_000 + i)) for i in range(220))),
        "imbalance",
        "dogs has .* training images and cats 22",
    ),
    (
        several(*(save(f"cat/{i}.png", textured(9000 + i)) for i in range(24))),
        "similar names",
        "meant as one: 'cat', 'cats'",
    ),
    (
        save("cats/again.jpg", textured(3)),
        "duplicates",
        "1 pairs .*cats/03.png and cats/again.jpg|again.jpg and cats/03",
    ),
    (save("dogs/stray.jpg", textured(3)), "two classes", "1 of them are in two classes: .*dogs/stray.jpg"),
    (split_up, "leakage", "1 images for validation .*val/cats/copy.jpg and train/cats/03.png"),
]


def rows() -> list[Row]:
    """Plant each fault in a folder of its own."""
    named = []
    for plant, name, _ in PLANTED:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "pets"
            write_pets(folder)
            plant(folder)
            named.append(name in [finding.name for finding in findings(folder)])
    measured = f"{sum(named)} of {len(named)}"
    return [claim("faults planted in folders of images that are named", measured, "every one", all(named))]
