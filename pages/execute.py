"""Executes the course's notebooks, headless and in order, so that two runs store the same bytes.

python -m pages.execute --into FOLDER                     # copies, the notebooks stay as they are
python -m pages.execute --in-place [--record] [NAME ...]  # what `make execute` does
"""

import argparse
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

import helpers  # noqa: F401  kernels inherit its setting of how PyTorch's threads wait
from pages import fill
from pages.record import RECORD, ROOT, Run, read, record

NOTEBOOKS = ROOT / "notebooks"
WIDGETS = "application/vnd.jupyter.widget-state+json"
SHORTEST_LIMIT = 20 * 60  # seconds
TIMES_THE_RECORDED = 20  # of what a notebook took on a quiet computer
LIMIT_WITHOUT_RECORD = 12 * 3600  # seconds: on a GPU that nobody has measured, a notebook may train for long
SILENT = logging.getLogger("pages.execute")
SILENT.setLevel(logging.CRITICAL + 1)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ARROW = re.compile(r"^-+> ?\d+ (.*)$", re.MULTILINE)  # IPython's mark of the line that raised
RATE = re.compile(r" ?\[\d+:\d\d(?::\d\d)?(?:&lt;|<)[^\]]*\]")  # tqdm's [00:03&lt;00:00, 412.1it/s]


