"""The cache of pictures: one uint8 `.npy` file, made once, checked, and read through a memory map.

A cache is two files, `NAME-DIGEST.npy` and `NAME-DIGEST.json`. DIGEST belongs to the recipe (source, split, size, file
list, decoder version) and to the format of the files, so a cache never has to be invalidated: other pictures have
another name, and what an older version of the course wrote is never opened. Both are written under a temporary name and
renamed, the description last, so a reader sees a whole cache or none, and any number of processes may build the same
one at once.
"""

import errno
import hashlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

CHECKSUM_LIMIT = 512 * 2**20  # bytes; above that only header and length are checked: hashing would cost seconds
MEMORY_LIMIT = 2 * 2**30  # bytes; a cache that cannot be written is kept in memory up to here
FORMAT = 2  # of the two files; 1 had no seal. Another number is another name
ABANDONED = 3600  # seconds without a write after which a temporary file belongs to nobody

Build = Callable[[dict], Iterator[np.ndarray]]  # yields uint8 (n, 3, H, W); fills in the details as it goes


class DamagedCacheError(Exception):
    """A cache file that must not be used; the message says why."""


class _WriteError(Exception):
    """The cache folder, not the pictures, made trouble."""


def cache_path(folder: Path, name: str, recipe: dict) -> Path:
    """Where the pictures of this recipe are or would be; the description lies beside it, with suffix .json."""
    digest = hashlib.sha256(json.dumps([FORMAT, recipe], sort_keys=True).encode()).hexdigest()[:16]
    return Path(folder) / f"{name}-{digest}.npy"


def load_or_build(folder: Path, name: str, recipe: dict, build: Build) -> tuple[np.ndarray, dict]:
    """The pictures of `recipe`: from the cache where there is a good one, otherwise built and cached.

    A damaged cache is rebuilt, with a warning that names it; one without its description is being written by another
    process, or was when it was killed, and is written anew. Where the folder cannot be written (read only, disk full),
    the pictures are built in memory, with a warning.

    Args:
        folder: of the cache; made when needed.
        name: readable beginning of the file names.
        recipe: everything that decides what the pictures are; JSON.
        build: called with an empty dict, the details, which it fills with JSON (what was skipped); it yields the
            pictures in pieces, uint8 (n, 3, H, W). It may be called twice.

    Returns:
        uint8 (N, 3, H, W), read-only if it is a memory map, and the details.

    Raises:
        OSError: if the folder cannot be written and the pictures are too many for memory.
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
    except (_WriteError, DamagedCacheError) as trouble:
        advice = "Set COURSE_HOME or cache_dir to a folder that can be written and has room."
        warnings.warn(
            f"the cache {path} cannot be written ({trouble}); the pictures stay in memory, and will be made "
            f"again next time. {advice}",
            stacklevel=2,
        )
        return _in_memory(build, f"{trouble}. {advice}")


def read(path: Path, recipe: dict) -> tuple[np.ndarray, dict]:
    """A cache that `write` made: the memory-mapped pictures and the details. Raises DamagedCacheError."""
    description_path = path.with_suffix(".json")
    try:
        description = json.loads(description_path.read_text(encoding="utf-8"))
        images = np.load(path, mmap_mode="r")
        shape, checksum, details = (description[key] for key in ("shape", "sha256", "details"))
        told = description.pop("seal")
    except FileNotFoundError as missing:
        raise DamagedCacheError(f"{Path(missing.filename).name} is missing: half-written") from None
    except KeyError as missing:
        raise DamagedCacheError(f"{description_path.name} lacks {missing}") from None
    except Exception as error:  # of a spoilt header NumPy raises nearly anything, tokenize.TokenError among it
        raise DamagedCacheError(f"{type(error).__name__}: {error}") from None
    if description.get("recipe") != recipe:
        raise DamagedCacheError(f"{description_path.name} describes other pictures")
    if told != _seal(description):
        raise DamagedCacheError(f"{description_path.name} does not have the checksum it promises")
    if images.dtype != np.uint8 or list(images.shape) != shape:
        raise DamagedCacheError(f"it holds {images.dtype} {list(images.shape)}, not uint8 {shape}")
    if images.nbytes < CHECKSUM_LIMIT and _sha256(path) != checksum:
        raise DamagedCacheError("its checksum differs")
    return images, details


def write(path: Path, recipe: dict, build: Build) -> None:
    """Build into a temporary file beside `path`, rename it into place, then its description."""
    temporary = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            # Not tempfile.NamedTemporaryFile: that one is private (0600) and stays so after the renaming.
            temporary = path.with_name(f".{path.stem}-{os.getpid()}-{secrets.token_hex(4)}.part")
            file = open(temporary, "xb")
        except OSError as error:
            raise _WriteError(_why(error)) from error
        try:
            details: dict = {}
            shape = _write_pieces(file, build(details))
        finally:
            with suppress(OSError):  # a full disk fails once more here, and was told already
                file.close()
        description = {"recipe": recipe, "shape": shape, "sha256": _sha256(temporary), "details": details}
        try:
            os.replace(temporary, path)
            temporary.write_text(json.dumps(description | {"seal": _seal(description)}), encoding="utf-8")
            os.replace(temporary, path.with_suffix(".json"))
        except OSError as error:
            raise _WriteError(_why(error)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what builds of the same cache left behind when they were killed; a living one wrote more recently."""
    for part in path.parent.glob(f".{path.stem}-*.part"):
        try:
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
        except FileNotFoundError:  # another process swept it
            pass


def _write_pieces(file: IO[bytes], pieces: Iterator[np.ndarray]) -> list[int]:
    """Stream the pieces into one .npy, whose header is written again once the count is known."""
    shape: list[int] = []
    for piece in pieces:  # an OSError from here is about the pictures and passes through
        try:
            if not shape:
                shape = [0, *piece.shape[1:]]
                _write_header(file, shape)  # NumPy leaves room for the first axis to grow
            file.write(np.ascontiguousarray(piece, dtype=np.uint8).data)
        except OSError as error:
            raise _WriteError(_why(error)) from error
        shape[0] += len(piece)
    try:
        file.seek(0)
        _write_header(file, shape or [0, 3, 1, 1])
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _WriteError(_why(error)) from error
    return shape or [0, 3, 1, 1]


def _write_header(file: IO[bytes], shape: list[int]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _in_memory(build: Build, trouble: str) -> tuple[np.ndarray, dict]:
    details: dict = {}
    pieces = []
    total = 0
    for piece in build(details):
        pieces.append(piece)
        total += piece.nbytes
        if total > MEMORY_LIMIT:
            raise OSError(
                f"more than {MEMORY_LIMIT / 2**30:g} GiB of pictures, too many to keep in memory, "
                f"and the cache cannot be written: {trouble}"
            )
    return np.concatenate(pieces) if pieces else np.empty((0, 3, 1, 1), np.uint8), details


def _seal(description: dict) -> str:
    """The checksum of a description: what was skipped, and why, is believed as well."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)
