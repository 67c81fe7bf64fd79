"""A folder or zip of pictures in class folders: what is in there, and the bytes of each.

Layout: `PREFIX/train/cat/*.jpg`, PREFIX being anything (`afhq` at Kaggle) or nothing; splits train and val (or test, as
AFHQ v2 calls it). Hidden files and what macOS and Windows leave behind are passed over.
"""

import hashlib
import os
import stat
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from helpers.data.faces import CLASS_NAMES, Skipped
from helpers.data.images import MOST_BYTES, BadPictureError, Entry

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "test")}
DEPTH = 4  # folders inside one another that are looked into: two of PREFIX, the split, the class
LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


class Contents(NamedTuple):
    """The files of one split."""

    entries: list[Entry]  # should be pictures; by class, then by name
    skipped: list[Skipped]  # lie where no picture belongs
    digest: str  # SHA-256 of every entry's name and length


class Collection:
    """A folder: its files, its folders, and the bytes of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, int] = {}  # path inside, with /, to length in bytes
        self.folders: set[str] = set()  # also the empty ones
        self._list()

    def _list(self) -> None:
        self._list_folder(self.path, "", DEPTH)

    def _list_folder(self, folder: Path, prefix: str, depth: int) -> None:
        try:
            found = sorted(os.scandir(folder), key=lambda one: one.name)
        except PermissionError as error:
            raise PermissionError(
                f"the folder {folder} cannot be read ({error.strerror}): give yourself the right to "
                "(chmod -R u+rX) or point ANIMAL_FACES_DIR elsewhere"
            ) from error
        for one in found:
            if _is_litter(one.name):
                continue
            path = prefix + one.name
            if one.is_dir():
                self.folders.add(path)
                if depth > 1:
                    self._list_folder(Path(one.path), f"{path}/", depth - 1)
            else:
                try:
                    self.files[path] = one.stat().st_size
                except OSError:  # a link to nowhere: reading it will say so
                    self.files[path] = 0

    def read(self, entry: Entry) -> bytes:
        """The bytes of a file. Raises BadPictureError, or OSError."""
        with open(self.path / entry.path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadPictureError("not an ordinary file")
            return file.read(MOST_BYTES + 1)  # one more than allowed, so that `decode` notices


class ZipCollection(Collection):
    """The files of a zip, read in place: nothing is unpacked. One with names that would lead out of it is refused."""

    def __init__(self, path: Path) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is not a whole zip file ({error}): copy or download it again") from error
        super().__init__(path)

    def _list(self) -> None:
        if outside := [name for name in self.zip.NameToInfo if name.startswith("/") or ".." in name.split("/")]:
            raise ValueError(
                f"{self.path} is refused: it holds names that lead out of it, such as {outside[0]!r}, "
                "which no honest zip does; get it anew from where it was published"
            )
        for name, info in sorted(self.zip.NameToInfo.items()):  # of two of one name, the last: as unpacking does
            if any(map(_is_litter, name.split("/"))):
                continue
            parts = name.split("/")  # a folder's name ends with /, so its last part is empty
            self.folders |= {"/".join(parts[:level]) for level in range(1, len(parts))}
            if not info.is_dir():
                self.files[name] = info.file_size

    def read(self, entry: Entry) -> bytes:
        if entry.bytes > MOST_BYTES:  # a zip never yields more than it states, so a bomb stops here
            raise BadPictureError(f"{entry.bytes / 2**20:.0f} MiB, more than the {MOST_BYTES // 2**20} MiB allowed")
        try:
            return self.zip.read(entry.path)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise BadPictureError(f"damaged, encrypted or packed in an unknown way inside the zip ({error})") from None


def open_collection(path: Path) -> Collection:
    """The collection in a folder or zip file. Raises ValueError for a damaged zip."""
    return Collection(path) if path.is_dir() else ZipCollection(path)


def split_prefix(collection: Collection) -> str | None:
    """What stands before train/ or val/: the shallowest folder that has one of them, "" at the top, None: nowhere."""
    names = {name for aliases in SPLIT_FOLDERS.values() for name in aliases}
    parents = {folder.rpartition("/")[0] for folder in collection.folders if folder.rpartition("/")[2] in names}
    return min(parents, key=lambda parent: (parent.count("/") + bool(parent), parent), default=None)


def scan(collection: Collection, split: str) -> Contents:
    """The files of one split.

    Raises:
        ValueError: if the split or one of the classes is missing or empty, or a class folder has an unknown name.
        PermissionError: if a folder cannot be read.
    """
    prefix = split_prefix(collection)
    folders = collection.folders
    tops = [f"{prefix}/{name}" if prefix else name for name in SPLIT_FOLDERS[split]]
    top = next((top for top in tops if top in folders), None)
    if top is None:
        raise ValueError(f"{collection.path} has no {split} pictures: there is no folder {' or '.join(tops)}")
    classes = {folder.removeprefix(f"{top}/") for folder in folders if folder.rpartition("/")[0] == top}
    if unknown := sorted(classes - set(CLASS_NAMES)):
        raise ValueError(
            f"{collection.path} has class folders that nobody knows in {top}: {', '.join(unknown)}; "
            f"expected are {', '.join(CLASS_NAMES)}. Rename them or move them away"
        )
    skipped = [
        Skipped(folder, "a folder inside a class folder is not looked into")
        for folder in sorted(folders)
        if folder.startswith(f"{top}/") and folder.count("/") == top.count("/") + 2
    ]
    entries: dict[str, list[Entry]] = {name: [] for name in CLASS_NAMES}
    for path, length in collection.files.items():
        parent, _, _ = path.rpartition("/")
        if parent == top:
            skipped.append(Skipped(path, "it lies beside the class folders, not in one"))
        elif (name := parent.removeprefix(f"{top}/")) in entries and parent.startswith(f"{top}/"):
            entries[name].append(Entry(path, length, CLASS_NAMES.index(name)))
    for name in CLASS_NAMES:
        if not entries[name]:
            what = "is empty" if name in classes else "is missing"
            raise ValueError(f"the class {name} {what} in {collection.path}: there should be pictures in {top}/{name}/")
    ordered = [entry for name in CLASS_NAMES for entry in entries[name]]
    return Contents(ordered, skipped, _digest(ordered))


def _digest(entries: list[Entry]) -> str:
    listing = "\n".join(f"{entry.path}\t{entry.bytes}" for entry in entries)
    return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
