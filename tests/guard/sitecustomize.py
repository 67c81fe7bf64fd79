"""Loaded by every Python that the tests start: no other machine is reached, and no notebook writes into the checkout.

`conftest.py` puts this folder on PYTHONPATH. A RuntimeError, not an OSError: nobody takes it for a bad connection.
Python's own calls are watched; compiled code that opens files or connections by itself is not.
"""

import os
import socket
import sys
from pathlib import Path

ROOT = f"{Path(__file__).resolve().parents[2]}{os.sep}"
HERE = ("127.", "::1", "localhost", "0.0.0.0")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {  # event -> which of its arguments are paths, and which are open folders (-1: none)
    "os.mkdir": (slice(1), slice(2, 3)),
    "os.remove": (slice(1), slice(1, 2)),
    "os.rmdir": (slice(1), slice(1, 2)),
    "os.truncate": (slice(1), slice(0)),
    "os.rename": (slice(2), slice(2, 4)),
    "os.link": (slice(1, 2), slice(2, 4)),
    "os.symlink": (slice(1, 2), slice(2, 3)),
}
MARK = "COURSE_TESTS_IN_A_NOTEBOOK"  # of what a notebook's kernel starts
IN_A_NOTEBOOK = MARK in os.environ or any("ipykernel_launcher" in word for word in sys.orig_argv)


def _is_here(host: object) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    return not host or not isinstance(host, str) or host.startswith(HERE) or host == socket.gethostname()


def _refuse_network(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # else a socket file
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        raise RuntimeError(f"the tests reach no other machine, and this asked for {host}")


def _refuse_writing(event: str, arguments: tuple) -> None:
    if event == "open":
        path, mode, flags = arguments
        writes = flags & WRITES if isinstance(flags, int) else set(mode or "") & set("wax+")
        if writes and isinstance(path, str | bytes | os.PathLike):
            _refuse(os.path.realpath(os.fsdecode(path)))
    elif event in CHANGES:
        named, open_folders = CHANGES[event]
        if any(folder != -1 for folder in arguments[open_folders]):
            return  # a name within an open folder: the name alone says nothing
        for path in arguments[named]:
            if not isinstance(path, str | bytes | os.PathLike):
                continue  # an open file
            folder, name = os.path.split(os.path.abspath(os.fsdecode(path)))
            _refuse(os.path.join(os.path.realpath(folder), name))  # a link is changed itself, not what it leads to


def _refuse(path: str) -> None:
    if path.startswith(ROOT) and "__pycache__" not in path:
        raise RuntimeError(f"a notebook must not write into the checkout: {path}")


sys.addaudithook(_refuse_network)
if IN_A_NOTEBOOK:
    os.environ[MARK] = "1"
    sys.addaudithook(_refuse_writing)
