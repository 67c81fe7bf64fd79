"""Loaded by every Python that the tests start: no other machine is reached, and no notebook writes into the checkout.

`conftest.py` puts this folder on PYTHONPATH. A RuntimeError, not an OSError: nobody takes it for a bad connection.
"""

import os
import socket
import sys
from pathlib import Path

ROOT = f"{Path(__file__).resolve().parents[2]}{os.sep}"
HERE = ("127.", "::1", "localhost", "0.0.0.0")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
IN_A_NOTEBOOK = any("ipykernel_launcher" in word for word in sys.orig_argv)


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
        if not (flags & WRITES if isinstance(flags, int) else set(mode or "") & set("wax+")):
            return
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"):
        path = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
    else:
        return
    if not isinstance(path, str | bytes | os.PathLike):
        return
    path = os.path.abspath(os.fsdecode(path))
    if path.startswith(ROOT) and "__pycache__" not in path:
        raise RuntimeError(f"a notebook must not write into the checkout: {path}")


sys.addaudithook(_refuse_network)
if IN_A_NOTEBOOK:
    sys.addaudithook(_refuse_writing)
