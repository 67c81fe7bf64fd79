"""Reading a training's log, one JSON row per line."""

import json
from contextlib import suppress
from pathlib import Path


def read_log(path: Path) -> list[dict]:
    """The rows of a log, without what a kill or a crash of the computer left of its last ones."""
    rows = []
    for line in path.read_text(errors="replace").splitlines(True):
        with suppress(ValueError):
            row = json.loads(line) if line.endswith("\n") else None
            rows += [row] if isinstance(row, dict) and "step" in row else []
    return rows
