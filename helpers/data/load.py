"""`load_faces`: the images of a source by its name, rendered or decoded once and then cached."""

import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, overload

from helpers.course import course_home
from helpers.data.animal_faces import load_animal_faces
from helpers.data.drawing import load_toy_faces
from helpers.data.faces import SIZES, SPLITS, DrawnFaces, Faces, Skipped
from helpers.data.hub import find_images, is_hub_name
from helpers.data.own_images import load_own_images
from helpers.data.sizes import Size, height_and_width, square_side

SOURCES = ("toy-faces", "animal-faces")


@overload
def load_faces(
    source: Literal["toy-faces"] = "toy-faces",
    split: str = "train",
    size: int = 64,
    *,
    limit: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> DrawnFaces:
    """Synthetic faces, each with a caption and attributes."""


@overload
def load_faces(
    source: str,
    split: str = "train",
    size: Size = 64,
    *,
    limit: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Faces:
    """Any source."""


def load_faces(
    source: str = "toy-faces",
    split: str = "train",
    size: Size = 64,
    *,
    limit: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Faces:
    """Return the images of one split, rendered or decoded the first time and read from a cache afterwards.

    Args:
        source: "toy-faces" (synthetic faces), "animal-faces" (the photographs of AFHQ, CC BY-NC 4.0), the path of a
            folder or zip of your own images, see `own_images`, or a dataset of the hub, owner/name, see `hub`.
        split: "train" or "val"; synthetic splits differ by their random numbers, photographs by their folder.
        size: H = W in pixels; for your own images also (H, W).
        limit: at most this many images. For synthetic faces it is the exact number, which may exceed the default of
            6000 (train) and 900 (val). The first k are the same for every number.
        seed: of the synthetic faces; photographs do not depend on it.
        root: folder or zip of the photographs; None looks in the usual places, see `animal_faces`.
        cache_dir: None is `course_home() / "cache"`. If it cannot be written, the images stay in memory.
        progress: show a progress bar while images are rendered or decoded (never when they come from the cache).

    Returns:
        With the classes in rotation, cat, dog, wild, cat, ... until a class is used up, so that every slice is mixed.
        Your own images have classes of their own.
        DrawnFaces, with captions and attributes, for "toy-faces"; else Faces.

    Raises:
        ValueError: for an unknown source or split, a size or limit out of range, and for a collection that is damaged
            or holds no images.
        FileNotFoundError: if there are no photographs, or no such dataset; it says what was tried and what to do.
        PermissionError: if their folder cannot be read.
    """
    _check_request(source, split, size, limit, seed)
    cache_dir = Path(os.path.expanduser(cache_dir)) if cache_dir is not None else course_home() / "cache"
    if source == "toy-faces":
        if root is not None:
            raise ValueError("toy-faces are drawn, not read: `root` belongs to source='animal-faces'")
        return load_toy_faces(split, square_side(size), limit=limit, seed=seed, cache_dir=cache_dir, progress=progress)
    if source == "animal-faces":
        faces = load_animal_faces(split, square_side(size), root=root, cache_dir=cache_dir, progress=progress)
    else:
        path = find_images(source, progress=progress)
        faces = load_own_images(path, split, size, cache_dir=cache_dir, progress=progress)
    if faces.skipped:
        warnings.warn(skip_warning(faces.skipped, len(faces)), stacklevel=2)
    return faces if limit is None else faces[:limit]


def _check_request(source: str, split: str, size: Size, limit: int | None, seed: int) -> None:
    """Raise ValueError for arguments that `load_faces` does not take."""
    if source not in SOURCES and not Path(source).expanduser().exists() and not is_hub_name(source):
        names = ", ".join(SOURCES)
        raise ValueError(
            f"unknown source {source!r}: neither one of {names} nor a folder or zip that exists, nor the name of a "
            "dataset on the hub, owner/name"
        )
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    if not _is_size(size):
        raise ValueError(
            f"size must be a whole number from {SIZES[0]} to {SIZES[-1]} pixels, or height and width, got {size!r}"
        )
    height, width = height_and_width(size)
    if source in SOURCES and height != width:
        raise ValueError(f"the images of {source} are square: size must be one number, got {size!r}")
    if limit is not None and (not isinstance(limit, Integral) or limit < 1):
        raise ValueError(f"limit must be a whole number, at least 1 (or None for all), got {limit!r}")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be a whole number, at least 0, got {seed!r}")


def _is_size(size: Any) -> bool:
    """Whether this is a side in pixels, or two."""
    sides = size if isinstance(size, list | tuple) and len(size) == 2 else [size]
    return all(isinstance(side, Integral) and side in SIZES for side in sides)


def skip_warning(skipped: Sequence[Skipped], used: int) -> str:
    """Write one message about all files that could not be used: the count, the first few, and what to do."""
    first = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
    more = f"; and {len(skipped) - 3} more in Faces.skipped" if len(skipped) > 3 else ""
    return (
        f"{len(skipped)} files could not be used and were left out, {used} remain: {first}{more}. "
        "Replace them with good copies, or delete them to silence this."
    )
