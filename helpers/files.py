"""Atomic writes: a file is there as a whole or not at all, whatever interrupts the program that writes it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PART = ".part"  # ending of a file that is still being written


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
