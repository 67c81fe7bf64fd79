"""Collections of images as people have them: archives from every tool, files that change, classes of unequal size."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.data import load_faces
from helpers.data.animal_faces import photographs_available
from helpers.data.collection import Collection, scan
from helpers.data.drawing import _recipe

CLASSES = ("cat", "dog", "wild")
SPLITS = ("train", "val")
LATER = 2_000_000_000  # a time of change, in seconds since 1970
ORDINARY = "afhq/{split}/{label}/0.bmp"


def solid_colour(colour: str) -> bytes:
    """An uncompressed image file: its length does not depend on the colour."""
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "BMP")
    return file.getvalue()


def write_zip(path: Path, name: str = ORDINARY, colour: str = "red", splits: tuple[str, ...] = SPLITS) -> Path:
    """A zip with one image per split and class; `name` is how its entries are called."""
    with zipfile.ZipFile(path, "w") as archive:
        for split in splits:
            for label in CLASSES:
                entry = zipfile.ZipInfo("to be renamed")
                entry.filename = name.format(split=split, label=label)  # as it is: ZipInfo would tidy it up
                archive.writestr(entry, solid_colour(colour))
    return path


@pytest.fixture
def load(tmp_path):
    """Load a split of a collection."""

    def load(root: Path | None, split: str = "train"):
        return load_faces("animal-faces", split, 16, root=root, progress=False, cache_dir=tmp_path / "cache")

    return load


def mean_colour(faces) -> list[float]:
    return faces.images.mean((0, 2, 3)).tolist()


RED = [255, 0, 0]
BLUE = [0, 0, 255]


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("archives")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(ORDINARY, id="ordinary"),
        pytest.param("{split}/{label}/0.bmp", id="flat"),
        pytest.param("afhq\\{split}\\{label}\\0.bmp", id="backslashes"),
        pytest.param("./afhq/{split}/{label}/0.bmp", id="dot and slash"),
        pytest.param(".\\afhq\\{split}\\{label}\\0.bmp", id="dot and backslash"),
        pytest.param("afhq//{split}//{label}//0.bmp", id="doubled slashes"),
        pytest.param("afhq/./{split}/./{label}/0.bmp", id="dots within"),
        pytest.param("afhq\\{split}/{label}\\0.bmp", id="both slashes"),
    ],
)
def test_zip_is_read_whatever_tool_wrote_it(load, tmp_path, name):
    faces = load(write_zip(tmp_path / "archive.zip", name))
    assert faces.counts == dict.fromkeys(CLASSES, 1) and mean_colour(faces) == RED


@pytest.mark.fault("archives", refused=True)
@pytest.mark.parametrize(
    "name",
    [
        "..\\escaped.bmp",
        "afhq\\..\\..\\escaped.bmp",
        "\\etc\\escaped.bmp",
        "C:\\escaped.bmp",
        "C:/escaped.bmp",
        "./../x",
    ],
)
def test_names_that_lead_out_are_refused_with_every_slash(load, tmp_path, name):
    path = write_zip(tmp_path / "archive.zip")
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("to be renamed")
        entry.filename = name
        archive.writestr(entry, b"x")
    with pytest.raises(ValueError, match="archive.zip is refused: it holds names that lead out of it"):
        load(path)


@pytest.mark.fault("archives", refused=True)
@pytest.mark.parametrize("inside", ["archive.zip", "downloads/archive.ZIP", ".\\archive.zip"])
@pytest.mark.parametrize("in_a_folder", [False, True])
def test_zip_inside_a_zip_is_refused_with_advice(load, tmp_path, inside, in_a_folder):
    inner = write_zip(tmp_path / "archive.zip")
    folder = tmp_path / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "outer.zip", "w") as archive:
        archive.write(inner, inside)
    with pytest.raises(FileNotFoundError, match=r"outer\.zip holds .*archive\.(zip|ZIP), a zip inside a zip: unpack"):
        load(folder if in_a_folder else folder / "outer.zip")


def half_a_download(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04half a download")


def a_text(path: Path) -> None:
    path.write_text("<html>sign in to download</html>")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    data = write_zip(path).read_bytes()
    path.write_bytes(data[:-100])


SPOILT = [half_a_download, a_text, nothing, cut_short]


@pytest.mark.fault("archives", refused=True)
@pytest.mark.parametrize("name", ["a.zip", "z.zip"], ids=["before it", "after it"])
@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_no_zip_beside_a_good_one_is_passed_over(load, tmp_path, spoil, name):
    folder = tmp_path / "downloads"
    folder.mkdir()
    write_zip(folder / "good.zip")
    spoil(folder / name)
    with pytest.warns(UserWarning, match=f"passed over: .*{name} is not a whole zip file"):
        faces = load(folder)
    assert faces.counts == dict.fromkeys(CLASSES, 1)


@pytest.mark.fault("archives", refused=True)
@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_no_zip_alone_is_refused(load, tmp_path, spoil):
    folder = tmp_path / "downloads"
    folder.mkdir()
    spoil(folder / "only.zip")
    for place in (folder, folder / "only.zip"):
        with pytest.raises(ValueError, match="only.zip is not a whole zip file .*: copy or download it again"):
            load(place)


@pytest.mark.fault("archives")
def test_zips_of_single_splits_and_in_subfolders_are_found(load, tmp_path):
    folder = tmp_path / "downloads" / "afhq"
    folder.mkdir(parents=True)
    write_zip(folder / "train.zip", splits=("train",))
    write_zip(folder / "val.zip", splits=("val",), colour="blue")
    assert mean_colour(load(folder.parent)) == RED and mean_colour(load(folder.parent, "val")) == BLUE


@pytest.mark.fault("archives", refused=True)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tree: shutil.rmtree(tree / "train" / "dog"), "the class dog is missing"),
        (lambda tree: [path.unlink() for path in (tree / "train" / "cat").iterdir()], "the class cat is empty"),
        (lambda tree: shutil.rmtree(tree / "train"), "has no train images"),
        (lambda tree: (tree / "train" / "horse").mkdir(), "unknown class folders in train: horse"),
    ],
    ids=["class missing", "class empty", "split missing", "unknown class"],
)
def test_a_bad_copy_is_passed_over_for_a_good_one_on_this_computer(load, tree, tmp_path, monkeypatch, spoil, reason):
    good = tmp_path / "checkout" / "00_assets" / "datasets" / "afhq"
    shutil.copytree(tree, good)
    spoil(tree)
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tree))
    with pytest.warns(UserWarning, match=f"passed over: .*{reason}.*The copy in .*00_assets"):
        assert len(load(None)) == 33
    shutil.rmtree(good)
    with pytest.raises(ValueError, match=reason):  # and is no reason to download
        load(None)


@pytest.mark.fault("archives", refused=True)
@pytest.mark.parametrize("spoil", SPOILT)
def test_a_damaged_zip_is_passed_over_for_a_good_copy(load, tree, tmp_path, monkeypatch, spoil):
    shutil.copytree(tree, tmp_path / "checkout" / "00_assets" / "datasets" / "afhq")
    spoil(tmp_path / "mine.zip")
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tmp_path / "mine.zip"))
    assert photographs_available()
    with pytest.warns(UserWarning, match="passed over: .*mine.zip is not a whole zip file"):
        assert len(load(None)) == 33


# --- caches -----------------------------------------------------------------------------------------------------------


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


def repaint(folder: Path, colour: str = "blue") -> None:
    for path in folder.rglob("*.bmp"):
        path.write_bytes(solid_colour(colour))


@pytest.mark.fault("caches")
def test_image_that_changed_in_place_is_decoded_anew(load, folder):
    assert mean_colour(load(folder)) == RED
    repaint(folder)
    for path in folder.rglob("*.bmp"):
        os.utime(path, (LATER, LATER))
    assert mean_colour(load(folder)) == BLUE


@pytest.mark.fault("caches")
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of a file's last change of status")
def test_image_whose_time_was_set_back_is_decoded_anew(load, folder):
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.bmp")}
    assert mean_colour(load(folder)) == RED
    repaint(folder)
    for path, time in times.items():
        os.utime(path, ns=(time, time))
    assert mean_colour(load(folder)) == BLUE


@pytest.mark.fault("caches")
def test_image_replaced_by_renaming_is_decoded_anew(load, folder, tmp_path):
    assert mean_colour(load(folder)) == RED
    for path in folder.rglob("*.bmp"):
        (tmp_path / "new.bmp").write_bytes(solid_colour("blue"))
        os.replace(tmp_path / "new.bmp", path)
    assert mean_colour(load(folder)) == BLUE


@pytest.mark.fault("caches")
def test_zip_of_the_same_names_and_lengths_is_decoded_anew(load, tmp_path):
    path = write_zip(tmp_path / "archive.zip")
    times = path.stat().st_mtime_ns
    assert mean_colour(load(path)) == RED
    write_zip(path, colour="blue")
    os.utime(path, ns=(times, times))
    assert mean_colour(load(path)) == BLUE


@pytest.mark.fault("caches")
def test_unchanged_images_come_from_the_cache(load, folder, tmp_path, monkeypatch):
    load(folder)
    monkeypatch.setattr("helpers.data.animal_faces.decode_all", lambda *_: pytest.fail("decoded again"))
    assert mean_colour(load(folder)) == RED
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


@pytest.mark.fault("caches")
def test_the_library_that_paints_is_part_of_the_key_of_synthetic_faces(monkeypatch):
    before = _recipe("train", 16, 6, 0)
    monkeypatch.setattr("PIL.__version__", "0.1")
    assert _recipe("train", 16, 6, 0) != before


# --- mixed slices -----------------------------------------------------------------------------------------------------


def listed(counts: dict[str, int]) -> list[int]:
    """The labels of a listing of so many files a class, in the order of its entries."""
    collection = Collection.__new__(Collection)
    collection.path = Path("listing")
    collection.files = {f"train/{name}/{i:04}.png": 1 for name, count in counts.items() for i in range(count)}
    collection.folders = {"train", *(f"train/{name}" for name in counts)}
    collection.stamps = {}
    return [entry.label for entry in scan(collection, "train").entries]


@pytest.mark.fault("slices")
@given(st.lists(st.integers(1, 30), min_size=3, max_size=3), st.integers(0, 90), st.integers(1, 90))
def test_every_slice_is_mixed_until_a_class_is_used_up(counts, start, length):
    labels = listed(dict(zip(CLASSES, counts, strict=True)))
    assert [labels.count(label) for label in range(3)] == counts
    mixed = labels[: 3 * min(counts)][start : start + length]
    share = [mixed.count(label) for label in range(3)]
    assert max(share) - min(share) <= 1


@pytest.mark.fault("slices")
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_slices_of_photographs_are_balanced(load, tree, tmp_path, split, packed):
    root = tree
    if packed:
        root = tmp_path / "archive.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for file in sorted(tree.rglob("*.png")):
                archive.write(file, f"afhq/{file.relative_to(tree).as_posix()}")
    faces = load(root, split)
    for part in (slice(0, 6), slice(9, 18), slice(-12, None), slice(0, 24)):
        counts = set(faces[part].counts.values())
        assert max(counts) - min(counts) == 0, part
    colours = {"cat": [200, 60, 20], "dog": [20, 160, 60], "wild": [40, 40, 220]}
    assert [faces.images[i, :, 8, 8].tolist() for i in range(3)] == list(colours.values()), "labels follow the images"
    assert np.shares_memory(faces[:6].images, faces.images), "a slice is a view"


@pytest.mark.fault("slices")
@pytest.mark.parametrize("limit", [1, 2, 7, 30, 1000])
def test_a_limit_is_the_first_slice(load, tree, limit):
    every = load(tree)
    limited = load_faces("animal-faces", "train", 16, root=tree, limit=limit, progress=False)
    assert limited.labels.tolist() == every.labels[:limit].tolist()


@pytest.mark.fault("slices")
def test_a_class_that_is_used_up_leaves_the_others_mixed(load, tree):
    for i in range(5, 11):
        (tree / "train" / "dog" / f"{i:02}.png").unlink()
    labels = load(tree).labels.tolist()
    assert labels[:15] == [0, 1, 2] * 5 and labels[15:] == [0, 2] * 6
