"""Locating the photographs, and what happens when files, folders or zips of them are not as they should be."""

import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from helpers.course import repository_root
from helpers.data import Faces, fetch, load_faces
from helpers.data.animal_faces import photographs_available

REAL = os.environ.get("ANIMAL_FACES_DIR")  # read before any test hides it


def load(root: Path | None = None, split: str = "train", size: int = 16, **options) -> Faces:
    return load_faces("animal-faces", split, size, root=root, progress=False, **options)


def pack(tree: Path, target: Path, prefix: str = "afhq/") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(tree.rglob("*.*")):
            archive.write(file, prefix + file.relative_to(tree).as_posix())
    return target


def test_whether_they_are_available_is_known_without_fetching(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("from_kaggle", "from_hub"):
        monkeypatch.setattr(fetch, name, lambda: pytest.fail("it fetches"))
    assert not photographs_available()
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tmp_path / "gone"))
    assert not photographs_available()
    (tmp_path / "zips").mkdir()
    damaged = pack(tree, tmp_path / "zips" / "a.zip")
    damaged.write_bytes(damaged.read_bytes()[:100])
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(damaged))
    assert not photographs_available()
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tree))
    assert photographs_available()


# Layouts


@pytest.mark.parametrize("shape", ["afhq", "parent", "zip", "flat zip", "folder with a zip"])
def test_every_layout_gives_the_same_images(tree: Path, tmp_path: Path, shape: str) -> None:
    (tmp_path / "zips").mkdir()
    root = {
        "afhq": lambda: tree,
        "parent": lambda: tree.parent,
        "zip": lambda: pack(tree, tmp_path / "zips" / "a.zip"),
        "flat zip": lambda: pack(tree, tmp_path / "zips" / "a.zip", prefix=""),
        "folder with a zip": lambda: pack(tree, tmp_path / "zips" / "a.zip").parent,
    }[shape]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faces = load(root)
    assert faces.counts == {"cat": 11, "dog": 11, "wild": 11} and faces.skipped == ()
    assert faces.images[:, :, 8, 8].tolist() == [[200, 60, 20], [20, 160, 60], [40, 40, 220]] * 11
    assert "CC BY-NC 4.0" in faces.credit and (faces.source, faces.split) == ("animal-faces", "train")


def test_among_zips_the_smallest_that_is_large_enough_is_read(tree: Path, tmp_path: Path) -> None:
    zips = tmp_path / "zips"
    zips.mkdir()
    for size, colour in ((16, (16, 0, 0)), (32, (32, 0, 0)), (64, (64, 0, 0))):
        for file in tree.rglob("*.png"):
            Image.new("RGB", (size, size), colour).save(file)
        pack(tree, zips / f"animal-faces-{size}.zip")
    assert [load(zips, size=size).images[0, 0, 0, 0] for size in (8, 16, 20, 32, 64)] == [16, 16, 32, 32, 64]
    with pytest.warns(UserWarning, match="are 64 px and are enlarged to 80 px"):
        assert load(zips, size=80).images[0, 0, 0, 0] == 64


def test_the_other_split_and_what_afhq_v2_calls_it(tree: Path) -> None:
    (tree / "val" / "cat" / "00.png").unlink()
    assert load(tree, "val").counts["cat"] == 10
    (tree / "val").rename(tree / "test")
    assert load(tree, "val").counts["cat"] == 10
    shutil.rmtree(tree / "test")
    with pytest.raises(ValueError, match="no val images: there is no folder val or test"):
        load(tree, "val")