def notebooks(names: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """Every notebook in reading order (solutions last), or those whose name starts with one of `names`.

    Raises:
        ValueError: if a name fits no notebook.
    """
    paths = sorted(folder.glob("*.ipynb")) + sorted(folder.glob("solutions/*.ipynb"))
    for name in names:
        if not any(path.stem.startswith(name) for path in paths):
            raise ValueError(f"no notebook is called {name}; there are: {', '.join(p.stem for p in paths) or 'none'}")
    return [path for path in paths if not names or path.stem.startswith(tuple(names))]


def execute(path: Path, limit: float | None = None) -> tuple[NotebookNode, Run]:
    """Run every cell in a fresh kernel, in the notebook's folder.

    Args:
        path: the notebook; it is read, not written.
        limit: seconds that the whole notebook may take; None: those of `limit_of`.

    Returns:
        The notebook with stable outputs, and what it took.

    Raises:
        CellExecutionError: if a cell fails; the message shows the cell and the error.
        CellTimeoutError: if a cell is still running at the limit.
        DeadKernelError: if the kernel ends before the notebook does.
    """
    client = _Client.for_notebook(path, limit_of(path.stem) if limit is None else limit)
    start = time.perf_counter()
    client.execute()
    return stable(client.nb), Run(time.perf_counter() - start, client.memory)


def limit_of(name: str, slowness: float = 1.0) -> float:
    """Seconds after which a notebook is given up: far more than it takes, on a computer busy with other programs too.

    Args:
        name: of the notebook, without .ipynb.
        slowness: how many times the recorded seconds this computer has taken so far.

    Returns:
        At least `SHORTEST_LIMIT`; in a profile without recorded times, as gpu is, `LIMIT_WITHOUT_RECORD`.
    """
    expected = recorded_seconds()
    if not expected:
        return LIMIT_WITHOUT_RECORD
    return max(SHORTEST_LIMIT, TIMES_THE_RECORDED * max(1.0, slowness) * expected.get(name, 0.0))


def recorded_seconds() -> dict[str, float]:
    """Recorded seconds of each notebook, if they were measured in the present profile; else nothing."""
    known = read()
    same = known.get("measured_with", {}).get("profile") == os.environ.get("COURSE_PROFILE", "cpu")
    return known["seconds"] if same else {}


class Execution(threading.Thread):
    """A notebook that is being executed in a thread of its own, so that somebody can watch it and stop it.

    In the main thread nbclient takes Ctrl-C for itself, kills the kernel and calls that the kernel's own death.

    Attributes:
        result: the notebook with stable outputs, and what it took; None before the end, and where it failed.
        error: what went wrong; None where nothing did.
    """

    def __init__(self, path: Path, limit: float):
        super().__init__(name=path.stem, daemon=True)
        self.path = path
        self.limit = limit
        self.result: tuple[NotebookNode, Run] | None = None
        self.error: Exception | None = None
        self._client = _Client.for_notebook(path, limit)
        self._kernel_output = tempfile.TemporaryFile()  # open as long as the kernel may write
        self._start = time.perf_counter()

    def run(self) -> None:
        """Execute the notebook: what the thread does after `start`."""
        try:
            self._client.execute(stdout=self._kernel_output, stderr=self._kernel_output)
            self.result = stable(self._client.nb), Run(self.seconds, self._client.memory)
        except Exception as error:  # whatever it is, the other notebooks go on
            self.error = error

    @property
    def seconds(self) -> float:
        """Seconds since the execution was created."""
        return time.perf_counter() - self._start

    @property
    def cells(self) -> tuple[int, int]:
        """Which code cell is running, counted from 1 (0 while the kernel starts), and how many there are."""
        return self._client.position, self._client.code_cells

    def stop(self, patience: float = 10.0) -> None:
        """Kill the kernel and whatever it has started, and wait until the thread has noticed."""
        end = time.perf_counter() + patience
        while self.is_alive() and time.perf_counter() < end:
            self._client.kill()
            self.join(0.2)

    def whole_error(self) -> str:
        """The error in full, and what the kernel's process wrote to its own output: most often nothing."""
        text = str(self.error) if isinstance(self.error, CellExecutionError) else repr(self.error)
        self._kernel_output.seek(0)
        return COLOURS.sub("", f"{text}\n{self._kernel_output.read().decode(errors='replace')}")

    def failure(self) -> str:
        """Which cell failed, and why, in one line; only where there is an `error`."""
        where = f"in cell [{self._client.position}]" if self._client.position else "before the first cell"
        if isinstance(self.error, CellTimeoutError):
            return f"{where}: still running after {clock(self.seconds)}, the limit for this notebook"
        if isinstance(self.error, DeadKernelError):
            return f"{where}: the kernel died (most often because there was no memory left)"
        return f"{where}: {_in_one_line(self.error)}" if self.error else ""


class _Client(NotebookClient):
    """Counts the code cells as they run, and reads the kernel's peak memory before it ends."""

    memory: float | None = None
    position = 0  # of the code cell that is running, counted from 1
    code_cells = 0  # how many there are

    @classmethod
    def for_notebook(cls, path: Path, limit: float) -> "_Client":
        """The client of one notebook, which may take `limit` seconds from now on."""
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata.pop("widgets", None)  # nbclient leaves an earlier run's where no widget is made now
        end = time.monotonic() + limit
        client: _Client = cls(
            notebook,
            timeout_func=lambda cell: max(1, math.ceil(end - time.monotonic())),
            startup_timeout=300,  # for the kernel: a minute, nbclient's default, is short on a busy computer
            iopub_timeout=60,  # for a cell's last outputs: after 4 seconds nbclient would go on without them
            kernel_name="python3",
            record_timing=False,  # no dates in the stored cells
            coalesce_streams=True,  # one printed block, however the kernel happened to flush it
            extra_arguments=["--log-level=ERROR"],
            store_widget_state=True,  # sliders move on the pages, without a kernel
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_execute=lambda cell, cell_index: client.count(cell),
            log=SILENT,  # what goes wrong is an exception as well
        )
        client.code_cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
        return client

    def count(self, cell: NotebookNode) -> None:
        """Count a code cell: called before it runs."""
        self.position += 1

    def set_widgets_metadata(self) -> None:
        """Note the kernel's peak memory: this is the last step while the kernel lives."""
        super().set_widgets_metadata()
        status = Path(f"/proc/{self._kernel_pid()}/status")
        if status.exists():  # Linux
            peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            self.memory = int(peak[1]) * 1024 / 1e9 if peak else None

    def _kernel_pid(self) -> int | None:
        """The kernel's process, if there is one."""
        return getattr(getattr(self.km, "provisioner", None), "pid", None)

    def kill(self) -> None:
        """End the kernel at once, if it is there; it leads a group of processes of its own."""
        pid = self._kernel_pid()
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def clock(seconds: float) -> str:
    """Seconds as text: 1:05, or 1:02:03 with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _in_one_line(error: Exception) -> str:
    """The class of an error and the first line of its message; for an assertion without one, what it asserted."""
    if not isinstance(error, CellExecutionError):
        return f"{type(error).__name__}: {_first_line(str(error))}"
    raised_in = ARROW.findall(COLOURS.sub("", error.traceback))
    return f"{error.ename}: {_first_line(error.evalue) or _first_line(' '.join(raised_in[:1]))}"


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def stable(notebook: NotebookNode) -> NotebookNode:
    """Replace what differs from run to run: widget ids, cell ids, the kernel's name and version."""
    notebook = _without_rates(_renumber_widgets(notebook))
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            **({"widgets": notebook.metadata["widgets"]} if "widgets" in notebook.metadata else {}),
        }
    )
    for cell, name in zip(notebook.cells, _cell_ids(notebook.cells)):
        cell.id = name
        cell.metadata.pop("execution", None)
    notebook.nbformat = 4
    notebook.nbformat_minor = 5
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")
    unfinished.replace(path)


