"""The drawn faces as a data set: attributes from a seed, pictures from the painter, the pixels cached."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np

from helpers.course import cpu_count
from helpers.data.cache import cache_path, load_or_build
from helpers.data.faces import CLASS_NAMES, SPLITS, Faces
from helpers.data.toy_faces import PAINTER_VERSION, FaceAttributes, draw_face, toy_attributes

COUNTS = {"train": 6000, "val": 900}
WORKERS = 2  # processes: drawing, unlike decoding, holds the interpreter
PIECE = 60  # faces drawn between two ticks of the progress bar
WORTH_WORKERS = 400  # fewer are drawn before the workers have started
CREDIT = "Faces drawn by the course."


def drawn_faces(split: str, size: int, *, limit: int | None, seed: int, cache_dir: Path, progress: bool) -> Faces:
    """See `load_faces`. Only pixels are cached: attributes are drawn again from the seed, which costs a moment."""
    count = limit or COUNTS[split]
    whole = _recipe(split, size, COUNTS[split], seed)
    recipe = _recipe(split, size, count, seed)
    if count < COUNTS[split] and cache_path(cache_dir, _name(split, size), whole).exists():
        recipe = whole  # the first of many are the same faces: no second cache for them
    attributes = attributes_of(split, recipe["count"], seed)

    def build(details: dict) -> Iterator[np.ndarray]:
        yield from draw_all(attributes, size, progress)

    from helpers.data.captions import caption  # not above: it brings torch, for which every worker would wait seconds

    images, _ = load_or_build(cache_dir, _name(split, size), recipe, build)
    attributes = attributes[:count]
    return Faces(
        images=images[:count],
        labels=np.array([CLASS_NAMES.index(one.species) for one in attributes], dtype=np.int64),
        captions=tuple(caption(one) for one in attributes),
        attributes=attributes,
        source="toy-faces",
        split=split,
        credit=CREDIT,
    )


def attributes_of(split: str, count: int, seed: int) -> tuple[FaceAttributes, ...]:
    """The first `count` faces of a split; no split shares its random numbers with another split or seed."""
    return toy_attributes(count, seed=len(SPLITS) * seed + SPLITS.index(split))


def draw_all(attributes: Sequence[FaceAttributes], size: int, progress: bool) -> Iterator[np.ndarray]:
    """The faces in order, in pieces uint8 (n, 3, size, size), drawn by `WORKERS` processes where that pays."""
    from tqdm.auto import tqdm

    pieces = [(attributes[start : start + PIECE], size) for start in range(0, len(attributes), PIECE)]
    with tqdm(total=len(attributes), desc=f"drawing at {size} px", unit=" faces", disable=not progress) as bar:
        for piece in _drawn(pieces, parallel=len(attributes) >= WORTH_WORKERS and cpu_count() > 1):
            bar.update(len(piece))
            yield piece


def _drawn(pieces: list[tuple], parallel: bool) -> Iterator[np.ndarray]:
    done = 0
    if parallel:
        # "spawn": a fork of a process whose threads hold locks (torch, Jupyter) can hang.
        pool = ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))
        try:
            with _hide_main_module():
                drawn = pool.map(_draw_piece, pieces)  # starts the workers
            for piece in drawn:
                yield piece
                done += 1
        except BrokenProcessPool:  # a worker was killed
            pass
        finally:
            pool.shutdown(cancel_futures=True)
    for piece in pieces[done:]:
        yield _draw_piece(piece)


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Keep new workers from running the user's script again: most have no `if __name__ == "__main__":`."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _draw_piece(piece: tuple[Sequence[FaceAttributes], int]) -> np.ndarray:
    attributes, size = piece
    return np.stack([draw_face(one, size) for one in attributes])


def _name(split: str, size: int) -> str:
    return f"toy-faces-{split}-{size}"


def _recipe(split: str, size: int, count: int, seed: int) -> dict:
    return {
        "source": "toy-faces",
        "split": split,
        "size": size,
        "count": count,
        "seed": seed,
        "painter": PAINTER_VERSION,
    }
