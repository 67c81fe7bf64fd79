"""The record of the notebooks: seconds, memory, machine, versions, and a checksum of their outputs.

`pages/execute.py` writes it; README, the page on time and memory, and every page's foot read it.
"""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nbformat import NotebookNode

from pages.study import PLANS, ROUTES, hours

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "00_assets" / "results" / "course.json"
VERSIONS = ("torch", "torchvision", "diffusers", "transformers", "numpy", "matplotlib", "jupyterlab", "ipywidgets")


class Run(NamedTuple):
    """One execution of a notebook: seconds, kernel start included; the kernel's largest memory in GB, where known."""

    seconds: float
    memory: float | None = None


def record(runs: dict[str, Run], path: Path = RECORD) -> None:
    """Add measurements to the record, with the machine and the versions; earlier ones of other notebooks stay."""
    known = read(path)
    seconds = {name: round(run.seconds, 1) for name, run in runs.items()}
    memory = {name: round(run.memory, 2) for name, run in runs.items() if run.memory is not None}
    known["seconds"] = dict(sorted({**known.get("seconds", {}), **seconds}.items()))
    known["memory"] = dict(sorted({**known.get("memory", {}), **memory}.items()))
    known["measured_with"] = {
        "date": datetime.date.today().isoformat(),
        "profile": os.environ.get("COURSE_PROFILE", "cpu"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name).partition("+")[0] for name in VERSIONS},
    }
    keep(known, path)


def read(path: Path = RECORD) -> dict[str, Any]:
    """Everything recorded so far; nothing where nothing was."""
    return json.loads(path.read_text()) if path.exists() else {}


def keep(known: dict[str, Any], path: Path = RECORD) -> None:
    """Write the record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=2) + "\n")


def table(path: Path = RECORD, folder: str = "notebooks", lessons: Iterable[str] = ()) -> list[str]:
    """The study plan and what was measured, as lines of Markdown; none without a record.

    Args:
        path: of the record.
        folder: how links to the notebooks start.
        lessons: names of notebooks that get a line even if they have not been measured yet.
    """
    known = read(path)
    if not known:
        return []
    names = sorted({name for name in known["seconds"] if not name.endswith("_solutions")} | set(lessons))
    rows = [_row(name, known, folder) for name in names]
    machine = known["measured_with"]
    total = sum(PLANS[name[:2]].hours for name in names if name[:2] in PLANS)
    foot = [
        f"Study time, about {total:.0f} hours in all, is an estimate for reading, running the cells and solving the "
        "exercises. Run time is machine time, from the first cell to the last, and memory is the most that was used: "
        f"both measured in the `{machine['profile']}` profile on {machine['cores']} CPU cores, "
        f"torch {machine['torch']}."
    ]
    head = "| notebook | read before | difficulty | study time (estimate) | run time | memory |"
    return [head, "|---|---|---|---:|---:|---:|", *rows, "", *foot]


def routes(path: Path = RECORD, folder: str = "notebooks") -> list[str]:
    """The routes through the course as lines of a Markdown table; none without a record."""
    return route_lines(read(path), folder)


def route_lines(known: dict[str, Any], folder: str) -> list[str]:
    """The same for the contents of a record."""
    files = {name[:2]: name for name in known.get("seconds", {}) if not name.endswith("_solutions")}
    lines = ["| you want to | read | study time (estimate) |", "|---|---|---:|"]
    for goal, numbers in ROUTES.items():
        links = ", ".join(f"[{number}]({folder}/{files[number]}.ipynb)" for number in numbers if number in files)
        lines.append(f"| {goal} | {links} | {hours(sum(PLANS[number].hours for number in numbers))} |")
    return lines if files else []


def _row(name: str, known: dict[str, Any], folder: str) -> str:
    """One notebook's line; a notebook without a plan goes by the name of its file."""
    number = name[:2]
    plan = PLANS.get(number)
    title = f"{number} {plan.title}" if plan else name
    planned = [", ".join(plan.before), plan.difficulty, hours(plan.hours)] if plan else ["", "", ""]
    seconds = known["seconds"].get(name)
    measured = ["not measured yet" if seconds is None else f"{seconds:.0f} s", _gigabytes(known, name)]
    return f"| {' | '.join([f'[{title}]({folder}/{name}.ipynb)', *planned, *measured])} |"


def stamp(path: Path = RECORD) -> str:
    """When the notebooks were last executed from the top, and with which versions; empty without a record."""
    machine = read(path).get("measured_with", {})
    if "date" not in machine:
        return ""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "diffusers", "transformers", "jupyterlab"))
    return f"Last verified on {machine['date']} with Python {machine['python']}, {versions}."


def outputs_digest(notebook: NotebookNode) -> str:
    """A checksum of the code and of all outputs, sliders included; it does not depend on the prose."""
    cells = [(cell.source, cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    shown = json.dumps([cells, notebook.metadata.get("widgets", {})], sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()[:16]


def _gigabytes(known: dict[str, Any], name: str) -> str:
    memory = known.get("memory", {}).get(name)
    return f"{memory:.1f} GB" if memory is not None else ""
