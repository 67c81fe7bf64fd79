"""Executed copies of the notebooks, and which of them are still current.

Beside each copy lies a fingerprint of all that its outputs depend on: the notebook's text, the code and weights of
the course, the files and the settings that are read, the versions of the libraries. A copy whose fingerprint is
another, or that has none because the execution was killed, is no longer current.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from pages.execute import NOTEBOOKS, write
from pages.record import ROOT, VERSIONS

EVERYWHERE = ("helpers", "00_assets/weights", "pages/execute.py")  # what the outputs of all notebooks depend on
SETTING = re.compile(r"""environ(?:\.get\(|\[)\s*["'](\w+)["']""")
NAMED_FILE = re.compile(r"00_assets/[\w./-]+\w|README\.md")


def copy_of(path: Path, folder: Path, source: Path = NOTEBOOKS) -> Path:
    """Where in `folder` the executed copy of a notebook of `source` is kept."""
    return folder / path.relative_to(source)


def keep(notebook: NotebookNode, copy: Path, fingerprint: str) -> None:
    """Write an executed copy, then its fingerprint, each whole or not at all: in between, the copy is not current."""
    _beside(copy).unlink(missing_ok=True)
    write(notebook, copy)
    unfinished = _beside(copy).with_suffix(".part")
    unfinished.write_text(fingerprint + "\n")
    unfinished.replace(_beside(copy))


def is_current(path: Path, copy: Path) -> bool:
    """Whether the copy is the result of the notebook and of all else as it is now."""
    beside = _beside(copy)
    return copy.is_file() and beside.is_file() and beside.read_text().strip() == fingerprint_of(path)


def drop_outdated(paths: Sequence[Path], folder: Path, source: Path = NOTEBOOKS) -> list[Path]:
    """Remove from the folder whatever is not a current copy of one of the notebooks.

    Returns:
        The notebooks that have a current copy.
    """
    current = [path for path in paths if is_current(path, copy_of(path, folder, source))]
    kept = {copy_of(path, folder, source) for path in current}
    kept |= {_beside(copy) for copy in kept}
    for file in list(folder.rglob("*")):
        if file.is_file() and file not in kept:
            file.unlink()
    return current


def fingerprint_of(path: Path) -> str:
    """A checksum of all that the outputs of a notebook depend on."""
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]
    code = "\n".join(source for cell_type, source in cells if cell_type == "code")
    files = [ROOT / name for name in sorted(set(NAMED_FILE.findall(code)))]
    parts = [repr(cells), _of_the_course(), *_settings(code), *(_digest(file) for file in files if file.is_file())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _beside(copy: Path) -> Path:
    return copy.with_suffix(".fingerprint")


def _of_the_course() -> str:
    """A description of all that every notebook depends on; files are read anew, for they may be edited meanwhile."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in VERSIONS]
    files = [f"{file.relative_to(ROOT)} {_digest(file)}" for file in _files()]
    code = "\n".join(file.read_text() for file in _files() if file.suffix == ".py")
    return "\n".join([platform.python_version(), *versions, *files, *_settings(code)])


def _files() -> Iterator[Path]:
    for name in EVERYWHERE:
        place = ROOT / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (file for file in files if file.is_file() and "__pycache__" not in file.parts)


def _settings(code: str) -> list[str]:
    """The environment's variables that a piece of code reads, with their values."""
    names = sorted(set(SETTING.findall(code)))
    return [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]


def _digest(file: Path) -> str:
    """The checksum of a file's bytes; read once as long as size and time of change stay."""
    known = file.stat()
    return _read(file, known.st_size, known.st_mtime_ns)


@cache
def _read(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
