"""`load_faces`: the images of any source by its name, drawn or decoded once and cached."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.course import course_home
from helpers.data.animal_faces import real_faces
from helpers.data.drawing import drawn_faces
from helpers.data.faces import SIZES, SPLITS, Faces, Skipped

SOURCES = ("toy-faces", "animal-faces")


def load_faces(
    source: str = "toy-faces",
    split: str = "train",
    size: int = 64,
    *,
    limit: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Faces:
    """Pictures of one split: drawn or decoded the first time, afterwards read from a cache.

    Args:
        source: "toy-faces" (drawn by the course) or "animal-faces" (the photographs of AFHQ, CC BY-NC 4.0).
        split: "train" or "val"; drawn splits differ by their random numbers, real ones by their folder.
        size: H = W in pixels.
        limit: at most so many pictures, the classes in rotation. Drawn faces are drawn in just this number,
            which may exceed the usual 6000 (train) and 900 (val), and the first k are the same for every number.
        seed: of the drawn faces; real ones do not depend on it.
        root: where the real pictures are (folder or zip); None looks in the usual places, see `animal_faces`.
        cache_dir: None is `course_home() / "cache"`. Where it cannot be written, the pictures stay in memory.
        progress: a progress bar while pictures are drawn or decoded (never when they come from the cache).

    Raises:
        ValueError: for an unknown source or split, a size or limit out of range, and for a damaged collection.
        FileNotFoundError: if the real pictures are nowhere; it says what was tried and what to do.
        PermissionError: if their folder cannot be read.
    """
    _check_request(source, split, size, limit)
    cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else course_home() / "cache"
    if source == "toy-faces":
        if root is not None:
            raise ValueError("toy-faces are drawn, not read: `root` belongs to source='animal-faces'")
        return drawn_faces(split, size, limit=limit, seed=seed, cache_dir=cache_dir, progress=progress)
    faces = real_faces(split, size, root=root, cache_dir=cache_dir, progress=progress)
    if faces.skipped:
        warnings.warn(skip_warning(faces.skipped, len(faces)), stacklevel=2)
    return faces if limit is None else faces[_in_rotation(faces.labels, limit)]


def _check_request(source: str, split: str, size: int, limit: int | None) -> None:
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; there are: {', '.join(SOURCES)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    if size not in SIZES:
        raise ValueError(f"size must be a whole number from {SIZES[0]} to {SIZES[-1]} pixels, got {size!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 (or None for all), got {limit}")


def _in_rotation(labels: np.ndarray, limit: int) -> np.ndarray:
    """The first `limit` positions when the classes take turns: cat, dog, wild, cat, ...; a used-up class drops out."""
    turn = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange((labels == label).sum())
    return np.lexsort((labels, turn))[:limit]


def skip_warning(skipped: Sequence[Skipped], used: int) -> str:
    """One message for all files that could not be used: the count, the first few, and what to do."""
    first = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
    more = f"; and {len(skipped) - 3} more in Faces.skipped" if len(skipped) > 3 else ""
    return (
        f"{len(skipped)} files could not be used and were left out, {used} remain: {first}{more}. "
        "Replace them with good copies, or delete them to silence this."
    )
