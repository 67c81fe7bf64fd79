"""Files that are there as a whole or not at all, whatever interrupts the writing, and names that overwrite nothing."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO

PART = ".part"  # ending of a file that is still being written
LONGEST_NAME = 48  # characters of each part of `file_name`


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`, and rename it to `path` when the `with` block ends without an error.

        with atomic_write("weights.bin") as file:
            file.write(data)

    Readers see the old file or the whole new one. After an error `path` is as it was and the temporary file is gone;
    only a process that was killed leaves one behind, named `.NAME.PID-RANDOM.part`.

    Args:
        path: its folder is created when needed.

    Yields:
        the temporary file, opened for binary writing; it can also be read by its `name` after a flush.

    Raises:
        OSError: if it cannot be written; `filename` is set, also for a full disk, which does not name a file itself.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile.NamedTemporaryFile: that one is private (0600) and stays so after the renaming.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    file = open(temporary, "xb")
    try:
        yield file
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the new name with no content
        file.close()
        os.replace(temporary, path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):  # on a full disk the last flush fails once more
            file.close()
        temporary.unlink(missing_ok=True)


def write_new(folder: Path, name: str, ending: str, data: bytes) -> Path:
    """Write a file that was not there before: `NAME.png`, or `NAME-2.png` where that exists, and so on.

    Returns:
        its path.

    Raises:
        OSError: if it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / (f"{name}{ending}" if number == 1 else f"{name}-{number}{ending}")
        try:
            path.touch(exist_ok=False)  # the name is taken from now on, also for other processes
            break
        except FileExistsError:
            number += 1
    try:
        with atomic_write(path) as file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def file_name(*parts: str) -> str:
    """Parts of a file's name, joined by "-": letters and digits of any script, all else as "_"."""
    return "-".join(re.sub(r"\W+", "_", part.lower()).strip("_")[:LONGEST_NAME] or "any" for part in parts)


def portable_name(path: str | Path) -> str:
    """A path as a PNG records it: as it is where it leads down from here, else the last part alone.

    The folders of one computer are nobody else's business.
    """
    pure = PurePath(path)
    leads_down = not pure.is_absolute() and ".." not in pure.parts and not str(path).startswith("~")
    return pure.as_posix() if leads_down else pure.name
