"""The course as a whole: it runs, in how many seconds, its pages open, its version lists agree.

`pages.fill` shows what was recorded: in README and on the pages.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import nbformat
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.report import Row, at_most, claim
from pages import fill
from pages.browser import addresses, chromium, find_chromium, serve, visit
from pages.build import HTML
from pages.execute import NOTEBOOKS, notebooks
from pages.record import ROOT, keep, outputs_digest, read

NOTEBOOK_SECONDS = 120
COURSE_SECONDS = 16 * 60
TEST_SECONDS = 15 * 60
FIRST_IMAGE_SECONDS = 15


def check() -> list[Row]:
    """Recompute what can be recomputed without executing the notebooks; times come from the record of `run`."""
    return [*_stored_outputs(), *_times(), _first_image(), *_versions(), *_pages()]


def run() -> None:
    """Execute every notebook in place, then once more elsewhere; run the whole test suite; record what came out."""
    execute_twice()
    time_tests()
    fill.main()


def execute_twice(*names: str) -> None:
    """Record seconds and memory of each notebook, and what both executions showed, where they agree in every byte.

    `names`: how the notebooks' names start, such as "02"; none: all.
    """
    command = [sys.executable, "-m", "pages.execute", *names]
    subprocess.run([*command, "--in-place", "--record"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as second_folder:
        subprocess.run([*command, "--into", second_folder], cwd=ROOT, check=True)
        same = [path for path in notebooks(names) if path.read_bytes() == _twin(path, Path(second_folder)).read_bytes()]
    agreed = read().get("twice_the_same", {}) | {path.stem: _digest(path) for path in same}
    keep({**read(), "twice_the_same": agreed})


def time_tests() -> None:
    """Record the seconds of `make test`, if it passes."""
    start = time.perf_counter()
    subprocess.run(["make", "test"], cwd=ROOT, check=True)
    keep({**read(), "make_test_seconds": round(time.perf_counter() - start)})


def reproduced() -> list[str]:
    """The notebooks whose stored outputs are those that two executions agreed on, byte by byte."""
    known = read().get("twice_the_same", {})
    return [path.stem for path in notebooks() if known.get(path.stem) == _digest(path)]


def _twin(path: Path, folder: Path) -> Path:
    return folder / path.relative_to(NOTEBOOKS)


def _digest(path: Path) -> str:
    return outputs_digest(nbformat.read(path, as_version=4))


def disagreements(root: Path = ROOT) -> list[str]:
    """Where environment.yml and constraints.txt name different versions, or a package that the other lacks."""
    locked = dict(_pins((root / "constraints.txt").read_text().splitlines()))
    listed = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    conda: dict[str, str] = {}
    for part in listed:
        if isinstance(part, dict):
            conda |= _pins(line for line in part["pip"] if line != "-e .")
    return [
        f"{name}: {version}, locked {locked.get(name)}"
        for name, version in conda.items()
        if locked.get(name) != version
    ]


def _pins(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            yield canonicalize_name(requirement.name), str(requirement.specifier).removeprefix("==")


def _stored_outputs() -> Iterator[Row]:
    paths = notebooks()
    executed = [path for path in paths if _is_executed(path)]
    measured = f"{len(executed)} of {len(paths)}"
    expected = "every one"
    yield claim("course: notebooks executed, outputs stored", measured, expected, bool(paths) and executed == paths)


def _is_executed(path: Path) -> bool:
    """Whether every code cell has run, in order from the top, and none ended in an error."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    in_order = [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = chain.from_iterable(cell.outputs for cell in cells)
    return in_order and not any(output.output_type == "error" for output in outputs)


def _times() -> Iterator[Row]:
    known = read()
    seconds = known.get("seconds", {})
    names = [path.stem for path in notebooks()]
    timed = [name for name in names if name in seconds]
    yield claim("course: notebooks timed", f"{len(timed)} of {len(names)}", "every one", bool(names) and timed == names)
    if timed:
        slowest = max(timed, key=seconds.__getitem__)
        yield at_most(f"course: slowest notebook ({slowest})", seconds[slowest], NOTEBOOK_SECONDS, "s")
        yield at_most("course: all notebooks, one after another", sum(map(seconds.get, timed)), COURSE_SECONDS, "s")
    yield test_seconds()


def first_image_code() -> str:
    """The first code cells of notebook 00, up to the one that shows the first generated animals."""
    cells = [cell for cell in nbformat.read(notebooks(["00"])[0], as_version=4).cells if cell.cell_type == "code"]
    last = next(i for i, cell in enumerate(cells) if "show(" in cell.source)
    return "\n".join(cell.source for cell in cells[: last + 1])


def _first_image() -> Row:
    """Start Python and run these cells, as a reader who presses Shift and Enter does."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", first_image_code()], cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return at_most("course: notebook 00, the first generated animals", seconds, FIRST_IMAGE_SECONDS, "s")


def test_seconds() -> Row:
    """A row about the seconds of the last recorded `make test`."""
    if (seconds := read().get("make_test_seconds")) is None:
        return claim("course: make test", "not recorded yet", f"<= {TEST_SECONDS} s", False)
    return at_most("course: make test", seconds, TEST_SECONDS, "s")


def _versions() -> Iterator[Row]:
    yield at_most("course: environment.yml against constraints.txt, differences", len(disagreements()), 0)


def _pages() -> Iterator[Row]:
    if find_chromium() is None:
        print("not checked here: the pages in a browser (no Chromium found; CHROMIUM names one)", file=sys.stderr)
        return
    if not (HTML / "index.html").is_file():
        subprocess.run([sys.executable, "-m", "pages.build"], cwd=ROOT, check=True, env={**os.environ})
    with serve(HTML) as url, chromium() as browser:
        visits = [visit(browser, f"{url}/{path}") for path in addresses(HTML)]
    yield claim("course: pages opened in a browser", len(visits), ">= 1", bool(visits))
    yield at_most("course: failed requests", sum(len(trouble.failed) for trouble in visits), 0)
    yield at_most("course: console errors", sum(len(trouble.errors) for trouble in visits), 0)
