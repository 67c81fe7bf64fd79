"""Datasets of the hub as your own images; the tables are real Parquet files, only their download is replaced."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from helpers.data import load_faces
from helpers.data.hub import find_images, is_hub_name, split_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLASSES = ["tabby", "black/white"]


def image_file(value: int, file_format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), (value, 0, 0)).save(buffer, file_format)
    return buffer.getvalue()


def write_table(path: Path, columns: dict, features: dict | None = None) -> Path:
    """A Parquet file as the hub's library `datasets` writes it, with its description of the columns."""
    table = pyarrow.table(columns)
    if features is not None:
        description = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": description})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def images(count: int, first: int = 0, file_format: str = "JPEG") -> list[dict]:
    return [{"bytes": image_file(10 * (first + i), file_format), "path": None} for i in range(count)]


IMAGE = {"image": {"_type": "Image"}}
LABELLED = IMAGE | {"label": {"_type": "ClassLabel", "names": CLASSES}}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands for a downloaded dataset; `calls` counts the requests in it."""
    folder = tmp_path / "snapshots" / COMMIT
    folder.mkdir(parents=True)

    def download(repo: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        assert repo == "owner/pets" and repo_type == "dataset"
        assert any(pattern.endswith("*.parquet") for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return folder


def test_classes_and_splits_of_tables(published):
    write_table(published / "data/train-00000-of-00002.parquet", {"image": images(6), "label": [0, 1] * 3}, LABELLED)
    write_table(published / "data/train-00001-of-00002.parquet", {"image": images(2, 6), "label": [0, 1]}, LABELLED)
    write_table(published / "data/validation-00000.parquet", {"image": images(2, 8), "label": [1, 0]}, LABELLED)
    train = load_faces("owner/pets", "train", 8, progress=False)
    val = load_faces("owner/pets", "val", 8, progress=False)
    assert train.class_names == val.class_names == ("black_white", "tabby")
    assert train.counts == {"black_white": 4, "tabby": 4} and val.counts == {"black_white": 1, "tabby": 1}
    reds = train.of_class("tabby").images[:, 0].mean((1, 2))
    assert np.allclose(sorted(reds), [0, 20, 40, 60], atol=3)
    assert train.captions is None and train.source == "pets"


def test_captions_of_a_table_without_classes_or_splits(published):
    texts = [f"cat number {i}" for i in range(10)]
    write_table(published / "pets.parquet", {"picture": images(10, file_format="PNG"), "text": texts})
    train = load_faces("owner/pets", "train", 8, progress=False)
    val = load_faces("owner/pets", "val", 8, progress=False)
    assert train.class_names == ("pets",) and (len(train), len(val)) == (9, 1)
    assert train.captions is not None and val.captions is not None
    assert sorted((*train.captions, *val.captions)) == texts
    for faces in (train, val):
        assert [f"cat number {image[0, 0, 0] // 10}" for image in faces.images] == list(faces.captions or ())


def test_of_several_captions_the_first_counts(published):
    columns = {"image": images(8), "caption": [["one", "another"]] * 4 + [[]] * 4}
    write_table(published / "train.parquet", columns, IMAGE)
    assert set(load_faces("owner/pets", "train", 8, progress=False).captions or ()) <= {"one", ""}


def test_rows_without_an_image_or_a_class_spoil_no_other(published):
    columns = {"image": [*images(6), {"bytes": None, "path": "lost.jpg"}], "label": [0, 1, 0, 1, -1, None, 0]}
    write_table(published / "train.parquet", columns, LABELLED)
    with pytest.warns(UserWarning, match="2 files could not be used .* beside the class folders"):
        faces = load_faces("owner/pets", "train", 8, progress=False)
    assert faces.counts == {"black_white": 2, "tabby": 2}


def test_one_folder_of_a_data_set(published):
    write_table(published / "small" / "train.parquet", {"image": images(3)}, IMAGE)
    write_table(published / "large" / "train.parquet", {"image": images(5), "text": ["a"] * 5}, IMAGE)
    with pytest.raises(ValueError, match=r"large/train.parquet and small/train.parquet have different columns"):
        find_images("owner/pets")
    assert len(load_faces("owner/pets/small", "train", 8, progress=False)) == 3
    assert len(load_faces("owner/pets/large", "train", 8, progress=False)) == 4, "and one is held out"


def test_tables_of_one_name_lose_no_images(published):
    for i in range(2):
        write_table(published / f"part-{i}" / "train-0.parquet", {"image": images(4, 4 * i)}, IMAGE)
    assert len(load_faces("owner/pets", "train", 8, progress=False)) == 7, "and one is held out"


def test_images_as_plain_bytes(published):
    write_table(published / "train.parquet", {"jpg": [image_file(50)] * 4, "caption": ["a", "b", "c", "d"]})
    assert sorted(load_faces("owner/pets", "train", 8, progress=False).captions or ()) == ["a", "b", "c", "d"]


def test_the_zip_is_written_once(published, monkeypatch):
    write_table(published / "train.parquet", {"image": images(6)}, IMAGE)
    first = find_images("owner/pets", progress=False)
    monkeypatch.setattr("helpers.data.hub.write_zip", lambda *_, **__: pytest.fail("written again"))
    assert find_images("owner/pets", progress=False) == first
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == [f"train/000-{i:06}.jpg" for i in range(6)]


def test_image_files_and_one_zip_are_used_as_they_are(published):
    (published / "cats").mkdir()
    for i in range(4):
        (published / "cats" / f"{i}.jpg").write_bytes(image_file(i))
    assert find_images("owner/pets") == published
    with zipfile.ZipFile(published / "cats.zip", "w") as archive:
        for path in sorted((published / "cats").iterdir()):
            archive.write(path, path.name)
            path.unlink()
    assert find_images("owner/pets") == published / "cats.zip"
    assert len(load_faces("owner/pets", "train", 8, progress=False)) == 4


def test_what_holds_no_images_is_refused(published):
    (published / "readme.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"owner/pets has no Parquet, image or zip file, .* --repo-type dataset"):
        find_images("owner/pets")
    for name in ("a.zip", "b.zip"):
        (published / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"has 2 zips \(a.zip, b.zip\), and one set of images is expected"):
        find_images("owner/pets")
    write_table(published / "train.parquet", {"text": ["a"], "number": [1]})
    with pytest.raises(ValueError, match="the table train.parquet has no images: its columns are text, number"):
        find_images("owner/pets")
    (published / "train.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match="train.parquet is damaged .* delete it and run the command again"):
        find_images("owner/pets")


def test_a_mistyped_folder_is_told_from_a_data_set(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Name resolution failed.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(FileNotFoundError) as caught:
        load_faces("photos/cats", progress=False)
    for part in (
        "'photos/cats' is no file or folder here",
        "Name resolution",
        "hf download --repo-type dataset photos",
    ):
        assert part in str(caught.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    assert not is_hub_name("photos/cats")


def test_paths_are_no_names_of_data_sets():
    for path in ("pets", "/owner/pets", "./owner/pets", "~/pets", "owner/pets/", "owner//pets", "-/"):
        assert not is_hub_name(path)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00001-ab12.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("test.parquet", "val"),
        ("training_notes.parquet", ""),
        ("data/pets.parquet", ""),
    ],
)
def test_splits_are_read_from_paths(path, split):
    assert split_of(Path(path)) == split


def test_a_training_takes_one(published, tmp_path):
    from helpers.tiny_sd.train import main

    texts = [f"a cat, {word}" for word in ("asleep", "awake")] * 6
    write_table(published / "data/train-00000-of-00001.parquet", {"image": images(12), "text": texts}, IMAGE)
    arguments = ["--source", "owner/pets", "--steps", "2", "--batch-size", "2", "--size", "16", "--widths", "32"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert list((tmp_path / "run").glob("*.safetensors"))


def test_the_check_command_takes_one(published, capsys):
    from helpers.data.__main__ import main

    write_table(published / "data/train-00000-of-00001.parquet", {"image": images(12)}, IMAGE)
    assert main(["check", "owner/pets"]) == 1, "so few images are a fault"
    printed = capsys.readouterr().out
    assert "train: 11 images (11 pets)" in printed and "--source owner/pets" in printed
