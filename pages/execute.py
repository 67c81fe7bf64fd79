"""Executes the course's notebooks, headless and in order, so that two runs store the same bytes.

    python -m pages.execute --into pages/_build/executed      # copies, the notebooks stay as they are
    python -m pages.execute --in-place [--record] [NAME ...]  # what `make execute` does
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

import helpers  # noqa: F401  kernels inherit its setting of how PyTorch's threads wait
from pages.record import RECORD, ROOT, Run, record

NOTEBOOKS = ROOT / "notebooks"
WIDGETS = "application/vnd.jupyter.widget-state+json"
RATE = re.compile(r" ?\[\d+:\d\d(?::\d\d)?(?:&lt;|<)[^\]]*\]")  # tqdm's [00:03&lt;00:00, 412.1it/s]


def notebooks(names: Sequence[str] = (), folder: Path = NOTEBOOKS) -> list[Path]:
    """Every notebook in reading order (solutions last), or those whose name starts with one of `names`.

    Raises:
        ValueError: if a name fits no notebook.
    """
    found = sorted(folder.glob("*.ipynb")) + sorted(folder.glob("solutions/*.ipynb"))
    for name in names:
        if not any(path.stem.startswith(name) for path in found):
            raise ValueError(f"no notebook is called {name}; there are: {', '.join(p.stem for p in found) or 'none'}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def execute(path: Path, timeout: int = 600) -> tuple[NotebookNode, Run]:
    """Run every cell in a fresh kernel, in the notebook's folder.

    Args:
        path: the notebook; it is read, not written.
        timeout: seconds that one cell may take.

    Returns:
        The notebook with stable outputs, and what it took.

    Raises:
        CellExecutionError: if a cell fails; the message shows the cell and the error.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)  # nbclient leaves an earlier run's where no widget is made now
    client = _Client(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,       # no dates in the stored cells
        coalesce_streams=True,     # one printed block, however the kernel happened to flush it
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=True,   # sliders move on the pages, without a kernel
        resources={"metadata": {"path": str(path.parent)}},
    )
    start = time.perf_counter()
    client.execute()
    return stable(notebook), Run(time.perf_counter() - start, client.memory)


class _Client(NotebookClient):
    """Asks, before the kernel ends, how much memory it needed at most."""

    memory: float | None = None

    def set_widgets_metadata(self) -> None:
        """The last step while the kernel lives."""
        super().set_widgets_metadata()
        status = Path(f"/proc/{self.km.provisioner.pid}/status")
        if status.exists():  # Linux
            peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            self.memory = int(peak[1]) * 1024 / 1e9 if peak else None


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
    notebook.nbformat, notebook.nbformat_minor = 4, 5
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
    runs, failed = {}, []
    for path in paths:
        print(f"{path.stem:40}", end="", flush=True)
        try:
            notebook, runs[path.stem] = execute(path)
        except CellExecutionError as error:
            failed.append(path.stem)
            print(f"FAILED\n{error}")
            continue
        write(notebook, path if options.in_place else options.into / path.relative_to(NOTEBOOKS))
        print(f"{runs[path.stem].seconds:6.1f} s", flush=True)
    print(f"{len(runs)} notebooks executed in {sum(run.seconds for run in runs.values()):.0f} s")
    if options.record and runs:
        record(runs)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
