"""Collections of images as people have them: archives from every tool, and files that change."""

import io
import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from helpers.data import load_faces

CLASSES = ("cat", "dog", "wild")
SPLITS = ("train", "val")
LATER = 2_000_000_000  # a time of change, in seconds since 1970


def solid_colour(colour: str) -> bytes:
    """An uncompressed image file: its length does not depend on the colour."""
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "BMP")
    return file.getvalue()


def write_zip(path: Path, name: str) -> Path:
    """A zip with one image per split and class; `name` is how its entries are called."""
    with zipfile.ZipFile(path, "w") as archive:
        for split in SPLITS:
            for label in CLASSES:
                entry = zipfile.ZipInfo("to be renamed")
                entry.filename = name.format(split=split, label=label)  # as it is: ZipInfo would tidy it up
                archive.writestr(entry, solid_colour("red"))
    return path


@pytest.fixture
def load(tmp_path):
    """Load the training images of a collection."""

    def load(root: Path):
        return load_faces("animal-faces", "train", 16, root=root, progress=False, cache_dir=tmp_path / "cache")

    return load


NOT_FOUND = pytest.mark.xfail(
    strict=True,
    raises=FileNotFoundError,
    reason="zip entries written with backslashes or with './' in front are not found "
    "(dotnet/runtime#98247, transformation-advisor-sdk#40)",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("afhq/{split}/{label}/0.bmp", id="ordinary"),
        pytest.param("afhq\\{split}\\{label}\\0.bmp", marks=NOT_FOUND, id="backslashes"),
        pytest.param("./afhq/{split}/{label}/0.bmp", marks=NOT_FOUND, id="dot and slash"),
    ],
)
def test_zip_is_read_whatever_tool_wrote_it(load, tmp_path, name):
    faces = load(write_zip(tmp_path / "archive.zip", name))
    assert faces.counts == dict.fromkeys(CLASSES, 1)


@pytest.mark.xfail(
    strict=True,
    raises=NotADirectoryError,
    reason="a zip inside a zip is opened as if the outer one were a folder (transformation-advisor-sdk#40)",
)
def test_zip_inside_a_zip_is_refused_with_advice(load, tmp_path):
    inner = write_zip(tmp_path / "archive.zip", "afhq/{split}/{label}/0.bmp")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(inner, "archive.zip")
    with pytest.raises((FileNotFoundError, ValueError), match=r"archive\.zip.*unpack"):
        load(tmp_path / "outer.zip")


@pytest.mark.xfail(
    strict=True,
    raises=ValueError,
    reason="half a download beside a good zip makes the good one unusable (transformation-advisor-sdk#40)",
)
def test_half_a_download_beside_a_good_zip_is_passed_over(load, tmp_path, recwarn):
    folder = tmp_path / "downloads"
    folder.mkdir()
    write_zip(folder / "good.zip", "afhq/{split}/{label}/0.bmp")
    (folder / "half.zip").write_bytes(b"PK\x03\x04half a download")
    faces = load(folder)
    assert faces.counts == dict.fromkeys(CLASSES, 1)
    assert any("half.zip" in str(warning.message) for warning in recwarn)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Class folders with one red image each."""
    folder = tmp_path / "afhq"
    for split in SPLITS:
        for label in CLASSES:
            path = folder / split / label / "0.bmp"
            path.parent.mkdir(parents=True)
            path.write_bytes(solid_colour("red"))
    return folder


def mean_colour(faces) -> list[float]:
    return faces.images.mean((0, 2, 3)).tolist()


def test_image_is_decoded(load, folder):
    """The premise of the next test."""
    assert mean_colour(load(folder)) == [255, 0, 0]


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="images that changed in place without changing their length come from the cache as they were "
    "(datasets#2956, ComfyUI-KJNodes#315)",
)
def test_image_that_changed_in_place_is_decoded_anew(load, folder):
    load(folder)
    for path in folder.rglob("*.bmp"):
        path.write_bytes(solid_colour("blue"))
        os.utime(path, (LATER, LATER))
    assert mean_colour(load(folder)) == [0, 0, 255]