def _renumber_widgets(notebook: NotebookNode) -> NotebookNode:
    """Number widget models in the order they were made; ids are 32 random hexadecimal digits otherwise."""
    state = notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {})
    text = json.dumps(notebook)
    shown = re.findall(r'"model_id": "([0-9a-f]{32})"', text)
    numbers = {name: f"{number:032x}" for number, name in enumerate(dict.fromkeys([*state, *shown]), start=1)}
    text = re.sub(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])", lambda match: numbers.get(match[0], match[0]), text)
    return nbformat.from_dict(json.loads(text))


def _without_rates(notebook: NotebookNode) -> NotebookNode:
    """Take the elapsed time and the rate out of finished progress bars (tqdm's), which differ in every run."""
    for model in notebook.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {}).values():
        value = model["state"].get("value")
        if model["model_name"] == "HTMLModel" and isinstance(value, str):
            model["state"]["value"] = RATE.sub("", value)
    return notebook


def _cell_ids(cells: Sequence[NotebookNode]) -> Iterator[str]:
    """An id from each cell's text: inserting a cell leaves the ids of the others alone."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        yield digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute, print the seconds of each notebook, and say which cell failed where one did."""
    parser = argparse.ArgumentParser(prog="python -m pages.execute", description="Execute the course's notebooks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="how the notebook's name starts, such as 02")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--in-place", action="store_true", help="store the outputs in the notebooks")
    where.add_argument("--into", type=Path, help="store executed copies in this folder")
    parser.add_argument("--record", action="store_true", help=f"keep the times in {RECORD.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    os.environ.setdefault("COURSE_PROFILE", "cpu")
    try:
        paths = notebooks(options.names)
    except ValueError as error:
        parser.error(str(error))
    if options.into and not options.names:
        shutil.rmtree(options.into, ignore_errors=True)  # no copy of a notebook that is gone
    runs = {}
    failed = []
    for path in paths:
        print(f"{path.stem:40}", end="", flush=True)
        try:
            notebook, runs[path.stem] = execute(path)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(path.stem)
            print(f"FAILED\n{error}")
            continue
        write(notebook, path if options.in_place else options.into / path.relative_to(NOTEBOOKS))
        print(f"{runs[path.stem].seconds:6.1f} s", flush=True)
    print(f"{len(runs)} notebooks executed in {sum(run.seconds for run in runs.values()):.0f} s")
    if options.record and runs:
        record(runs)
        fill.main()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