def test_litter_is_passed_over(tree: Path, tmp_path: Path) -> None:
    for name in (".DS_Store", "train/.hidden/x", "train/cat/Thumbs.db", "__MACOSX/afhq/train/horse/._0.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("litter")
    assert load(tree).skipped == () and len(load(pack(tree, tmp_path / "a.zip"))) == 33


def test_limit_takes_the_classes_in_turn(tree: Path) -> None:
    assert load(tree, limit=7).counts == {"cat": 3, "dog": 2, "wild": 2}
    assert len(load(tree, limit=1000)) == 33


def test_adding_a_file_is_noticed(tree: Path) -> None:
    assert len(load(tree)) == 33
    Image.new("RGB", (40, 40)).save(tree / "train" / "cat" / "99.png")
    assert len(load(tree)) == 34


# Bad files: counted, named, warned of


def test_bad_files_are_skipped_by_name_and_labels_stay_right(tree: Path) -> None:
    (tree / "train" / "cat" / "00.png").write_bytes(b"")
    (tree / "train" / "dog" / "05.png").write_bytes(b"no image")
    for i in range(20):  # so that one is less than a tenth
        shutil.copy(tree / "train" / "cat" / "01.png", tree / "train" / "cat" / f"a{i}.png")
        shutil.copy(tree / "train" / "dog" / "01.png", tree / "train" / "dog" / f"a{i}.png")
    for _ in range(2):  # decoded, then from the cache: never silently smaller
        with pytest.warns(UserWarning, match="2 files could not be used") as caught:
            faces = load(tree)
        assert "71 remain" in str(caught[0].message) and "train/cat/00.png: zero bytes" in str(caught[0].message)
        assert [item.path for item in faces.skipped] == ["train/cat/00.png", "train/dog/05.png"]
        assert faces.counts == {"cat": 30, "dog": 30, "wild": 11}
        assert faces.of_class("dog").images[:, :, 8, 8].tolist() == [[20, 160, 60]] * 30


def test_a_long_list_is_cut_in_the_warning_but_not_in_skipped(tree: Path) -> None:
    for i in range(5):
        (tree / "train" / f"stray{i}.png").write_bytes(b"x")
    with pytest.warns(UserWarning, match="5 files .* and 2 more in Faces.skipped"):
        assert len(load(tree).skipped) == 5


def test_folders_inside_a_class_are_named(tree: Path) -> None:
    (tree / "train" / "cat" / "more").mkdir()
    shutil.copy(tree / "train" / "cat" / "01.png", tree / "train" / "cat" / "more" / "x.png")
    with pytest.warns(UserWarning, match="train/cat/more: a folder inside a class folder"):
        assert len(load(tree)) == 33


def test_links_to_nowhere_are_skipped(tree: Path) -> None:
    try:
        (tree / "train" / "cat" / "gone.jpg").symlink_to(tree / "nowhere.jpg")
    except OSError:
        pytest.skip("this system makes no symbolic links")
    with pytest.warns(UserWarning, match="gone.jpg: cannot be read"):
        assert len(load(tree)) == 33


@pytest.mark.parametrize("many", [2, 11])
def test_more_than_a_tenth_of_a_class_is_an_error(tree: Path, many: int) -> None:
    for i in range(many):
        (tree / "train" / "wild" / f"{i:02}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=f"{many} of the 11 wild images in .* cannot be used, more than 10%: .*zero"):
        load(tree)
    assert not list((tree.parent / "home" / "cache").iterdir()), "nothing of it may be cached"


# Bad folders: errors


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tree: (tree / "train/wild").rename(tree / "gone"), "the class wild is missing .* train/wild/"),
        (lambda tree: [file.unlink() for file in (tree / "train/dog").iterdir()], "the class dog is empty"),
        (
            lambda tree: (tree / "train/horse").mkdir(),
            "unknown class folders in train: horse; expected are cat, dog, wild",
        ),
        (lambda tree: (tree / "train/cat").rename(tree / "train/Cat!"), "unknown class folders in train: Cat!"),
    ],
    ids=["missing", "empty", "unknown", "misspelt"],
)
def test_bad_class_folders(tree: Path, tmp_path: Path, spoil, message: str) -> None:
    spoil(tree)
    with pytest.raises(ValueError, match=message):
        load(tree)


def test_an_unreadable_folder_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Simulated: an administrator, such as root in a container, reads everything whatever its mode.
    def scandir(folder: Path):
        if folder.name == "dog":
            raise PermissionError(13, "Permission denied")
        return os.scandir(folder)

    monkeypatch.setattr("helpers.data.collection.os", SimpleNamespace(scandir=scandir))
    with pytest.raises(PermissionError, match=r"dog cannot be read \(Permission denied\).*chmod"):
        load(tree)


