"""A folder or zip of images in class folders: list its files and read them.

Layout: `PREFIX/train/cat/*.jpg`, PREFIX being anything (`afhq` at Kaggle) or nothing; splits train and val (or test, as
AFHQ v2 calls it). Hidden files and what macOS and Windows leave behind are passed over.

Files come with the classes in rotation, cat, dog, wild, cat, ...: any slice of them is mixed.
"""

import hashlib
import itertools
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from helpers.data.faces import CLASS_NAMES, Skipped
from helpers.data.images import MAX_BYTES, BadImageError, Entry

SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "test")}
Item = TypeVar("Item")

DEPTH = 4  # levels of folders that are searched: two of PREFIX, the split, the class
LITTER = ("Thumbs.db", "desktop.ini", "__MACOSX")


class Contents(NamedTuple):
    """The files of one split."""

    entries: list[Entry]  # should be images; the classes in rotation, each by name
    skipped: list[Skipped]  # lie where no image belongs
    digest: str  # SHA-256 of every entry's name, length and stamp


class Collection:
    """The files of a folder, by their paths inside it."""

    def __init__(self, path: Path, depth: int = DEPTH) -> None:
        """
        Args:
            path: of the folder.
            depth: levels of folders that are searched.

        Raises:
            PermissionError: if one of them cannot be read.
        """
        self.path = path
        self.depth = depth
        self.files: dict[str, int] = {}  # path inside, with /, to length in bytes
        self.stamps: dict[str, str] = {}  # path inside to what changes with the content
        self.folders: set[str] = set()  # also the empty ones
        self._list()

    def _list(self) -> None:
        """Fill `files` and `folders`."""
        self._list_folder(self.path, "", self.depth)

    def _list_folder(self, folder: Path, prefix: str, depth: int) -> None:
        try:
            items = sorted(os.scandir(folder), key=lambda item: item.name)
        except PermissionError as error:
            raise PermissionError(
                f"the folder {folder} cannot be read ({error.strerror}): give yourself the right to "
                "(chmod -R u+rX) or point ANIMAL_FACES_DIR elsewhere"
            ) from error
        for item in items:
            if _is_litter(item.name):
                continue
            path = prefix + item.name
            if item.is_dir():
                self.folders.add(path)
                if depth > 1:
                    self._list_folder(Path(item.path), f"{path}/", depth - 1)
            else:
                try:
                    status = item.stat()
                except OSError:  # a link to nowhere: reading it will say so
                    self.files[path] = 0
                    continue
                self.files[path] = status.st_size
                self.stamps[path] = f"{status.st_mtime_ns} {status.st_ctime_ns}"  # the second cannot be set back

    def read(self, entry: Entry) -> bytes:
        """Return the bytes of a file. Raises BadImageError, or OSError."""
        with open(self.path / entry.path, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadImageError("not an ordinary file")
            return file.read(MAX_BYTES + 1)  # one more than allowed, so that `decode` notices


class ZipCollection(Collection):
    """The files of a zip, read in place: nothing is unpacked. Names that lead out of it are refused.

    Names are taken as every tool writes them: with backslashes, with `./` in front, with doubled slashes.
    """

    def __init__(self, path: Path) -> None:
        self.members: dict[str, zipfile.ZipInfo] = {}  # by their path inside, with /
        try:
            self.zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError) as error:
            raise ValueError(f"{path} is not a whole zip file ({error}): copy or download it again") from error
        super().__init__(path)

    def _list(self) -> None:
        names = {info.filename: info.filename.replace("\\", "/") for info in self.zip.infolist()}
        if outside := [name for name, path in names.items() if _leads_out(path)]:
            raise ValueError(
                f"{self.path} is refused: it holds names that lead out of it, such as {outside[0]!r}, "
                "which no honest zip does; get it anew from where it was published"
            )
        for info in self.zip.infolist():  # of two of one name, the last: as unpacking does
            parts = [part for part in names[info.filename].split("/") if part not in ("", ".")]
            if not parts or any(map(_is_litter, parts)):
                continue
            is_folder = names[info.filename].endswith("/")
            levels = len(parts) if is_folder else len(parts) - 1
            self.folders |= {"/".join(parts[:level]) for level in range(1, levels + 1)}
            if not is_folder:
                self.members["/".join(parts)] = info
        for path, info in sorted(self.members.items()):
            self.files[path] = info.file_size
            self.stamps[path] = f"{info.CRC:08x}"

    def read(self, entry: Entry) -> bytes:
        if entry.bytes > MAX_BYTES:  # a zip never yields more than it states, so a bomb stops here
            raise BadImageError(f"{entry.bytes / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB allowed")
        try:
            return self.zip.read(self.members[entry.path])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise BadImageError(f"damaged, encrypted or packed in an unknown way inside the zip ({error})") from None


