"""What a training measures of itself: `measurements.jsonl` in its folder, which `helpers.training.doctor` reads.

A line begins with the step; the rest says what was measured: a validation, samples, or why the training stopped.
"""

from pathlib import Path
from typing import Any

from helpers.training.log import append_row, read_log, replace_rows


class Measurements:
    """The measurements of one training, in memory and in a file."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = read_log(path) if path.exists() else []

    def add(self, step: int, **measured: Any) -> None:
        """Write one line of JSON."""
        row = {"step": step} | measured
        self.rows.append(row)
        append_row(self.path, row)

    def truncate(self, step: int) -> None:
        """Drop the rows after a checkpoint's step, which will be measured anew, and those about its end."""
        self.rows = [row for row in self.rows if row["step"] <= step and "stopped" not in row]
        if self.path.exists():
            replace_rows(self.path, self.rows)

    def best(self) -> tuple[int, float] | None:
        """The step of the lowest validation loss, and the loss; None before the first validation."""
        losses = [(row["validation"]["loss"], row["step"]) for row in self.rows if "validation" in row]
        if not losses:
            return None
        loss, step = min(losses)
        return step, loss
