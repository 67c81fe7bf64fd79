"""The real pictures, AFHQ (Choi et al., StarGAN v2, CVPR 2020; CC BY-NC 4.0): finding them, and their pixels.

Looked for in ANIMAL_FACES_DIR, in 00_assets/datasets/afhq and among earlier downloads; then fetched with kagglehub,
then from the hub. A folder or a zip will do, in the layout `afhq/train/cat/*.jpg` or `train/cat/*.jpg`, pictures of any
size; also a folder that holds such zips.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL

from helpers.course import repository_root
from helpers.data import fetch
from helpers.data.cache import load_or_build
from helpers.data.collection import Collection, Contents, ZipCollection, scan, split_prefix
from helpers.data.faces import CLASS_NAMES, Faces, Skipped
from helpers.data.images import DECODER_VERSION, BadPictureError, Entry, decode_all, native_size

CREDIT = "Animal Faces-HQ (AFHQ), Choi et al., StarGAN v2, CVPR 2020. CC BY-NC 4.0: non-commercial use, with credit."
WEIGHTS_LICENCE = (
    "trained on photographs (AFHQ's are CC BY-NC 4.0, those of other collections for research); non-commercial use only"
)
MOST_SKIPPED = 0.1  # of a class; with more missing, the data set is not what its name says
HELP = (
    f"To get the pictures: download https://www.kaggle.com/datasets/{fetch.KAGGLE} in a browser (0.7 GB), and set "
    "ANIMAL_FACES_DIR to the zip or to the folder it unpacks to. "
    "Or use the drawn faces, source='toy-faces', which need no download."
)


def weights_metadata(faces: Faces) -> dict[str, str]:
    """What weights that were trained on these images must say of them: composition and licence; nothing where drawn."""
    if faces.source != "animal-faces":
        return {}
    composition = ", ".join(f"{count} {name}" for name, count in faces.counts.items())
    return {"photographs": composition, "licence": WEIGHTS_LICENCE}


class CollectionNotFoundError(Exception):
    """A place that has no animal faces; the message says why."""


def real_faces(split: str, size: int, *, root: str | Path | None, cache_dir: Path, progress: bool) -> Faces:
    """See `load_faces`. What could not be used is in Faces.skipped.

    Raises:
        ValueError: if more than a tenth of a class cannot be used, and what `find` and `scan` raise.
    """
    collection = find(root, size)
    contents = scan(collection, split)
    recipe = {
        "source": "animal-faces",
        "split": split,
        "size": size,
        "files": contents.digest,
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
    }

    def build(details: dict) -> Iterator[np.ndarray]:
        bad: list[Skipped] = []
        _warn_if_enlarging(collection, contents, size)
        yield from decode_all(contents.entries, collection.read, size, bad, progress)
        _check_missing_share(collection, contents.entries, bad)
        details["skipped"] = bad

    images, details = load_or_build(cache_dir, f"animal-faces-{split}-{size}", recipe, build)
    bad = tuple(Skipped(*one) for one in details["skipped"])
    unusable = {one.path for one in bad}
    labels = np.array([one.label for one in contents.entries if one.path not in unusable], dtype=np.int64)
    return Faces(
        images,
        labels,
        CLASS_NAMES,
        source="animal-faces",
        split=split,
        credit=CREDIT,
        skipped=bad + tuple(contents.skipped),
    )


def _check_missing_share(collection: Collection, entries: list[Entry], bad: list[Skipped]) -> None:
    unusable = {one.path: one for one in bad}
    for label, name in enumerate(CLASS_NAMES):
        paths = [one.path for one in entries if one.label == label]
        missing = [unusable[path] for path in paths if path in unusable]
        if len(missing) > MOST_SKIPPED * len(paths):
            first = "; ".join(f"{path}: {reason}" for path, reason in missing[:3])
            raise ValueError(
                f"{len(missing)} of the {len(paths)} {name} pictures in {collection.path} cannot be used, "
                f"more than {MOST_SKIPPED:.0%}: {first}. Copy or download the collection again"
            )


def _warn_if_enlarging(collection: Collection, contents: Contents, size: int) -> None:
    native = _native_size(collection, contents.entries)
    if native is not None and native < size:
        warnings.warn(
            f"the pictures in {collection.path} are {native} px and are enlarged to {size} px: they stay "
            "blurred. Larger ones are in the original AFHQ (512 px)",
            stacklevel=2,
        )


def _native_size(collection: Collection, entries: list[Entry]) -> int | None:
    """The size of the first picture that says one, in pixels."""
    for entry in entries[:10]:
        try:
            if (native := native_size(collection.read(entry))) is not None:
                return native
        except (BadPictureError, OSError):
            pass
    return None


def find(root: str | Path | None, size: int) -> Collection:
    """The collection to read, from `root` alone or from the usual places in turn; local ones before any download.

    Where a folder holds several zips, the smallest pictures that are at least `size` pixels win, else the largest.

    Raises:
        FileNotFoundError: if there is none; says what was tried, why each failed and what to do.
        ValueError: for a damaged zip.
    """
    if root is not None:
        try:
            return collection_at(Path(root).expanduser(), size)
        except CollectionNotFoundError as reason:
            raise FileNotFoundError(f"no animal faces at {root}: {reason}. {HELP}") from None
    tried = []
    for place, locate in _places():
        try:
            return collection_at(locate(), size)
        except CollectionNotFoundError as reason:
            tried.append(f"{place}: {reason}")
        except PermissionError:
            raise
        except Exception as error:
            if locate not in (fetch.from_kaggle, fetch.from_hub):
                raise
            # The two libraries raise what their servers, their login and their HTTP client raise.
            tried.append(f"{place}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        if place == "ANIMAL_FACES_DIR" and os.environ.get(place):
            warnings.warn(f"no animal faces in {tried[-1]}; looking elsewhere", stacklevel=2)
    raise FileNotFoundError(
        "animal faces were not found. Tried:\n  "
        + "\n  ".join(f"{i}. {one}" for i, one in enumerate(tried, 1))
        + f"\n{HELP}"
    )


def at_hand(size: int = 64) -> bool:
    """Whether the photographs are on this computer; looks where `find` looks, and fetches nothing."""
    for _, locate in _places():
        if locate in (fetch.from_kaggle, fetch.from_hub):
            continue
        try:
            collection_at(locate(), size)
            return True
        except (CollectionNotFoundError, OSError, ValueError):
            pass
    return False


def _places() -> list[tuple[str, Callable[[], Path]]]:
    """Where to look, in order, with a name each; the last two ask the network."""
    return [
        ("ANIMAL_FACES_DIR", _from_environment),
        ("00_assets/datasets/afhq", lambda: repository_root() / "00_assets" / "datasets" / "afhq"),
        *((f"an earlier download by kagglehub, {copy}", lambda copy=copy: copy) for copy in fetch.kaggle_copies()),
        ("an earlier download from the hub", fetch.hub_zip),
        (f"Kaggle ({fetch.KAGGLE}, with kagglehub)", fetch.from_kaggle),
        (f"the Hugging Face hub ({fetch.HUB})", fetch.from_hub),
    ]


def _from_environment() -> Path:
    if not (path := os.environ.get("ANIMAL_FACES_DIR")):
        raise CollectionNotFoundError("not set")
    return Path(path).expanduser()


def collection_at(path: Path, size: int) -> Collection:
    """The collection in a folder, in a zip, or in the best of a folder's zips. Raises NotHereError, or ValueError."""
    if not path.exists():
        raise CollectionNotFoundError(f"{path} does not exist")
    collection = Collection(path) if path.is_dir() else ZipCollection(path)
    if split_prefix(collection) is not None:
        return collection
    zips = [path / name for name in collection.files if "/" not in name and name.lower().endswith(".zip")]
    found = [one for one in map(ZipCollection, zips) if split_prefix(one) is not None]
    if not found:
        raise CollectionNotFoundError(
            f"{path} holds neither train/cat, train/dog, train/wild (or afhq/train/...) nor such a zip"
        )

    def preference(one: Collection) -> tuple[bool, int]:
        pictures = [Entry(path, length, 0) for path, length in one.files.items() if path.count("/") >= 2]
        native = _native_size(one, pictures) or 0
        return (native < size, native if native >= size else -native)

    return min(found, key=preference)
