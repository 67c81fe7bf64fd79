"""Inputs that other people's bug reports are about: the marked tests, run, and counted by kind.

A test is marked `@pytest.mark.fault(kind)`; `refused=True` says that it asserts the message of a refusal or a warning.
The counts are those of the tests that passed. This module is also the plugin of pytest that counts them.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.report import Row, at_least, claim
from helpers.course import repository_root

MARKER = "fault"
REFUSED = 150  # bad inputs, each with its message asserted, all kinds together
COUNTS = "FAULT_COUNTS"  # environment variable: the file that the plugin writes


class Tries(NamedTuple):
    """The inputs of one kind that were tried."""

    tried: int
    passed: int
    refused: int  # of those that passed: with a message that was asserted


def marked_files(folder: Path) -> list[Path]:
    """The files of tests with the marker; the others need not be imported."""
    files = sorted(folder.rglob("test_*.py"))
    return [file for file in files if f"mark.{MARKER}(" in file.read_text()]


def try_all(files: Iterable[Path]) -> dict[str, Tries]:
    """Run the marked tests of these files in another process: kind -> what came of them.

    Raises:
        RuntimeError: where pytest did not run, with what it wrote last.
    """
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        command = [sys.executable, "-m", "pytest", "-q", "-m", MARKER, "-p", __name__, "-p", "no:cacheprovider"]
        environment = os.environ | {COUNTS: str(counts)}
        process = subprocess.run(
            [*command, *map(str, files)], cwd=repository_root(), env=environment, capture_output=True, text=True
        )
        if not counts.exists():
            raise RuntimeError(f"pytest did not run: {(process.stderr or process.stdout)[-500:]}")
        return {category: Tries(*values) for category, values in json.loads(counts.read_text()).items()}


def rows(tries_by_kind: dict[str, Tries]) -> list[Row]:
    """One row a kind, and one for the refusals of all kinds together."""
    lines = [
        claim(
            f"bug reports: {category}",
            f"{tries.passed} of {tries.tried} as promised, {tries.refused} with their message",
            f"all {tries.tried}",
            tries.passed == tries.tried > 0,
        )
        for category, tries in sorted(tries_by_kind.items())
    ]
    refused = sum(tries.refused for tries in tries_by_kind.values())
    return [*lines, at_least("bad inputs whose message is asserted", refused, REFUSED)]


# --- the plugin -------------------------------------------------------------------------------------------------------

_kind_of: dict[str, tuple[str, bool]] = {}  # a test's id -> its kind, and whether it asserts a message
_failed: set[str] = set()
_skipped: set[str] = set()


def pytest_collection_modifyitems(items) -> None:
    """Note the kind of every test; the marker that stands closest to it counts."""
    for item in items:
        if mark := item.get_closest_marker(MARKER):
            _kind_of[item.nodeid] = (mark.args[0], mark.kwargs.get("refused", False))


def pytest_runtest_logreport(report) -> None:
    """Note what came of a test's set-up, call and end."""
    if report.failed:
        _failed.add(report.nodeid)
    elif report.skipped:
        _skipped.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write the counts."""
    tried: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for test, (category, asserts_message) in _kind_of.items():
        if test in _skipped:
            continue
        tried[category] += 1
        if test not in _failed:
            passed[category] += 1
            refused[category] += asserts_message
    if path := os.environ.get(COUNTS):
        Path(path).write_text(json.dumps({name: [tried[name], passed[name], refused[name]] for name in tried}))
