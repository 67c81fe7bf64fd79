"""Checking a folder of images: planted faults are named, each with its files, and good images pass."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from helpers.data import __main__ as command
from helpers.data import check
from helpers.data.check import find_faults, inspect_images

PER_CLASS = 24
SIDE = 48


def textured(seed: int, side: int = SIDE) -> Image.Image:
    """An image of coloured blots, like no other of another seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of good images; enough for the limit, which is lower here."""
    monkeypatch.setattr(check, "FEW_IN_ALL", 40)
    for start, name in ((0, "cats"), (1000, "dogs")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            textured(start + i).save(tmp_path / "pets" / name / f"{i:02}.png")
    return tmp_path / "pets"


def faults(folder: Path, size: int = 32) -> dict[str, str]:
    """Name -> text of all that is found; each name occurs once."""
    found = find_faults(inspect_images(folder, size, folder.parent / "cache", progress=False))
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding.text for finding in found}


def test_good_images_pass(pets: Path) -> None:
    assert faults(pets) == {}


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


@pytest.mark.parametrize(
    ("plant", "name", "text"),
    [
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
            "4 files are more than 2 times as long as wide: cats/p0.png, cats/p1.png, cats/p2.png and 1 more",
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
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_a_planted_fault_is_named(pets: Path, plant, name: str, text: str) -> None:
    plant(pets)
    found = faults(pets)
    assert name in found, found
    assert re.search(text, found[name]), found[name]


def test_few_images_are_told_what_to_do(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FEW_IN_ALL", 500)
    assert "44 training images, fewer than 500: start from trained weights (--start)" in faults(pets)["few images"]


def test_the_command_prints_counts_sizes_and_faults(pets: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["check", str(pets), "--size", "32", "--cache-dir", str(pets.parent / "cache")]
    assert command.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["train: 44 images (22 cats, 22 dogs)", "val: 4 images (2 cats, 2 dogs)"]
    assert lines[2] == "shorter side of the files: 48 to 48 px, median 48 px"
    assert "nothing was found" in lines[3]
    assert lines[-1].endswith(f"helpers.tiny_sd.train --source {pets} --size 32")
    Image.new("RGB", (SIDE, SIDE)).save(pets / "cats" / "black.png")
    assert command.main(options) == 1
    assert "blank: 1 images show a single colour: cats/black.png. Delete them." in capsys.readouterr().out
    assert command.main(["check", str(pets / "nowhere")]) == 1
    assert "error: there is no folder or zip" in capsys.readouterr().err
