"""Your own images: a folder or a zip of them as training and validation images.

Images that somebody has collected lie in folders already, and should not have to be moved for a training. So the layout
is recognised. Class folders (`cats/*.jpg`, `dogs/*.jpg`) give the classes, also below `train/` and `val/`, and with
folders inside them. Images without class folders are one class, named after their folder. Without a folder for
validation, a tenth of each class is held out, always the same files. Captions come along, see `own_captions`.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from helpers.data.cache import load_or_build
from helpers.data.collection import SPLIT_FOLDERS as SPLITS
from helpers.data.collection import Collection, ZipCollection, files_digest, in_rotation
from helpers.data.faces import Faces, Skipped
from helpers.data.images import DECODER_VERSION, Entry, decode_all
from helpers.data.own_captions import read_captions
from helpers.data.sizes import Size, plain_size, size_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw")  # images all the same
SPLIT_FOLDERS = {"train": SPLITS["train"], "val": (*SPLITS["val"], "valid", "validation")}
UNREAD = "this format is not read: convert it to JPEG or PNG"
HELD_OUT = 0.1  # of a class, where there is no folder for validation
FEW = 5  # images of a class, of which none is held out
DEPTH = 8  # levels of folders that are searched


class ImageFile(NamedTuple):
    """An image in a collection, and what its folders say of it."""

    path: str  # inside the folder or zip, with /
    split: str  # "train", "val", or "" where no folder says so
    class_name: str


class Layout(NamedTuple):
    """The images of a collection."""

    files: list[ImageFile]
    skipped: list[Skipped]  # images that lie where none belongs, or whose format is not read

    @property
    def class_names(self) -> tuple[str, ...]:
        """In alphabetical order."""
        return tuple(sorted({file.class_name for file in self.files}))


def load_own_images(path: Path, split: str, size: Size, *, cache_dir: Path, progress: bool) -> Faces:
    """Load the images of a folder or zip: the largest central part of each that has this shape, resized.

    `Faces.skipped` lists the files left out. `Faces.captions` has "" for an image without a caption, and is None if no
    image of the collection has one.

    Args:
        path: of the folder or zip.
        split: "train" or "val".
        size: H = W, or (H, W), in pixels.
        cache_dir, progress: as for `helpers.data.load_faces`.

    Raises:
        FileNotFoundError: if there is no such folder or zip.
        ValueError: if it holds no images, or if none of this split can be read.
        PermissionError: if a folder cannot be read.
    """
    collection = open_collection(path)
    layout = find_layout(collection)
    entries = [_entry(collection, file, layout.class_names) for file in files_of(layout, split)]
    if not entries:
        raise ValueError(_none_held_out(collection, layout))
    recipe = {
        "source": "own images",
        "split": split,
        "size": plain_size(size),
        "files": files_digest(entries, collection.stamps),
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
    }

    def build(details: dict) -> Iterator[np.ndarray]:
        skipped: list[Skipped] = []
        yield from decode_all(entries, collection.read, size, skipped, progress)
        if len(skipped) == len(entries):
            first = f"{skipped[0].path}: {skipped[0].reason}"
            raise ValueError(f"none of the {len(entries)} {split} images in {path} can be read; {first}")
        details["skipped"] = skipped

    name = source_name(path)
    images, details = load_or_build(cache_dir, f"{name}-{split}-{size_text(size)}", recipe, build)
    undecodable = tuple(Skipped(*item) for item in details["skipped"])
    bad_paths = {item.path for item in undecodable}
    used = [entry for entry in entries if entry.path not in bad_paths]
    labels = np.array([entry.label for entry in used], dtype=np.int64)
    texts = read_captions(collection, [file.path for file in layout.files])
    captions = tuple(texts.by_path.get(entry.path, "") for entry in used) if texts.by_path else None
    skipped = undecodable + tuple(layout.skipped) + tuple(texts.unused)
    return Faces(images, labels, layout.class_names, captions, source=name, split=split, skipped=skipped)


def source_name(source: str | Path) -> str:
    """What a source is called in names of files: its own name, or of a folder or zip the last part without `.zip`."""
    path = Path(source)
    return path.stem if path.suffix.lower() == ".zip" else path.name or path.resolve().name


def open_collection(path: Path) -> Collection:
    """Open a folder or zip.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a file that is no whole zip.
        PermissionError: if a folder cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no folder or zip {path}")
    return Collection(path, DEPTH) if path.is_dir() else ZipCollection(path)


