"""Two tables: what was measured beside other libraries, and what was tried against the course and what it cost.

`python -m benchmarks all` and `python -m benchmarks faults` write the records.
"""

import json
from pathlib import Path
from typing import Any

from pages.record import ROOT

RESULTS = ROOT / "00_assets" / "results"
BESIDE, FAULTS = RESULTS / "beside.json", RESULTS / "faults.json"


def beside(path: Path = BESIDE) -> list[str]:
    """Lines of Markdown: what, beside whom, the ratio with its spread, what is promised; none without a record."""
    if not (record := _read(path)):
        return []
    lines = ["| | beside | ratio | of five rounds | promised |", "|---|---|---:|---:|---:|"]
    for row in record["rows"]:
        spread = " to ".join(f"{ratio:.2f}" for ratio in row["spread"] or [])
        short = "" if row["ok"] else " (short)"
        lines.append(f"| {row['what']} | {row['peer']} | {row['ratio']:.2f}{short} | {spread} | {row['promised']} |")
    return [*lines, "", f"Both in one process, in turns, the course's figure over the other's: {record['hardware']}."]


def faults(path: Path = FAULTS) -> list[str]:
    """Lines of Markdown: the fault, times tried, how often all went as promised, what was lost; none without record."""
    if not (record := _read(path)):
        return []
    rows = [f"| {row['fault']} | {row['tried']} | {row['noticed']} | {row['lost']} |" for row in record["faults"]]
    return ["| fault | tried | as promised | lost |", "|---|---:|---:|---|", *rows]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
