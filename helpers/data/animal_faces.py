"""The photographs, AFHQ (Choi et al., StarGAN v2, CVPR 2020; CC BY-NC 4.0): locate the collection and load it.

It is looked for in ANIMAL_FACES_DIR, in 00_assets/datasets/afhq and among earlier downloads, then fetched with
kagglehub, then from the Hugging Face hub. A folder or a zip will do, in the layout `afhq/train/cat/*.jpg` or
`train/cat/*.jpg`, images of any size; also a folder that holds such zips.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL

from helpers.course import repository_root
from helpers.data import fetch
from helpers.data.cache import load_or_build
from helpers.data.collection import Collection, Contents, ZipCollection, scan, split_folder, split_prefix
from helpers.data.faces import CLASS_NAMES, Faces, Skipped
from helpers.data.images import DECODER_VERSION, BadImageError, Entry, decode_all, native_size

CREDIT = "Animal Faces-HQ (AFHQ), Choi et al., StarGAN v2, CVPR 2020. CC BY-NC 4.0: non-commercial use, with credit."
WEIGHTS_LICENCE = (
    "trained on photographs (AFHQ's are CC BY-NC 4.0, those of other collections for research); non-commercial use only"
)
MAX_SKIPPED_SHARE = 0.1  # of a class; with more missing, the dataset is not what its name says
HELP = (
    f"To get the photographs: download https://www.kaggle.com/datasets/{fetch.KAGGLE} in a browser (0.7 GB), and set "
    "ANIMAL_FACES_DIR to the zip or to the folder it unpacks to. "
    "Or use the synthetic faces, source='toy-faces', which need no download."
)


def weights_metadata(faces: Faces) -> dict[str, str]:
    """Return the metadata that weights trained on these images must carry: composition and licence of photographs."""
    if faces.source != "animal-faces":
        return {}
    composition = ", ".join(f"{count} {name}" for name, count in faces.counts.items())
    return {"photographs": composition, "licence": WEIGHTS_LICENCE}


class CollectionNotFoundError(Exception):
    """There are no animal faces in a place; the message says why."""


def load_animal_faces(split: str, size: int, *, root: str | Path | None, cache_dir: Path, progress: bool) -> Faces:
    """Load photographs; see `load_faces`. Files that could not be used are in Faces.skipped.

    Raises:
        ValueError: if more than a tenth of a class cannot be used.
        FileNotFoundError, PermissionError, ValueError: as `find` and `scan`.
    """
    collection = find(root, size, split)
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
        undecodable: list[Skipped] = []
        _warn_if_enlarging(collection, contents, size)
        yield from decode_all(contents.entries, collection.read, size, undecodable, progress)
        _check_missing_share(collection, contents.entries, undecodable)
        details["skipped"] = undecodable

    images, details = load_or_build(cache_dir, f"animal-faces-{split}-{size}", recipe, build)
    undecodable = tuple(Skipped(*item) for item in details["skipped"])
    bad_paths = {item.path for item in undecodable}
    labels = np.array([entry.label for entry in contents.entries if entry.path not in bad_paths], dtype=np.int64)
    return Faces(
        images,
        labels,
        CLASS_NAMES,
        source="animal-faces",
        split=split,
        credit=CREDIT,
        skipped=undecodable + tuple(contents.skipped),
    )


def _check_missing_share(collection: Collection, entries: list[Entry], bad: list[Skipped]) -> None:
    """Raise ValueError if more than MAX_SKIPPED_SHARE of a class cannot be used."""
    bad_by_path = {item.path: item for item in bad}
    for label, name in enumerate(CLASS_NAMES):
        paths = [entry.path for entry in entries if entry.label == label]
        missing = [bad_by_path[path] for path in paths if path in bad_by_path]
        if len(missing) > MAX_SKIPPED_SHARE * len(paths):
            first = "; ".join(f"{path}: {reason}" for path, reason in missing[:3])
            raise ValueError(
                f"{len(missing)} of the {len(paths)} {name} images in {collection.path} cannot be used, "
                f"more than {MAX_SKIPPED_SHARE:.0%}: {first}. Copy or download the collection again"
            )


def _warn_if_enlarging(collection: Collection, contents: Contents, size: int) -> None:
    """Warn if the images are smaller than the size they are loaded at."""
    native = _native_size(collection, contents.entries)
    if native is not None and native < size:
        warnings.warn(
            f"the images in {collection.path} are {native} px and are enlarged to {size} px: they stay "
            "blurred. Larger ones are in the original AFHQ (512 px)",
            stacklevel=2,
        )


def _native_size(collection: Collection, entries: list[Entry]) -> int | None:
    """Pixels a side of the first image that can be read; None if none of the first ten can."""
    for entry in entries[:10]:
        try:
            native = native_size(collection.read(entry))
        except (BadImageError, OSError):
            continue
        if native is not None:
            return native
    return None


@dataclass(frozen=True)
class Place:
    """A place where the collection may be."""

    name: str  # in messages
    locate: Callable[[], Path]  # returns a folder or zip; raises CollectionNotFoundError
    needs_network: bool = False


def find(root: str | Path | None, size: int, split: str) -> Collection:
    """Locate the collection: at `root` alone, or in the usual places in turn, local ones before any download.

    A place that is damaged, or lacks the split or one of its classes, is passed over with a warning if a later local
    one is good. It is never a reason to download: then its own error is raised.

    Where a folder holds several zips, the smallest images that are at least `size` pixels win, else the largest.

    Raises:
        FileNotFoundError: if there is none; says what was tried, why each failed and what to do.
        ValueError, PermissionError: for a local copy that cannot be used, where there is no other.
    """
    if root is not None:
        try:
            return collection_at(Path(os.path.expanduser(root)), size, split)
        except CollectionNotFoundError as reason:
            raise FileNotFoundError(f"no animal faces at {root}: {reason}. {HELP}") from None
    failures = []
    damaged: list[ValueError | OSError] = []
    for place in _places():
        if place.needs_network and damaged:
            raise damaged[0]
        try:
            collection = collection_at(place.locate(), size, split)
            scan(collection, split)
        except CollectionNotFoundError as reason:
            failures.append(f"{place.name}: {reason}")
            if place.name == "ANIMAL_FACES_DIR" and os.environ.get(place.name):
                warnings.warn(f"no animal faces in {failures[-1]}; looking elsewhere", stacklevel=2)
        except Exception as error:
            if not place.needs_network:
                if not isinstance(error, ValueError | OSError):
                    raise
                damaged.append(error)
            # The two libraries raise what their servers, their login and their HTTP client raise.
            failures.append(f"{place.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        else:
            for damage in damaged:
                warnings.warn(f"passed over: {damage}. The copy in {collection.path} is used instead", stacklevel=2)
            return collection
    numbered = "".join(f"\n  {number}. {failure}" for number, failure in enumerate(failures, 1))
    raise FileNotFoundError(f"animal faces were not found. Tried:{numbered}\n{HELP}")


def photographs_available(size: int = 64) -> bool:
    """Return whether the photographs are on this computer: looks where `find` looks, but downloads nothing."""
    for place in _places():
        if place.needs_network:
            continue
        try:
            collection_at(place.locate(), size)
            return True
        except (CollectionNotFoundError, OSError, ValueError):
            pass
    return False


def _places() -> list[Place]:
    """Where to look, in order."""
    places = [
        Place("ANIMAL_FACES_DIR", _from_environment),
        Place("00_assets/datasets/afhq", lambda: repository_root() / "00_assets" / "datasets" / "afhq"),
    ]
    for copy in fetch.kaggle_copies():
        places.append(Place(f"an earlier download by kagglehub, {copy}", partial(Path, copy)))
    return [
        *places,
        Place("an earlier download from the hub", fetch.hub_zip),
        Place(f"Kaggle ({fetch.KAGGLE}, with kagglehub)", fetch.from_kaggle, needs_network=True),
        Place(f"the Hugging Face hub ({fetch.HUB})", fetch.from_hub, needs_network=True),
    ]


def _from_environment() -> Path:
    path = os.environ.get("ANIMAL_FACES_DIR")
    if not path:
        raise CollectionNotFoundError("not set")
    return Path(os.path.expanduser(path))


def collection_at(path: Path, size: int, split: str | None = None) -> Collection:
    """Open the collection in a folder, in a zip, or in the best of a folder's zips.

    Of several zips, those that have the split come first; those that are damaged are passed over with a warning.

    Raises:
        CollectionNotFoundError: if there is none.
        ValueError, OSError: for a damaged or unreadable zip, where there is no good one.
    """
    if not path.exists():
        raise CollectionNotFoundError(f"{path} does not exist")
    collection = Collection(path) if path.is_dir() else ZipCollection(path)
    if split_prefix(collection) is not None:
        return collection
    names = [name for name in collection.files if name.lower().endswith(".zip")]
    if names and isinstance(collection, ZipCollection):
        raise CollectionNotFoundError(
            f"{path} holds {names[0]}, a zip inside a zip: unpack the outer one, and point to what comes out of it"
        )
    candidates = []
    reasons = []
    damaged = []
    for name in names:
        try:
            candidates.append(collection_at(path / name, size))
        except CollectionNotFoundError as reason:
            reasons.append(str(reason))
        except (ValueError, OSError) as error:
            damaged.append(error)
    if candidates:
        for damage in damaged:
            warnings.warn(f"passed over: {damage}", stacklevel=2)
        with_split = [each for each in candidates if split is None or split_folder(each, split) is not None]
        return min(with_split or candidates, key=lambda candidate: _preference(candidate, size))
    if damaged:
        raise damaged[0]
    nested = [reason for reason in reasons if "zip inside a zip" in reason]
    neither = f"{path} holds neither train/cat, train/dog, train/wild (or afhq/train/...) nor such a zip"
    raise CollectionNotFoundError(nested[0] if nested else neither)


def _preference(collection: Collection, size: int) -> tuple[bool, int]:
    """Sorts collections of one dataset, the best first: the smallest that is large enough, else the largest."""
    entries = [Entry(path, length, 0) for path, length in collection.files.items() if path.count("/") >= 2]
    native = _native_size(collection, entries) or 0
    return (native < size, native if native >= size else -native)
