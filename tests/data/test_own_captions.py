"""Captions of your own images: found in every layout that people keep them in, and beside the right image."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from helpers.data import load_faces
from helpers.data.check import describe, find_faults, inspect_images
from helpers.data.collection import Collection
from helpers.data.own_captions import read_captions

COLOURS = ("red", "lime", "blue", "white", "black", "orange")


def save(folder: Path, layout: str = "{i}.png") -> dict[str, str]:
    """Write an image of each colour; returns the captions by path."""
    captions = {}
    for i, colour in enumerate(COLOURS):
        name = layout.format(i=i, name="dark" if colour == "black" else "light")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), colour).save(folder / name)
        captions[name] = f"all of it is {colour}"
    return captions


def as_jsonl(folder: Path) -> None:
    rows = [{"file_name": name, "text": caption, "x": [1]} for name, caption in save(folder).items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")


def as_csv(folder: Path) -> None:
    with open(folder / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["caption", "file_name"])
        writer.writerows(
            (caption + "\n", name.replace("/", "\\")) for name, caption in save(folder, "a/{i}.jpg").items()
        )


def in_a_split(folder: Path) -> None:
    captions = save(folder / "train", "{name}/{i}.png")
    rows = [{"file_name": name, "prompt": caption} for name, caption in captions.items()]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def as_texts(folder: Path) -> None:
    for name, caption in save(folder, "{name}/{i}.JPG").items():
        (folder / name).with_suffix(".TXT").write_text(f"\ufeff{caption}\r\n")
    (folder / "notes.txt").write_text("of no image")


def zipped(folder: Path) -> None:
    as_texts(folder / "images")
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in (folder / "images").rglob("*.*"):
            archive.write(path, path.relative_to(folder))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "metadata.jsonl": as_jsonl,
    "metadata.csv": as_csv,
    "table of a split": in_a_split,
    "text files": as_texts,
    "zip": zipped,
}


@pytest.mark.parametrize("write", LAYOUTS.values(), ids=LAYOUTS)
def test_captions_come_with_their_images(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    source = tmp_path / "images.zip" if (tmp_path / "images.zip").exists() else tmp_path
    faces = load_faces(str(source), "train", 8, progress=False, cache_dir=tmp_path.parent / "cache")
    assert faces.captions is not None and not faces.skipped and len(faces) >= 5
    named = {tuple(Image.new("RGB", (1, 1), colour).getpixel((0, 0))): colour for colour in COLOURS}
    for pixels, caption in zip(faces.images, faces.captions, strict=True):
        nearest = min(named, key=lambda colour: abs(pixels[:, 4, 4].astype(int) - colour).sum())
        assert caption == f"all of it is {named[nearest]}"


def test_images_without_a_caption_and_collections_without_any(tmp_path: Path) -> None:
    save(tmp_path)
    assert load_faces(str(tmp_path), size=8, progress=False, cache_dir=tmp_path / "c").captions is None
    (tmp_path / "3.txt").write_text("a caption")
    (tmp_path / "4.txt").write_text(" \n")
    captions = load_faces(str(tmp_path), size=8, progress=False, cache_dir=tmp_path / "c").captions
    assert captions is not None and set(captions) <= {"a caption", ""}
    found = read_captions(Collection(tmp_path, 4), [f"{i}.png" for i in range(6)])
    assert found.by_path == {"3.png": "a caption"} and found.unused == []


def test_a_table_counts_where_an_image_also_has_a_text(tmp_path: Path) -> None:
    as_jsonl(tmp_path)
    (tmp_path / "2.txt").write_text("another")
    assert read_captions(Collection(tmp_path, 4), ["2.png"]).by_path["2.png"] == "all of it is blue"


def test_what_gives_no_caption_is_named_and_costs_no_other(tmp_path: Path) -> None:
    as_jsonl(tmp_path)
    rows = ['{"file_name": "9.png", "text": "x"}', "half a row", "[1]", '{"text": "x"}', '{"file_name": "0.png"}']
    table = tmp_path / "metadata.jsonl"
    table.write_text("\n".join([*rows, *table.read_text("utf-8-sig").splitlines()]))
    (tmp_path / "5.txt").write_bytes(b"caf\xe9")
    found = read_captions(Collection(tmp_path, 4), [f"{i}.png" for i in range(6)])
    reasons = {place: reason for place, reason in found.unused}
    assert reasons.pop("metadata.jsonl, row 2").startswith("no JSON: ")
    assert reasons == {
        "5.txt": "no text in UTF-8",
        "metadata.jsonl, row 1": "there is no image '9.png'",
        "metadata.jsonl, row 3": "no JSON object",
        "metadata.jsonl, row 4": "it has no 'file_name'",
    }
    assert len(found.by_path) == 6
    with pytest.warns(UserWarning, match="5 files could not be used .*5.txt: no text in UTF-8"):
        load_faces(str(tmp_path), size=8, progress=False, cache_dir=tmp_path / "c")


def test_checking_counts_captions_and_finds_what_is_wrong_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    as_texts(folder)
    inspection = inspect_images(folder, 8, tmp_path / "cache", progress=False)
    assert "captions: 6 of 6 images, 5 to 5 words, median 5" in describe(inspection)
    names = {finding.name for finding in find_faults(inspection)}
    assert not names & {"no caption", "captions", "long caption", "unreadable"}
    (folder / "light" / "0.TXT").unlink()
    (folder / "light" / "1.TXT").write_bytes(b"\xff")
    (folder / "light" / "2.TXT").write_text("word " * 65)
    inspection = inspect_images(folder, 8, tmp_path / "cache", progress=False)
    assert "captions: 4 of 6 images, 5 to 65 words, median 5" in describe(inspection)
    faults = {finding.name: finding.text for finding in find_faults(inspection)}
    assert "2 of 6 images have no caption: light/0.JPG, light/1.JPG" in faults["no caption"]
    assert "1 captions cannot be used (light/1.TXT: no text in UTF-8)" in faults["captions"]
    assert "1 captions have more than 64 words: light/2.JPG" in faults["long caption"]
    assert "unreadable" not in faults
