"""`make course`: pages at once, notebooks one after the other, and nothing is lost when one fails or all is stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pages import course, execute
from pages.record import ROOT

FINE = "print(6 * 7)"
FAILS = "assert 6 * 9 == 42"
ENDLESS = "import time; time.sleep(3600)"
DRIVER = """
import signal, sys
from pathlib import Path
from pages import course

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
course.leave(course.run((), Path(sys.argv[1]), Path(sys.argv[2]), lambda folder, quick=False: 0))
"""
WAITS = """
import os, time
from pathlib import Path
Path("started").write_text(str(os.getpid()))
while Path("wait").exists():
    time.sleep(0.1)
"""


def _notebook(path: Path, *cells: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell("# A small notebook"), *map(new_code_cell, cells)]), path)
    return path


class Renderer:
    """Stands for the rendering of the pages: notes which executed copies there were, and whether it was to be quick."""

    def __init__(self, status: int = 0):
        self.calls: list[tuple[bool, list[str]]] = []
        self.status = status

    def __call__(self, folder: Path, *, quick: bool = False) -> int:
        copies = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ipynb"))
        self.calls.append((quick, copies))
        return self.status


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of two notebooks that run to their end, one of them a solution."""
    _notebook(tmp_path / "source" / "01_fine.ipynb", FINE)
    _notebook(tmp_path / "source" / "solutions" / "01_solutions.ipynb", FINE)
    return tmp_path / "source"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only 04_endless has a limit that it reaches, however busy the computer is."""
    monkeypatch.setattr(course, "limit_of", lambda name, slowness: 1 if name == "04_endless" else 3600)


def test_a_notebook_that_fails_or_never_ends_is_named_and_the_others_go_on(
    source: Path, tmp_path: Path, impatient: None, capfd: pytest.CaptureFixture[str]
) -> None:
    _notebook(source / "02_fails.ipynb", FINE, FAILS)
    _notebook(source / "03_dies.ipynb", "import os; os._exit(1)")
    _notebook(source / "04_endless.ipynb", ENDLESS)
    folder = tmp_path / "executed"
    renderer = Renderer()
    assert course.run((), source, folder, renderer) == 1
    written, errors = capfd.readouterr()
    lines = [line.split(maxsplit=2) for line in written.splitlines() if "/5" in line]
    assert [line[:2] for line in lines] == [
        ["1/5", "01_fine"],
        ["2/5", "02_fails"],
        ["3/5", "03_dies"],
        ["4/5", "04_endless"],
        ["5/5", "01_solutions"],
    ]
    assert lines[1][2] == "FAILED in cell [2]: AssertionError: assert 6 * 9 == 42"
    assert lines[2][2].startswith("FAILED in cell [1]: the kernel died")
    assert lines[3][2].startswith("FAILED in cell [1]: still running after 0:")
    assert "3 of 5 notebooks did not run to their end" in errors and "  02_fails, in cell [2]: Assert" in errors
    assert "Traceback" not in written + errors and len(errors.splitlines()) == 6
    assert "assert 6 * 9 == 42" in (folder / "02_fails.error.txt").read_text()
    kept = ["01_fine.ipynb", "solutions/01_solutions.ipynb"]
    assert renderer.calls == [(True, []), (False, kept)]  # first from what is stored, then with what there is
    assert "42" in (folder / "01_fine.ipynb").read_text()


def test_the_next_call_executes_what_failed_and_what_has_changed(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _notebook(source / "02_fails.ipynb", FAILS)
    folder = tmp_path / "executed"
    assert course.run((), source, folder, Renderer()) == 1
    before = (folder / "01_fine.ipynb").stat().st_mtime_ns
    _notebook(source / "02_fails.ipynb", FINE)
    _notebook(source / "solutions" / "01_solutions.ipynb", "print(6 * 8)")
    capsys.readouterr()
    assert course.run((), source, folder, Renderer()) == 0
    written = capsys.readouterr().out
    assert "Executing 2 notebooks (1 executed before and kept)" in written and "01_fine" not in written
    assert (folder / "01_fine.ipynb").stat().st_mtime_ns == before
    assert "48" in (folder / "solutions" / "01_solutions.ipynb").read_text()
    renderer = Renderer()
    assert course.run((), source, folder, renderer) == 0
    assert renderer.calls == [(False, ["01_fine.ipynb", "02_fails.ipynb", "solutions/01_solutions.ipynb"])]


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"  # ended; nobody has asked yet


def _until(true, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.1)
    return true()


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_call_that_was_stopped_is_continued(source: Path, tmp_path: Path, how: signal.Signals, status: int) -> None:
    (source / "solutions" / "01_solutions.ipynb").unlink()
    _notebook(source / "02_waits.ipynb", WAITS)
    (source / "wait").touch()
    folder = tmp_path / "executed"
    command = [sys.executable, "-c", DRIVER, str(source), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert _until(lambda: (source / "started").is_file() and (source / "started").read_text())
    process.send_signal(how)
    written, _ = process.communicate(timeout=120)
    assert process.returncode == status, written
    if how == signal.SIGINT:
        assert "1 of 2 notebooks executed and kept. The next call continues." in written
    assert "Traceback" not in written
    assert _until(lambda: _gone(int((source / "started").read_text()))), "the notebook's kernel goes on"
    assert sorted(path.name for path in folder.rglob("*.ipynb")) == ["01_fine.ipynb"]
    (source / "wait").unlink()
    written = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "Executing 1 notebook (1 executed before and kept)" in written
    assert len(list(folder.rglob("*.ipynb"))) == 2


def test_ctrl_c_while_the_pages_are_rendered(source: Path, tmp_path: Path) -> None:
    def interrupted(folder: Path, *, quick: bool = False) -> int:
        raise KeyboardInterrupt

    assert course.run((), source, tmp_path / "executed", interrupted) == 130


def test_pages_that_cannot_be_rendered_are_a_failure(source: Path, tmp_path: Path) -> None:
    assert course.run(["01_fine"], source, tmp_path / "executed", Renderer(status=2)) == 1
    assert (tmp_path / "executed" / "01_fine.ipynb").is_file()


def test_names_choose_notebooks(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        course.main(["99"])
    assert stopped.value.code == 2 and "no notebook is called 99" in capsys.readouterr().err
    (source / "solutions" / "01_solutions.ipynb").unlink()
    _notebook(source / "02_fails.ipynb", FAILS)  # not chosen
    assert course.run(["01"], source, tmp_path / "executed", Renderer()) == 0


def test_make_hands_the_names_on() -> None:
    command = ["make", "-n", "course", "NOTEBOOKS=01 11"]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert written.splitlines()[-1].endswith("-m pages.course 01 11")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three notebooks, recorded with 60, 120 and 240 seconds."""
    seconds = {"01_a": 60.0, "02_b": 120.0, "03_c": 240.0}
    monkeypatch.setattr(execute, "read", lambda: {"seconds": seconds, "measured_with": {"profile": "cpu"}})