def split_prefix(collection: Collection) -> str | None:
    """Return the shallowest folder that holds train/ or val/: "" for the top, None if there is no such folder."""
    names = set().union(*SPLIT_FOLDERS.values())
    parents = {folder.rpartition("/")[0] for folder in collection.folders if folder.rpartition("/")[2] in names}
    return min(parents, key=lambda parent: (parent.count("/") + bool(parent), parent), default=None)


def split_folder(collection: Collection, split: str) -> str | None:
    """Return the folder of a split; None if there is none."""
    return next((top for top in _split_folders(collection, split) if top in collection.folders), None)


def _split_folders(collection: Collection, split: str) -> list[str]:
    """What the folder of a split may be called."""
    prefix = split_prefix(collection)
    return [f"{prefix}/{name}" if prefix else name for name in SPLIT_FOLDERS[split]]


def scan(collection: Collection, split: str) -> Contents:
    """List the files of one split.

    Raises:
        ValueError: if the split or one of the classes is missing or empty, or a class folder has an unknown name.
        PermissionError: if a folder cannot be read.
    """
    folders = collection.folders
    top = split_folder(collection, split)
    if top is None:
        tops = _split_folders(collection, split)
        raise ValueError(f"{collection.path} has no {split} images: there is no folder {' or '.join(tops)}")
    classes = {folder.removeprefix(f"{top}/") for folder in folders if folder.rpartition("/")[0] == top}
    if unknown := sorted(classes - set(CLASS_NAMES)):
        raise ValueError(
            f"{collection.path} has unknown class folders in {top}: {', '.join(unknown)}; "
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
            state = "is empty" if name in classes else "is missing"
            raise ValueError(f"the class {name} {state} in {collection.path}: there should be images in {top}/{name}/")
    ordered = in_rotation(entries.values())  # in the order of CLASS_NAMES
    return Contents(ordered, skipped, files_digest(ordered, collection.stamps))


def in_rotation(rows: Iterable[Iterable[Item]]) -> list[Item]:
    """The items of several rows in turn, the first of each, the second of each, ... until every row is used up."""
    turns = itertools.zip_longest(*rows)
    return [item for item in itertools.chain.from_iterable(turns) if item is not None]


def files_digest(entries: list[Entry], stamps: dict[str, str]) -> str:
    """SHA-256 of every entry's path, length and stamp."""
    listing = "\n".join(f"{entry.path}\t{entry.bytes}\t{stamps.get(entry.path)}" for entry in entries)
    return hashlib.sha256(listing.encode("utf-8", "surrogatepass")).hexdigest()


def _leads_out(path: str) -> bool:
    """Whether a path inside an archive is absolute, names a drive, or climbs."""
    return path.startswith("/") or path[1:3] == ":/" or ".." in path.split("/")


def _is_litter(name: str) -> bool:
    """Whether a name is hidden, or one that macOS and Windows leave behind."""
    return name.startswith(".") or name in LITTER
