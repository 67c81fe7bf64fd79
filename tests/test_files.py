"""Atomic writes: the old file or the whole new one, and nothing left behind."""

import errno
import os
import stat
from pathlib import Path

import pytest

from helpers.files import atomic_write


def write(path: Path, data: bytes) -> None:
    with atomic_write(path) as file:
        file.write(data)


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"whole")
        file.flush()
        assert not path.exists() and Path(file.name).read_bytes() == b"whole"
    assert path.read_bytes() == b"whole" and list(path.parent.iterdir()) == [path]


def test_after_an_error_in_the_block_the_old_file_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write(path, b"old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"half of the n")
        raise KeyError
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path, monkeypatch, step: str) -> None:
    path = tmp_path / "file.bin"
    write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left on device: .*file.bin"):
        write(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_others_may_read_the_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "atomic", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_two_writers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    with atomic_write(path) as first:
        with atomic_write(path) as second:
            second.write(b"second")
        first.write(b"first")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
