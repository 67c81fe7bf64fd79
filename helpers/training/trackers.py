"""Charts of a training in TensorBoard, trackio or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

import importlib.util
from numbers import Real
from pathlib import Path
from typing import Any

TRACKERS = ("tensorboard", "trackio", "wandb")
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}  # any of these, if not the tracker's own name


class Tracker:
    """Sends numbers to one tracker; none where no name is given."""

    def __init__(self, name: str | None, run_name: str, folder: Path, settings: dict[str, Any]):
        """
        Args:
            name: one of TRACKERS, or None.
            run_name: what the tracker calls the training.
            folder: of the run; TensorBoard writes into it.
            settings: the options of the training, shown beside its charts.
        """
        self._tracker: Any = None
        if name is None:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        make = LOGGER_TYPE_TO_CLASS[name]
        where = {"logging_dir": str(folder)} if make.requires_logging_directory else {}
        self._tracker = make(run_name, **where)
        self._tracker.start()
        self._tracker.store_init_configuration({key: _plain(value) for key, value in settings.items()})

    def log(self, step: int, values: dict[str, Any], prefix: str = "") -> None:
        """Send the numbers among these values; those inside dictionaries are named after the path to them."""
        if self._tracker is None:
            return
        numbers = flatten(values, prefix)
        numbers.pop("step", None)
        self._tracker.log(numbers, step=step)

    def finish(self) -> None:
        """Send what is left."""
        if self._tracker is not None:
            self._tracker.finish()


def check_tracker(name: str | None) -> None:
    """Raise SystemExit if the tracker's package is not installed: now, and not when the training starts."""
    packages = PACKAGES.get(name, (name,)) if name else ()
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        raise SystemExit(f"--report-to {name} needs its package: pip install {packages[0]}")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested dictionaries: {"a": {"b": 1}} -> {"a/b": 1}."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(value, dict):
            numbers |= flatten(value, name)
        elif isinstance(value, Real):
            numbers[name] = float(value)
    return numbers


def _plain(value: Any) -> bool | str | float | int | None:
    """A setting as every tracker takes it."""
    return value if value is None or isinstance(value, (bool, str, float, int)) else str(value)