PATHS = [Path("01_a.ipynb"), Path("02_b.ipynb"), Path("03_c.ipynb")]


def test_the_remaining_time_follows_this_computer(recorded: None) -> None:
    progress = course.Progress(PATHS, 3)
    assert progress.left() == "about 7 min left"
    progress.end("01_a", 180.0)  # three times the recorded seconds
    assert progress.slowness() == 3 and progress.left() == "about 18 min left"
    assert progress.left(running=60.0) == "about 17 min left"
    assert progress.left(running=1080.0) == "about 28 min left"  # now it is seven times: (180 + 1080) / (60 + 120)
    progress.end("02_b", 10.0, "in cell [1]: KeyError")  # says nothing about the computer
    assert progress.slowness() == 3 and progress.left() == "about 12 min left"
    progress.end("03_c", 1.0)
    assert progress.left() == ""


def test_without_a_record_nothing_is_estimated(recorded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    progress = course.Progress(PATHS, 3)
    progress.end("01_a", 180.0)
    assert progress.left(running=5.0) == "" and progress.slowness(5.0) == 1


def test_a_limit_is_far_beyond_what_a_busy_computer_needs(recorded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute.limit_of("01_a") == execute.limit_of("04_new") == 20 * 60
    assert execute.limit_of("03_c") == 20 * 240 and execute.limit_of("03_c", slowness=0.5) == 20 * 240
    assert execute.limit_of("03_c", slowness=10.0) == 20 * 2400
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    assert execute.limit_of("01_a") == 12 * 3600


def test_seconds_as_a_clock_shows_them() -> None:
    assert [execute.clock(seconds) for seconds in (4.4, 59.9, 3599, 3725)] == ["0:04", "1:00", "59:59", "1:02:05"]
