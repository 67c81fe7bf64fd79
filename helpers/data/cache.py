"""The cache of images: one uint8 `.npy` file, built once, checked, and read through a memory map.

A cache is two files, `NAME-DIGEST.npy` and its description, `NAME-DIGEST.json`. DIGEST belongs to the recipe (source,
split, size, file list, decoder version) and to the format of the files, so a cache never has to be invalidated: other
images have another name, and what an older version of the course wrote is never opened. Both are written atomically,
the description last, so that any number of processes may build the same cache at once and read it.
"""

import errno
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from helpers.files import PART, atomic_write

CHECKSUM_LIMIT = 512 * 2**20  # bytes; above that only header and length are checked: hashing would cost seconds
MEMORY_LIMIT = 2 * 2**30  # bytes; a cache that cannot be written is kept in memory up to here
FORMAT = 2  # of the two files, part of DIGEST; 1 had no checksum of the description
ABANDONED = 3600  # seconds without a write after which a temporary file belongs to nobody

Build = Callable[[dict], Iterator[np.ndarray]]  # yields uint8 (n, 3, H, W); fills in the details as it goes


class DamagedCacheError(Exception):
    """A cache file that must not be used; the message says why."""


class CacheWriteError(Exception):
    """The cache folder cannot be written; the message says why."""


class _BuildError(Exception):
    """Wraps an OSError of the build function."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def cache_path(folder: Path, name: str, recipe: dict) -> Path:
    """Return where the images of this recipe are or would be; the description lies beside it, with suffix .json."""
    digest = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode()).hexdigest()[:16]
    return Path(folder) / f"{name}-{digest}.npy"


def load_or_build(folder: Path, name: str, recipe: dict, build: Build) -> tuple[np.ndarray, dict]:
    """Return the images of `recipe`, from the cache if there is a good one, otherwise built and cached.

    A damaged cache is rebuilt, with a warning that names it; one without its description is being written by another
    process, or was when it was killed, and is written anew. If the folder cannot be written (read only, disk full), the
    images are built in memory, with a warning.

    Args:
        folder: of the cache; created when needed.
        name: readable beginning of the file names.
        recipe: everything that decides what the images are; JSON.
        build: called with an empty dict, the details, which it fills with JSON (what was skipped); it yields the
            images in chunks, uint8 (n, 3, H, W). It may be called twice.

    Returns:
        uint8 (N, 3, H, W), read-only if it is a memory map, and the details.

    Raises:
        OSError: if the folder cannot be written and the images are too many for memory.
    """
    path = cache_path(folder, name, recipe)
    if path.exists() and path.with_suffix(".json").exists():
        try:
            return read(path, recipe)
        except DamagedCacheError as damage:
            warnings.warn(f"the cache {path} is damaged ({damage}); it is built anew", stacklevel=2)
    try:
        write(path, recipe, build)
        return read(path, recipe)
    except (CacheWriteError, DamagedCacheError) as reason:
        advice = "Set COURSE_HOME or cache_dir to a folder that can be written and has room."
        warnings.warn(
            f"the cache {path} cannot be written ({reason}); the images stay in memory, and will be built "
            f"again next time. {advice}",
            stacklevel=2,
        )
        return _in_memory(build, f"{reason}. {advice}")


def read(path: Path, recipe: dict) -> tuple[np.ndarray, dict]:
    """Return the memory-mapped images and the details of a cache. Raises DamagedCacheError."""
    description_path = path.with_suffix(".json")
    try:
        description = json.loads(description_path.read_text(encoding="utf-8"))
        images = np.load(path, mmap_mode="r")
        shape = description["shape"]
        digest = description["sha256"]
        details = description["details"]
        description_checksum = description.pop("seal")
    except FileNotFoundError as missing:
        raise DamagedCacheError(f"{Path(missing.filename).name} is missing: half-written") from None
    except KeyError as missing:
        raise DamagedCacheError(f"{description_path.name} lacks {missing}") from None
    except Exception as error:  # of a spoilt header NumPy raises nearly anything, tokenize.TokenError among it
        raise DamagedCacheError(f"{type(error).__name__}: {error}") from None
    if description.get("recipe") != recipe:
        raise DamagedCacheError(f"{description_path.name} describes other images")
    if description_checksum != _description_checksum(description):
        raise DamagedCacheError(f"{description_path.name} does not have the checksum it promises")
    if images.dtype != np.uint8 or list(images.shape) != shape:
        raise DamagedCacheError(f"it holds {images.dtype} {list(images.shape)}, not uint8 {shape}")
    if images.nbytes < CHECKSUM_LIMIT and _sha256(path) != digest:
        raise DamagedCacheError("its checksum differs")
    return images, details


def write(path: Path, recipe: dict, build: Build) -> None:
    """Build the images into `path`, and write the description beside it once they are there; both atomically.

    Raises:
        CacheWriteError: if the folder cannot be written.
        OSError: of `build` itself.
    """
    details: dict = {}
    try:
        _remove_abandoned(path)
        with atomic_write(path) as file:
            shape = _write_npy(file, _marked(build(details)))
            file.flush()
            digest = _sha256(Path(file.name))
        description = {"recipe": recipe, "shape": shape, "sha256": digest, "details": details}
        with atomic_write(path.with_suffix(".json")) as file:
            file.write(json.dumps(description | {"seal": _description_checksum(description)}).encode())
    except _BuildError as wrapped:
        raise wrapped.error from None
    except OSError as error:
        raise CacheWriteError(_reason(error)) from error


def _marked(chunks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The chunks, with an OSError of the build wrapped, to tell it from one of the cache folder."""
    try:
        yield from chunks
    except OSError as error:
        raise _BuildError(error) from error


def _remove_abandoned(path: Path) -> None:
    """Remove what builds of the same cache left behind when they were killed; a living one wrote more recently."""
    for part in path.parent.glob(f".{path.stem}.*{PART}"):
        try:
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
        except FileNotFoundError:  # another process removed it
            pass


def _write_npy(file: IO[bytes], chunks: Iterator[np.ndarray]) -> list[int]:
    """Stream chunks into one .npy file, write its header again once the count is known, and return the shape."""
    shape: list[int] = []
    for chunk in chunks:
        if not shape:
            shape = [0, *chunk.shape[1:]]
            _write_header(file, shape)  # NumPy leaves room for the first axis to grow
        file.write(np.ascontiguousarray(chunk, dtype=np.uint8).data)
        shape[0] += len(chunk)
    shape = shape or [0, 3, 1, 1]
    file.seek(0)
    _write_header(file, shape)
    return shape


def _write_header(file: IO[bytes], shape: list[int]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _in_memory(build: Build, reason: str) -> tuple[np.ndarray, dict]:
    """The images and details, built without a cache. Raises OSError above MEMORY_LIMIT, with the reason."""
    details: dict = {}
    chunks = []
    total = 0
    for chunk in build(details):
        chunks.append(chunk)
        total += chunk.nbytes
        if total > MEMORY_LIMIT:
            raise OSError(
                f"more than {MEMORY_LIMIT / 2**30:g} GiB of images, too many to keep in memory, "
                f"and the cache cannot be written: {reason}"
            )
    return np.concatenate(chunks) if chunks else np.empty((0, 3, 1, 1), np.uint8), details


def _description_checksum(description: dict) -> str:
    """SHA-256 of a description, so that what it says was skipped, and why, can be trusted as well."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: OSError) -> str:
    """Why a file could not be written, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)