def find_layout(collection: Collection) -> Layout:
    """Find the images of a collection, by the ends of their names, with the split and class that their folders say.

    Raises:
        ValueError: if there are none.
    """
    folders = {path: path.split("/")[:-1] for path in sorted(collection.files) if path.lower().endswith(SUFFIXES)}
    if not folders:
        count = len(collection.files)
        raise ValueError(f"{collection.path} holds no images: none of its {count} files ends in {', '.join(SUFFIXES)}")
    level = _level_of_train(folders.values())
    if level is None:
        splits = dict.fromkeys(folders, "")
        root = len(_common(folders.values()))
    else:
        splits = {path: _split_of(parts[level : level + 1]) for path, parts in folders.items()}
        root = level + 1
    inside = [path for path in folders if level is None or splits[path]]
    has_classes = any(len(folders[path]) > root for path in inside)
    used = [path for path in inside if len(folders[path]) > root] if has_classes else inside
    only = folders[inside[0]][-1] if level is None and root else source_name(collection.path)
    files = [ImageFile(path, splits[path], folders[path][root] if has_classes else only) for path in used]
    reasons = dict.fromkeys(
        (path for path in sorted(collection.files) if path.lower().endswith(UNREAD_SUFFIXES)), UNREAD
    )
    reasons |= dict.fromkeys(folders.keys() - set(inside), "it lies beside the folder train, not in it")
    reasons |= dict.fromkeys(set(inside) - set(used), "it lies beside the class folders, not in one")
    return Layout(files, [Skipped(path, reason) for path, reason in sorted(reasons.items())])


def files_of(layout: Layout, split: str) -> list[ImageFile]:
    """The files of a split, with the classes in rotation, so that every slice is mixed.

    Where no folder is for validation, HELD_OUT of each class are held out, chosen by a hash of their paths; none of a
    class of fewer than FEW images.
    """
    by_class: dict[str, list[ImageFile]] = {name: [] for name in layout.class_names}
    for file in layout.files:
        by_class[file.class_name].append(file)
    has_val = any(file.split == "val" for file in layout.files)
    rows = []
    for files in by_class.values():
        held_out = {file for file in files if file.split == "val"} if has_val else _held_out(files)
        rows.append([file for file in files if (file in held_out) == (split == "val")])
    return in_rotation(rows)


def _held_out(files: list[ImageFile]) -> set[ImageFile]:
    """A tenth of a class, the same files every time."""
    if len(files) < FEW:
        return set()
    shuffled = sorted(files, key=lambda file: hashlib.sha256(file.path.encode("utf-8", "surrogatepass")).digest())
    return set(shuffled[: max(1, round(HELD_OUT * len(files)))])


def _level_of_train(folders: Iterable[list[str]]) -> int | None:
    """How many folders lie above the topmost one named train; None if there is none."""
    lowered = [[part.lower() for part in parts] for parts in folders]
    return min((parts.index("train") for parts in lowered if "train" in parts), default=None)


def _split_of(folder: list[str]) -> str:
    """The split that a folder of this name holds; "" for another name, and for none."""
    return next((split for split, names in SPLIT_FOLDERS.items() if folder and folder[0].lower() in names), "")


def _common(folders: Iterable[list[str]]) -> list[str]:
    """The folders that all these lists begin with."""
    levels = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return [parts[0] for parts in levels]


def _entry(collection: Collection, file: ImageFile, class_names: tuple[str, ...]) -> Entry:
    return Entry(file.path, collection.files[file.path], class_names.index(file.class_name))


def _none_held_out(collection: Collection, layout: Layout) -> str:
    """Why there is no image for validation."""
    return (
        f"{collection.path} has no images for validation: of each class of at least {FEW} images a tenth is held out, "
        f"and it has {len(layout.files)} in {len(layout.class_names)} classes. Add images, or put some into a folder "
        "val beside the folder train"
    )