def test_a_damaged_zip(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "half.zip").write_bytes(pack(tree, tmp_path / "a.zip").read_bytes()[:3000])
    with pytest.raises(ValueError, match="half.zip is not a whole zip file"):
        load(tmp_path / "half.zip")


def test_a_damaged_member_of_a_zip_is_skipped(tree: Path, tmp_path: Path) -> None:
    path = pack(tree, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    data = bytearray(path.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + 40] ^= 0xFF
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=f"{info.filename}: damaged.*inside the zip"):
        faces = load(path)
    assert len(faces) == 32


def test_a_zip_with_names_that_lead_out_of_it_is_refused(tree: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("../../escaped/train/cat/x.png", "/etc/x.png", "afhq/train/../../../x.png")):
        path = pack(tree, tmp_path / f"{number}.zip")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(ValueError, match=f"{number}.zip is refused: it holds names that lead out of it"):
            load(path, cache_dir=tmp_path / "cache")


def test_bombs_in_a_zip_are_skipped(tree: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("helpers.data.collection.MAX_BYTES", 50_000)
    path = pack(tree, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("afhq/train/cat/bomb.png", bytes(10_000_000))
    with pytest.warns(UserWarning, match="bomb.png: 10 MiB, more than"):
        faces = load(path, cache_dir=tmp_path / "cache")
    assert len(faces) == 33


# Where they are looked for


def offline(*_, **__):
    raise ConnectionError("no network here")


def test_when_they_are_nowhere_one_message_tells_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tmp_path / "typo"))
    monkeypatch.setattr("kagglehub.dataset_download", offline)
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with (
        pytest.warns(UserWarning, match="typo does not exist; looking elsewhere"),
        pytest.raises(FileNotFoundError) as caught,
    ):
        load()
    message = str(caught.value)
    for part in (
        f"1. ANIMAL_FACES_DIR: {tmp_path / 'typo'} does not exist",
        f"2. 00_assets/datasets/afhq: {tmp_path / 'checkout' / '00_assets'}",
        "Kaggle (andrewmvd/animal-faces, with kagglehub): ConnectionError: no network here",
        "hub (huggan/AFHQ): ConnectionError: no network here",
        "set ANIMAL_FACES_DIR to the zip",
        "source='toy-faces'",
    ):
        assert part in message


def test_local_copies_come_first_and_in_order(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_, **__):
        raise AssertionError("used the network although the photographs are here")

    monkeypatch.setattr("helpers.data.animal_faces.fetch.from_kaggle", never)
    monkeypatch.setattr("helpers.data.animal_faces.fetch.from_hub", never)
    kaggle = tmp_path / "kagglehub" / "datasets" / "andrewmvd" / "animal-faces"
    places = [kaggle / "versions" / "1", tmp_path / "checkout" / "00_assets" / "datasets", tmp_path / "mine"]
    for kept, place in enumerate(places, 5):  # later ones take precedence, and keep fewer or more dogs
        shutil.copytree(tree, place / "afhq")
        for i in range(kept, 11):
            (place / "afhq" / "train" / "dog" / f"{i:02}.png").unlink()
        if kept == 5:
            (kaggle / "1.complete").touch()
        if kept == 7:
            monkeypatch.setenv("ANIMAL_FACES_DIR", str(place))
        assert load().counts["dog"] == kept


def test_a_broken_off_kaggle_download_is_not_taken_for_the_whole(tree: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(tree, tmp_path / "kagglehub" / "datasets" / "andrewmvd" / "animal-faces" / "versions" / "1")
    monkeypatch.setattr("kagglehub.dataset_download", offline)
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="no network here"):
        load()


def test_a_bad_copy_of_ones_own_is_an_error_not_a_reason_to_download(tree: Path, monkeypatch) -> None:
    shutil.rmtree(tree / "train" / "dog")
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tree))
    with pytest.raises(ValueError, match="the class dog is missing"):
        load()


