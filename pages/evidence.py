"""Tables: what was measured beside other libraries and on a GPU; what was tried against the course and what it cost.

`python -m benchmarks all` and `python -m benchmarks faults` write the records.
"""

import json
from pathlib import Path
from typing import Any

from pages.record import ROOT

RESULTS = ROOT / "00_assets" / "results"
BESIDE, FAULTS, CUDA = RESULTS / "beside.json", RESULTS / "faults.json", RESULTS / "cuda.json"


def beside(path: Path = BESIDE) -> list[str]:
    """Lines of Markdown: what, beside whom, the ratio with its spread, what is promised; none without a record."""
    if not (record := _read(path)):
        return []
    lines = ["| | beside | ratio | smallest to largest | promised |", "|---|---|---:|---:|---:|"]
    for row in record["rows"]:
        spread = " to ".join(f"{ratio:.2f}" for ratio in row["spread"] or [])
        short = "" if row["ok"] else " (short)"
        lines.append(f"| {row['what']} | {row['peer']} | {row['ratio']:.2f}{short} | {spread} | {row['promised']} |")
    machines = "; ".join(dict.fromkeys(row["hardware"] for row in record["rows"]))
    return [*lines, "", "In turns, in one process (imports: each in its own), the course's figure over the other's: "
            "the median of five rounds, of up to 25 where they are short. "
            f"Measured on {machines}."]  # fmt: skip


def cuda(path: Path = CUDA) -> list[str]:
    """Lines of Markdown: what training reaches on a GPU; that nothing was measured, without a record."""
    if not (record := _read(path)):
        return ["On a GPU nothing has been measured yet."]
    lines = [f"On a GPU ({record['hardware']}), under a cap of {record['cap_gib']:g} GiB:", "",
             "| method | compiled | images/s | peak GiB | of the card's arithmetic |", "|---|---|---:|---:|---:|"]
    return lines + [f"| {row['method']} | {'yes' if row['compiled'] else 'no'} | {row['images_per_second']:.0f} | "
                    f"{row['peak_gib']:.1f} | {row['utilisation']:.0%} |" for row in record["trainings"]]  # fmt: skip


def faults(path: Path = FAULTS) -> list[str]:
    """Lines of Markdown: the fault, times tried, how often all went as promised, what was lost; none without record."""
    if not (record := _read(path)):
        return []
    rows = [f"| {row['fault']} | {row['tried']} | {row['noticed']} | {row['lost']} |" for row in record["faults"]]
    return ["| fault | tried | as promised | lost |", "|---|---:|---:|---|", *rows]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
