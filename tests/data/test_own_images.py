"""Your own images: every layout that people have, and what is said where one cannot be used."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.data import Faces, load_faces
from helpers.data.collection import Collection
from helpers.data.own_images import files_of, find_layout, source_name

COLOURS = {"cat": "red", "rabbit": "lime", "horse": "blue"}
EXPECTED = {"cat": [255, 0, 0], "rabbit": [0, 255, 0], "horse": [0, 0, 255]}


def make(folder: Path, layout: str, count: int = 10) -> Path:
    """Write `count` images per class; the layout's fields are {name}, {i} and {split}."""
    for name, colour in COLOURS.items():
        for i in range(count):
            split = "val" if i < 2 else "train"
            path = folder / layout.format(name=name, i=i, split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20 + i, 16), colour).save(path)
    return folder


def pack(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return target


def load(path: Path, split: str = "train", size: int = 8, **options) -> Faces:
    return load_faces(str(path), split, size, progress=False, **options)


def colours_by_class(faces: Faces) -> dict[str, list[int]]:
    """The colour of the images of each class; fails where a class has more than one."""
    found = {}
    for name in faces.class_names:
        pixels = faces.of_class(name).images.transpose(0, 2, 3, 1).reshape(-1, 3)
        assert (pixels == pixels[0]).all()
        found[name] = pixels[0].tolist()
    return found


LAYOUTS = {
    "class folders": "{name}/{i}.png",
    "in a folder": "holiday/{name}/{i}.png",
    "folders inside the classes": "{name}/album {i}/{i}.png",
    "train and val": "{split}/{name}/{i}.png",
    "train and val in a folder": "set/{split}/{name}/{i}.png",
    "train and val, classes with folders inside": "{split}/{name}/album/{i}.png",
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_class_folders_in_every_layout(tmp_path: Path, layout: str, packed: bool) -> None:
    folder = make(tmp_path / "pets", layout)
    source = pack(folder, tmp_path / "pets.zip") if packed else folder
    train, val = load(source), load(source, "val")
    assert train.class_names == ("cat", "horse", "rabbit") and train.source == "pets" and not train.skipped
    assert colours_by_class(train) == colours_by_class(val) == EXPECTED
    held_out = 2 if "split" in layout else 1
    assert set(val.counts.values()) == {held_out} and set(train.counts.values()) == {10 - held_out}
    assert train.labels[:3].tolist() == [0, 1, 2], "the classes in rotation"


@pytest.mark.parametrize(
    ("layout", "name"),
    [("{name}{i}.png", "pets"), ("chelsea/{name}{i}.png", "chelsea"), ("{split}/{name}{i}.png", "pets")],
)
def test_images_without_classes_are_one_class(tmp_path: Path, layout: str, name: str) -> None:
    train = load(make(tmp_path / "pets", layout))
    assert train.class_names == (name,) and len(train) in (24, 27)


@pytest.mark.parametrize("folder", ["val", "valid", "validation", "test", "Val"])
def test_names_of_the_folder_for_validation(tmp_path: Path, folder: str) -> None:
    make(tmp_path, "train/{name}/{i}.png", count=2)
    make(tmp_path, folder + "/{name}/{i}.png", count=1)
    assert len(load(tmp_path)) == 6 and len(load(tmp_path, "val")) == 3


def test_a_class_may_be_called_test_where_there_is_no_folder_train(tmp_path: Path) -> None:
    make(tmp_path, "test/{name}{i}.png")
    make(tmp_path, "field/{name}{i}.png")
    assert load(tmp_path).class_names == ("field", "test")


def test_what_is_held_out_depends_on_no_other_class(tmp_path: Path) -> None:
    layout = find_layout(Collection(make(tmp_path / "one", "{name}/{i}.png", count=30)))
    held_out = {file.path for file in files_of(layout, "val")}
    fewer = layout._replace(files=[file for file in layout.files if file.class_name != "horse"])
    assert {file.path for file in files_of(fewer, "val")} == {path for path in held_out if "horse" not in path}
    assert len(held_out) == 9 and not held_out & {file.path for file in files_of(layout, "train")}


def test_every_format_and_mode_becomes_an_upright_central_square(tmp_path: Path) -> None:
    wide = Image.new("RGB", (48, 16), "white")
    wide.paste("red", (16, 0, 32, 16))
    wide.save(tmp_path / "wide.JPG", quality=95)
    Image.new("L", (16, 16), 128).save(tmp_path / "grey.png")
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "transparent.webp")
    Image.new("P", (16, 16)).save(tmp_path / "palette.gif")
    Image.fromarray(np.full((16, 16), 65535, np.uint16)).save(tmp_path / "deep.tiff")
    faces = load(tmp_path)
    held_out = load(tmp_path, "val")
    names = sorted(path.name for path in tmp_path.glob("*.*"))
    assert len(faces) + len(held_out) == len(names) == 5
    means = sorted(image.mean((1, 2)).round().tolist() for part in (faces, held_out) for image in part.images)
    assert means[0] == [0, 0, 0] and means[1] == [128, 128, 128] and means[-1] == [255, 255, 255]
    red = next(mean for mean in means if mean[0] > 200 and mean[1] < 40)
    assert red[2] < 40, "only the middle of the wide image is left"


def colours_in_quarters(image: np.ndarray) -> list[list[int]]:
    """The mean colour of every quarter of the height of an image, (3, H, W)."""
    return [part.mean((1, 2)).round().astype(int).tolist() for part in np.array_split(image, 4, axis=1)]


def test_height_and_width_take_the_largest_central_part_of_that_shape(tmp_path: Path) -> None:
    tall = Image.new("RGB", (40, 120), "white")  # white above and below: what is cropped
    for i, colour in enumerate(("red", "lime", "blue", "black")):
        tall.paste(colour, (0, 20 + 20 * i, 40, 40 + 20 * i))
    tall.save(tmp_path / "tall.png")
    exif = Image.Exif()
    exif[274] = 6  # the camera lay on its side
    tall.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    tall.resize((400, 1200), Image.Resampling.NEAREST).save(tmp_path / "large.jpg", quality=95)
    faces = load_faces(str(tmp_path), "train", (32, 16), progress=False)
    assert faces.images.shape == (3, 3, 32, 16) and faces.height_and_width == (32, 16) and "of 32x16 px" in repr(faces)
    for image in faces.images:
        expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]
        np.testing.assert_allclose(colours_in_quarters(image), expected, atol=16)
    with pytest.raises(ValueError, match="32x16 pixels are not square"):
        _ = faces.size
    assert load_faces(str(tmp_path), "train", (16, 16), progress=False).size == 16


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    for size in (0, (16,), (16, 16, 16), "16", (16, 7), (16, 16.0), (16, 2000)):
        with pytest.raises(ValueError, match="or height and width, got"):
            load_faces(str(tmp_path), "train", size, progress=False)  # type: ignore[arg-type]
    for source in ("toy-faces", "animal-faces"):
        with pytest.raises(ValueError, match=f"the images of {source} are square"):
            load_faces(source, "train", (16, 32), progress=False)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    make(tmp_path, "train/{name}/{i}.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "cover.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "train" / "montage.png")
    (tmp_path / "train" / "cat" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not meant to be one")
    with pytest.warns(UserWarning, match="3 files could not be used"):
        faces = load(tmp_path)
    reasons = {skipped.path: skipped.reason for skipped in faces.skipped}
    assert reasons.keys() == {"cover.png", "train/montage.png", "train/cat/broken.jpg"}
    assert "beside the folder train" in reasons["cover.png"]
    assert "beside the class folders" in reasons["train/montage.png"]
    assert "not an image" in reasons["train/cat/broken.jpg"]
    assert colours_by_class(faces) == EXPECTED, "labels stay with their images"


def test_a_large_collection_is_listed_in_a_time_that_grows_with_its_files(monkeypatch) -> None:
    """Counted, not timed: each path is looked at a few times, however many there are."""

    class Counted(str):
        looked_at = 0

        def split(self, *arguments):
            Counted.looked_at += 1
            return str.split(self, *arguments)

        def __hash__(self):
            Counted.looked_at += 1
            return str.__hash__(self)

    listing = Collection.__new__(Collection)
    listing.path = Path("listing")
    listing.files = {Counted(f"train/{i % 3}/{i}.png"): 1 for i in range(900)}
    Counted.looked_at = 0
    assert len(find_layout(listing).files) == 900
    assert Counted.looked_at < 20 * 900


def test_new_files_are_noticed(tmp_path: Path) -> None:
    make(tmp_path, "{name}/{i}.png")
    assert len(load(tmp_path)) == 27
    Image.new("RGB", (16, 16), "red").save(tmp_path / "cat" / "new.png")
    assert len(load(tmp_path)) + len(load(tmp_path, "val")) == 31


@pytest.mark.parametrize(
    ("prepare", "split", "message"),
    [
        (lambda folder: None, "train", "holds no images: none of its 0 files ends in .jpg, .jpeg"),
        (lambda folder: (folder / "a.txt").write_text(""), "train", "none of its 1 files"),
        (
            lambda folder: make(folder, "{name}/{i}.png", 3),
            "val",
            "no images for validation: of each class of at least 5",
        ),
        (lambda folder: make(folder, "train/{name}/{i}.png", 4), "val", "no images for validation"),
        (
            lambda folder: (folder / "a.png").write_bytes(b"x"),
            "train",
            "none of the 1 train images .* a.png: not an im",
        ),
    ],
)
def test_what_cannot_be_loaded(tmp_path: Path, prepare, split: str, message: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(ValueError, match=message):
        load(folder, split)


def test_files_that_are_no_zip_and_places_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "half.zip").write_bytes(b"PK half a download")
    with pytest.raises(ValueError, match="half.zip is not a whole zip file"):
        load(tmp_path / "half.zip")
    with pytest.raises(ValueError, match="unknown source .*nowhere.* nor a folder or zip that exists"):
        load(tmp_path / "nowhere")


def test_names_of_sources() -> None:
    assert [source_name(name) for name in ("toy-faces", "/a/pets", "pets.ZIP", "a.b")] == [
        "toy-faces",
        "pets",
        "pets",
        "a.b",
    ]
    assert source_name(".") == Path.cwd().name


def test_the_command_says_what_is_there(tmp_path: Path) -> None:
    make(tmp_path / "pets", "{name}/{i}.png")
    command = [sys.executable, "-m", "helpers.data", "--source", str(tmp_path / "pets"), "--size", "16"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first.startswith("Faces(pets train, 27 of 16 px: 9 cat, 9 horse, 9 rabbit)")
    assert second.startswith("Faces(pets val, 3 of 16 px: 1 cat, 1 horse, 1 rabbit)")
