"""How PyTorch's threads wait: the course's setting is there before torch is, and gives way to the user's."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from benchmarks import threads
from helpers import SPIN_COUNT
from pages.record import ROOT

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
OURS = {"GOMP_SPINCOUNT": "1000"}
SHOW = f"import os; print({{name: os.environ[name] for name in {NAMES!r} if name in os.environ}})"
SETTINGS = [
    ({}, OURS),
    ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
]
each = pytest.mark.parametrize(("set_by_user", "expected"), SETTINGS, ids=str)


def _environment(set_by_user: dict[str, str]) -> dict[str, str]:
    """This process's environment as a user has it who has set just this."""
    return {name: value for name, value in os.environ.items() if name not in NAMES} | set_by_user


def _printed(command: list[str], set_by_user: dict[str, str]) -> str:
    environment = _environment(set_by_user)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@each
def test_importing_helpers_sets_it(set_by_user: dict[str, str], expected: dict[str, str]) -> None:
    assert _printed([sys.executable, "-c", f"import helpers; {SHOW}"], set_by_user) == str(expected)


def test_nothing_is_set_after_torch_has_read_it() -> None:
    code = f"import sys; sys.modules['torch'] = None; import helpers; {SHOW}"
    assert _printed([sys.executable, "-c", code], {}) == "{}"


@pytest.mark.parametrize("start", ["benchmarks", "pages.execute", "conftest", "helpers.tiny_sd.train"])
def test_what_starts_python_has_it_before_torch(start: str) -> None:
    """The value stays out where torch is there first, so that it is set proves the order."""
    assert _printed([sys.executable, "-c", f"import {start}; {SHOW}"], {}) == str(OURS)


@each
def test_make_hands_it_to_what_it_starts(tmp_path: Path, set_by_user: dict, expected: dict) -> None:
    makefile = tmp_path / "makefile"
    makefile.write_text(f'include Makefile\nshow:\n\t@{sys.executable} -c "{SHOW}"\n')
    assert _printed(["make", "-f", str(makefile), "show"], set_by_user) == str(expected)


@each
def test_notebooks_have_it_though_they_import_torch_first(
    tmp_path: Path, set_by_user: dict[str, str], expected: dict[str, str]
) -> None:
    path = tmp_path / "01_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(SHOW)]), path)
    code = (
        "import sys; from pathlib import Path; from pages.execute import execute; "
        "print(execute(Path(sys.argv[1]))[0].cells[0].outputs[0].text.strip())"
    )
    assert _printed([sys.executable, "-c", code, str(path)], set_by_user) == str(expected)


def test_one_value_everywhere_and_the_record_is_about_it() -> None:
    assert dict([SPIN_COUNT]) == OURS and "=".join(SPIN_COUNT) in threads.SETTINGS
    assert f"export {SPIN_COUNT[0]} := {SPIN_COUNT[1]}\n" in (ROOT / "Makefile").read_text()
    assert threads.check()[0].ok


def test_a_summary_compares_within_each_round() -> None:
    quick = threads.Turn(0.1, 0.0)
    slow = threads.Turn(0.4, 0.0)
    rounds = [{name: slow if name == "default" else quick for name in threads.SETTINGS}] * 3
    summary = threads._summary(rounds)
    assert summary["default"]["ratio"] == 1 and summary["GOMP_SPINCOUNT=1000"] == {
        "seconds": 0.1,
        "ratio": 0.25,
        "range": [0.25, 0.25],
    }


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux counts what all cores computed")
def test_busy_loops_are_counted_as_other_programs() -> None:
    start = time.perf_counter()
    before = threads.busy_seconds()
    with threads.busy(1):
        time.sleep(1)
    assert (threads.busy_seconds() - before) / (time.perf_counter() - start) > 0.3
