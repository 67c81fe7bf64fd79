"""The record of the recipe search: a row for each method, change and budget, with an entry for every seed."""

import json
import statistics
from pathlib import Path

from filelock import FileLock

from benchmarks.record import write_record
from benchmarks.tiny_sd.recipes_changes import CHANGES, Change, method_of
from helpers.course import course_home


def read_rows(path: Path) -> list[dict]:
    """The rows; none where nothing was recorded."""
    return json.loads(path.read_text()) if path.exists() else []


def find_row(rows: list[dict], method: str, name: str, minutes: float) -> dict | None:
    """The row of a change at a budget."""
    key = (method, name, minutes)
    return next((row for row in rows if (row["method"], row["name"], row["core_minutes"]) == key), None)


def seeds_of(row: dict | None) -> set[int]:
    """Which seeds a row has."""
    return {run["seed"] for run in row["runs"]} if row else set()


def add_run(path: Path, method: str, change: Change, minutes: float, setup: dict, run: dict) -> dict:
    """Write one judged training into the record, whole or not at all, and return its row.

    Raises:
        SystemExit: where the row's other seeds were measured with another setup.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = course_home() / "recipes.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        rows = read_rows(path)
        row = find_row(rows, method, change.name, minutes)
        if row is None:
            row = {
                "method": method,
                "change": change.text,
                "core_minutes": minutes,
                "name": change.name,
                "kept": change.name == "baseline",
                "setup": setup,
                "runs": [],
            }
            rows.append(row)
        refuse_another_setup(row, setup)
        others = [entry for entry in row["runs"] if entry["seed"] != run["seed"]]
        row["runs"] = sorted([*others, run], key=lambda entry: entry["seed"])
        row.update(change=change.text, **summary(row["runs"], minutes))
        write_rows(path, rows)
    return row


def refuse_another_setup(row: dict, setup: dict) -> None:
    """Figures that were measured in different ways must not be averaged, nor stand for one another."""
    now = json.loads(json.dumps(setup))  # as the record has it: lists in place of tuples
    if row["setup"] != now:
        was = {name: row["setup"].get(name) for name in now if row["setup"].get(name) != now[name]}
        raise SystemExit(
            f"{row['method']}, {row['name']} was measured with another setup ({was}): use --record with "
            "another file, or take its row out of the record"
        )


def summary(runs: list[dict], minutes: float) -> dict:
    """What a row says of all its seeds: means, and the standard deviation over seeds of the KID."""
    kids = [run["kid"] for run in runs]
    classes = {
        name: round(statistics.mean(run["judged_by_class"][name] for run in runs), 1)
        for name in runs[0]["judged_by_class"]
    }
    steps = round(statistics.mean(run["steps"] for run in runs))
    notes = [
        f"{steps:,} updates, {statistics.mean(run['epochs'] for run in runs):.2g} epochs",
        ", ".join(f"{name} {value:.0f} %" for name, value in classes.items()),
    ]
    used = statistics.mean(run["core_minutes_used"] for run in runs)
    if abs(used / minutes - 1) > 0.1:
        notes.append(f"used {used:.3g} core-minutes")
    return {
        "seeds": len(runs),
        "kid": round(statistics.mean(kids), 4),
        "kid_std": round(statistics.stdev(kids), 4) if len(kids) > 1 else None,
        "judged": round(statistics.mean(run["judged"] for run in runs), 1),
        "judged_by_class": classes,
        "note": "; ".join(notes),
        "steps": steps,
        "images": round(statistics.mean(run["images"] for run in runs)),
        "parameters": runs[0]["parameters"],
        "options": runs[0]["options"],
        "date": max(run["date"] for run in runs),
        "processor": "; ".join(dict.fromkeys(run["processor"] for run in runs)),
    }


def write_rows(path: Path, rows: list[dict]) -> None:
    """Replace the record in one move, the rows in the order of this file."""
    order: list[tuple[str, str]] = []
    for method, method_changes in CHANGES.items():
        order += [(method_of(method, change), change.name) for change in method_changes]

    def place(row: dict) -> tuple[float, int]:
        key = (row["method"], row["name"])
        return row["core_minutes"], order.index(key) if key in order else len(order)

    write_record(path, sorted(rows, key=place))
