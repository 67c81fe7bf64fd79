"""A small, good collection of images in the Kaggle layout; every test spoils its own."""

from pathlib import Path

import pytest
from PIL import Image

COLOURS = {"cat": (200, 60, 20), "dog": (20, 160, 60), "wild": (40, 40, 220)}
PER_CLASS = 11  # one bad image more, and less than a tenth of the class is bad


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the caches, downloads or settings of whoever runs it, or reaches for the network."""
    for name in ("ANIMAL_FACES_DIR", "COURSE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setattr("helpers.data.animal_faces.repository_root", lambda: tmp_path / "checkout")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """afhq/train and afhq/val: 11 images of 40 px a class, each class in its colour."""
    for split in ("train", "val"):
        for name, colour in COLOURS.items():
            folder = tmp_path / "afhq" / split / name
            folder.mkdir(parents=True)
            for i in range(PER_CLASS):
                Image.new("RGB", (40, 40), colour).save(folder / f"{i:02}.png")
    return tmp_path / "afhq"
