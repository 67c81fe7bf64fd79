"""Reading a training's log, one JSON row per line."""

import json
from contextlib import suppress
from pathlib import Path


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
