"""The cache survives what happens to files: damage, half-writing, two writers, a full disk, a locked folder, a kill."""

import builtins
import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.course import repository_root
from helpers.data import cache

RECIPE = {"source": "test", "size": 4}
PIXELS = np.arange(7 * 3 * 4 * 4, dtype=np.uint8).reshape(7, 3, 4, 4)


def build(details: dict) -> Iterator[np.ndarray]:
    yield PIXELS[:4]
    yield PIXELS[4:]
    details["skipped"] = [["a", "b"]]


def never(details: dict) -> Iterator[np.ndarray]:
    raise AssertionError("built, although the cache is good")
    yield


def test_built_once_then_read_through_a_memory_map(tmp_path: Path) -> None:
    first, details = cache.load_or_build(tmp_path / "new" / "folder", "faces", RECIPE, build)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second, same_details = cache.load_or_build(tmp_path / "new" / "folder", "faces", RECIPE, never)
    assert np.array_equal(first, PIXELS) and np.array_equal(second, PIXELS)
    assert details == same_details == {"skipped": [["a", "b"]]}
    assert isinstance(second, np.memmap) and not second.flags.writeable
    assert sorted(path.suffix for path in (tmp_path / "new" / "folder").iterdir()) == [".json", ".npy"]


def test_another_recipe_is_another_cache(tmp_path: Path) -> None:
    cache.load_or_build(tmp_path, "faces", RECIPE, build)
    other, _ = cache.load_or_build(tmp_path, "faces", RECIPE | {"size": 5}, lambda details: iter([PIXELS[:1]]))
    assert len(other) == 1 and len(list(tmp_path.glob("*.npy"))) == 2


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped byte": flip_a_byte,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "only the header": lambda path: path.write_bytes(path.read_bytes()[:128]),
    "empty": lambda path: path.write_bytes(b""),
    "another array": lambda path: np.save(path, np.zeros(3)),
    "a pickle": lambda path: np.save(path, np.array([{}], dtype=object)),
    "half a description": lambda path: path.with_suffix(".json").write_text('{"recipe": {"so'),
    "an empty description": lambda path: path.with_suffix(".json").write_text("[]"),
    "another's description": lambda path: path.with_suffix(".json").write_text(
        json.dumps(json.loads(path.with_suffix(".json").read_text()) | {"recipe": {}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_cache_is_built_anew(tmp_path: Path, damage) -> None:
    cache.load_or_build(tmp_path, "faces", RECIPE, build)
    path = cache.cache_path(tmp_path, "faces", RECIPE)
    damage(path)
    with pytest.warns(UserWarning, match=f"{path.name} is damaged"):
        images, _ = cache.load_or_build(tmp_path, "faces", RECIPE, build)
    assert np.array_equal(images, PIXELS)
    assert np.array_equal(cache.read(path, RECIPE)[0], PIXELS)


@pytest.mark.parametrize("missing", [".npy", ".json"])
def test_half_a_cache_is_no_damage_somebody_may_be_writing_it(tmp_path: Path, missing: str) -> None:
    cache.load_or_build(tmp_path, "faces", RECIPE, build)
    path = cache.cache_path(tmp_path, "faces", RECIPE)
    path.with_suffix(missing).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = cache.load_or_build(tmp_path, "faces", RECIPE, build)
    assert np.array_equal(images, PIXELS) and np.array_equal(cache.read(path, RECIPE)[0], PIXELS)


def test_what_another_version_wrote_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT - 1)
    cache.load_or_build(tmp_path, "faces", RECIPE, build)
    for path in tmp_path.iterdir():
        path.write_bytes(b"as nobody writes it today")
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(cache.load_or_build(tmp_path, "faces", RECIPE, build)[0], PIXELS)


def test_above_the_limit_the_checksum_is_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.load_or_build(tmp_path, "faces", RECIPE, build)
    path = cache.cache_path(tmp_path, "faces", RECIPE)
    flip_a_byte(path)
    monkeypatch.setattr(cache, "CHECKSUM_LIMIT", 10)
    assert not np.array_equal(cache.read(path, RECIPE)[0], PIXELS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(cache.DamagedCacheError):
        cache.read(path, RECIPE)


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Opening for writing fails, as it does on a read-only file system."""
    real_open = builtins.open

    def guarded(path, mode="r", *rest, **options):
        if "x" in mode:
            raise OSError(number, os.strerror(number), str(path))
        return real_open(path, mode, *rest, **options)

    monkeypatch.setattr(builtins, "open", guarded)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refuse(monkeypatch, number)
    with pytest.warns(UserWarning, match="cannot be written .*stay in memory.*Set COURSE_HOME"):
        images, details = cache.load_or_build(tmp_path, "faces", RECIPE, build)
    assert np.array_equal(images, PIXELS) and details["skipped"]


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="stay in memory"):
        images, _ = cache.load_or_build(tmp_path / "file" / "cache", "faces", RECIPE, build)
    assert np.array_equal(images, PIXELS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the disk that is always full")
def test_a_real_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.open
    opened = []

    def on_full_disk(path, mode="r", *rest, **options):
        if "x" not in mode:
            return real(path, mode, *rest, **options)
        real(path, mode).close()
        opened.append(Path(path))
        return real("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(builtins, "open", on_full_disk)
    with pytest.warns(UserWarning, match="the disk is full"):
        images, _ = cache.load_or_build(tmp_path, "faces", RECIPE, build)
    assert np.array_equal(images, PIXELS)
    assert opened and not list(tmp_path.iterdir()), "the temporary file must not stay on a full disk"


def test_too_much_for_memory_is_an_error_that_says_what_to_do(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, errno.ENOSPC)
    monkeypatch.setattr(cache, "MEMORY_LIMIT", 100)
    with (
        pytest.warns(UserWarning, match="the disk is full"),
        pytest.raises(OSError, match="too many to keep in memory.*the disk is full.*Set COURSE_HOME"),
    ):
        cache.load_or_build(tmp_path, "faces", RECIPE, build)


def test_an_error_of_the_build_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    def broken(details: dict) -> Iterator[np.ndarray]:
        yield PIXELS
        raise PermissionError("of the images themselves")

    with pytest.raises(PermissionError, match="of the images themselves"):
        cache.load_or_build(tmp_path, "faces", RECIPE, broken)
    assert not list(tmp_path.iterdir())


BUILDER = """
import sys, time, numpy as np
from pathlib import Path
from helpers.data.cache import load_or_build
folder, name, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def build(details):
    (folder / f"{name}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    for i in range(20):
        time.sleep(pause)
        yield np.full((5, 3, 8, 8), i, np.uint8)
images, _ = load_or_build(folder / "cache", "faces", {"who": "both"}, build)
print(images.shape, int(images.sum()))
"""


def start(folder: Path, name: str, pause: float) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", BUILDER, str(folder), name, str(pause)],
        cwd=repository_root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(*paths: Path) -> None:
    until = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < until, f"still missing: {paths}"
        time.sleep(0.01)


def test_two_processes_build_the_same_cache_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, name, pause) for name, pause in (("a", 0.002), ("b", 0.003))]
    wait_for(tmp_path / "a.ready", tmp_path / "b.ready")  # both have seen that there is no cache
    (tmp_path / "go").touch()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out.strip() == f"(100, 3, 8, 8) {5 * 192 * 190}", err
    images, _ = cache.read(cache.cache_path(tmp_path / "cache", "faces", {"who": "both"}), {"who": "both"})
    assert images.shape == (100, 3, 8, 8)
    assert not list((tmp_path / "cache").glob(".*")), "temporary files were left"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 needs a POSIX system")
def test_a_killed_build_leaves_no_cache_and_is_swept_up_later(tmp_path: Path, monkeypatch) -> None:
    process = start(tmp_path, "a", 0.2)
    wait_for(tmp_path / "a.ready")
    (tmp_path / "go").touch()
    process.kill()
    process.communicate(timeout=60)
    left = list((tmp_path / "cache").iterdir())
    assert [path.suffix for path in left] == [".part"]
    recipe = {"who": "both"}
    monkeypatch.setattr(cache, "ABANDONED", -1)
    images, _ = cache.load_or_build(tmp_path / "cache", "faces", recipe, build)
    assert np.array_equal(images, PIXELS) and not left[0].exists()
