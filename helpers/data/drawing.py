"""The synthetic faces as a dataset: attributes from a seed, images rendered from them, pixels cached."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL

from helpers.course import cpu_count
from helpers.data.cache import cache_path, load_or_build
from helpers.data.faces import CLASS_NAMES, SPLITS, DrawnFaces
from helpers.data.toy_faces import PAINTER_VERSION, FaceAttributes, draw_face, toy_attributes

COUNTS = {"train": 6000, "val": 900}
WORKERS = 2  # processes: rendering, unlike decoding, holds the interpreter lock
CHUNK = 60  # faces rendered between two updates of the progress bar
MIN_FOR_WORKERS = 400  # fewer faces are rendered before the workers have started
CREDIT = "Faces drawn by the course."


def load_toy_faces(
    split: str, size: int, *, limit: int | None, seed: int, cache_dir: Path, progress: bool
) -> DrawnFaces:
    """Load synthetic faces; see `load_faces`. Only pixels are cached: attributes follow from the seed in a moment."""
    count = limit or COUNTS[split]
    full_split = _recipe(split, size, COUNTS[split], seed)
    recipe = _recipe(split, size, count, seed)
    if count < COUNTS[split] and cache_path(cache_dir, _name(split, size), full_split).exists():
        recipe = full_split  # it begins with the same faces: no second cache for them
    attributes = attributes_of(split, recipe["count"], seed)

    def build(details: dict) -> Iterator[np.ndarray]:
        yield from draw_all(attributes, size, progress)

    from helpers.data.captions import caption  # not above: it brings torch, for which every worker would wait seconds

    images, _ = load_or_build(cache_dir, _name(split, size), recipe, build)
    attributes = attributes[:count]
    return DrawnFaces(
        images=images[:count],
        labels=np.array([CLASS_NAMES.index(face.species) for face in attributes], dtype=np.int64),
        captions=tuple(caption(face) for face in attributes),
        attributes=attributes,
        source="toy-faces",
        split=split,
        credit=CREDIT,
    )


def attributes_of(split: str, count: int, seed: int) -> tuple[FaceAttributes, ...]:
    """Return the first `count` faces of a split; no split shares its random numbers with another split or seed."""
    return toy_attributes(count, seed=len(SPLITS) * seed + SPLITS.index(split))


def draw_all(attributes: Sequence[FaceAttributes], size: int, progress: bool) -> Iterator[np.ndarray]:
    """Render faces in order, yielding chunks uint8 (n, 3, size, size); many faces are shared by `WORKERS` processes."""
    from tqdm.auto import tqdm

    chunks = [attributes[start : start + CHUNK] for start in range(0, len(attributes), CHUNK)]
    with tqdm(total=len(attributes), desc=f"drawing at {size} px", unit=" faces", disable=not progress) as bar:
        for images in _rendered(chunks, size, parallel=len(attributes) >= MIN_FOR_WORKERS and cpu_count() > 1):
            bar.update(len(images))
            yield images


def _rendered(chunks: list[Sequence[FaceAttributes]], size: int, parallel: bool) -> Iterator[np.ndarray]:
    """Render chunk by chunk; where workers die, this process renders the rest."""
    done = 0
    if parallel:
        # "spawn": a fork of a process whose threads hold locks (torch, Jupyter) can hang.
        pool = ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))
        try:
            with _hide_main_module():
                results = pool.map(partial(_render_chunk, size=size), chunks)  # starts the workers
            for images in results:
                yield images
                done += 1
        except BrokenProcessPool:  # a worker was killed
            pass
        finally:
            pool.shutdown(cancel_futures=True)
    for chunk in chunks[done:]:
        yield _render_chunk(chunk, size)


@contextmanager
def _hide_main_module() -> Iterator[None]:
    """Keep new workers from running the user's script again: most have no `if __name__ == "__main__":`."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _render_chunk(attributes: Sequence[FaceAttributes], size: int) -> np.ndarray:
    """uint8 (n, 3, size, size)"""
    return np.stack([draw_face(face, size) for face in attributes])


def _name(split: str, size: int) -> str:
    """How the names of the cache's files begin."""
    return f"toy-faces-{split}-{size}"


def _recipe(split: str, size: int, count: int, seed: int) -> dict:
    """Everything that decides the pixels."""
    return {
        "source": "toy-faces",
        "split": split,
        "size": size,
        "count": count,
        "seed": seed,
        "painter": PAINTER_VERSION,
        "pillow": PIL.__version__,
    }
