"""The log of a training, one JSON row per line."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_log(path: Path) -> list[dict]:
    """Read the rows of a log; lines that a kill or a crash of the computer left unfinished are skipped."""
    rows = []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        if not line.endswith("\n"):
            continue
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Write one row at the end of a log, which need not exist."""
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def replace_rows(path: Path, rows: list[dict]) -> None:
    """Write a log anew, with these rows alone; raises OSError and then leaves the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.replace(fresh, path)