def test_kaggle_is_tried_last_but_one(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handles = []

    def download(handle: str) -> str:
        handles.append(handle)
        return str(tree.parent)

    monkeypatch.setattr("kagglehub.dataset_download", download)
    assert len(load()) == 33 and handles == ["andrewmvd/animal-faces"]


def test_a_given_root_is_the_only_place(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tree))
    with pytest.raises(FileNotFoundError, match="empty holds neither train/cat"):
        (tmp_path / "empty").mkdir()
        load(tmp_path / "empty")


def test_the_hubs_copy_becomes_a_zip_with_a_val_split(tmp_path: Path, monkeypatch) -> None:
    images = []
    labels = []
    for label in range(3):
        for i in range(13):
            Image.new("RGB", (20, 20), (i, label, 0)).save(tmp_path / "image.png")
            images.append({"bytes": (tmp_path / "image.png").read_bytes(), "path": None})
            labels.append(label)
    table = pyarrow.table({"image": [*images, {"bytes": None, "path": "lost.png"}], "label": [*labels, 0]})
    (tmp_path / "snapshot").mkdir()
    parquet.write_table(table, tmp_path / "snapshot" / "train.parquet")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "snapshot"))
    monkeypatch.setattr(fetch, "HUB_VAL", 3)
    assert fetch.from_hub() == fetch.hub_zip()
    train = load()
    val = load(split="val")
    assert set(train.counts.values()) == {10} and set(val.counts.values()) == {3}
    pixels = {faces.split: {tuple(image[:, 0, 0].tolist()) for image in faces.images} for faces in (train, val)}
    assert not pixels["train"] & pixels["val"] and len(pixels["train"] | pixels["val"]) == 39


# The command


def command_line(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "helpers.data", "--source", "animal-faces", "--size", "16", *arguments]
    return subprocess.run(command, cwd=repository_root(), capture_output=True, text=True, timeout=120)


def test_the_command_builds_the_cache_and_says_what_is_in_it(tree: Path, tmp_path: Path) -> None:
    done = command_line("--root", str(tree))
    assert done.returncode == 0 and "train, 33 of 16 px: 11 cat, 11 dog, 11 wild" in done.stdout, done.stderr
    assert "val, 33" in done.stdout and "CC BY-NC 4.0" in done.stdout and "33/33" in done.stderr
    assert len(list((tmp_path / "home" / "cache").glob("*.npy"))) == 2
    failed = command_line("--root", str(tmp_path / "nowhere"))
    assert failed.returncode == 1 and "nowhere does not exist" in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.skipif(not REAL, reason="set ANIMAL_FACES_DIR to try the photographs")
def test_the_photographs(tmp_path: Path) -> None:
    train, val = (load(Path(REAL), split, 64) for split in ("train", "val"))
    assert all(count > 50 for count in (*train.counts.values(), *val.counts.values()))
    assert not train.skipped and not val.skipped
    x = val.tensor()
    assert x.min() == -1 and x.max() == 1 and abs(x.mean()) < 0.3
    assert np.array_equal(load(Path(REAL), "val", 64).images, val.images)


def test_weights_trained_on_photographs_say_so_and_what_may_be_done_with_them(tree: Path, tmp_path: Path, monkeypatch):
    from helpers.tiny_sd.train import main
    from helpers.weights import read_metadata

    monkeypatch.setenv("ANIMAL_FACES_DIR", str(tree))
    tiny = ["--size", "16", "--widths", "8", "16", "--steps", "1", "--batch-size", "3", "--sample-every", "0"]
    assert main([*tiny, "--source", "animal-faces", "--out", str(tmp_path / "photographs")]) == 0
    metadata = read_metadata(tmp_path / "photographs" / "weights.safetensors")
    assert metadata["photographs"] == "11 cat, 11 dog, 11 wild"
    assert "CC BY-NC 4.0" in metadata["licence"] and "non-commercial use only" in metadata["licence"]
    assert main([*tiny, "--limit", "9", "--out", str(tmp_path / "synthetic")]) == 0
    assert "licence" not in read_metadata(tmp_path / "synthetic" / "weights.safetensors")
