"""The first tenth of a short training, with a fault planted in it or without."""

from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from helpers.tiny_sd import train as command
from helpers.training.run import Run, train_run

STEPS = 1000  # of the training that is begun
USUAL = (
    f"--size 32 --widths 32 64 --batch-size 16 --steps {STEPS} --log-every 10 --validate-every 50 --sample-every 100"
)
LONGER = f"{USUAL} --steps {6 * STEPS} --log-every 30 --validate-every 150 --sample-every {6 * STEPS}"
LATENTS = f"{USUAL} --method pretrained"


class Training(NamedTuple):
    """What is trained, and what is wrong with it."""

    name: str
    arguments: str = USUAL  # of `python -m helpers.tiny_sd.train`, whose last value of an option counts
    illness: str = ""  # the doctor's name for what is wrong; "": nothing is
    plant: Callable[[Run], None] | None = None  # puts the fault into a training that is ready
    images: Callable[[Path], None] | None = None  # writes its own training images into a folder


def train_a_tenth(training: Training, folder: Path) -> Path:
    """Train the first tenth; returns the folder of the run."""
    arguments = training.arguments.split()
    if training.images:
        training.images(folder / "images")
        arguments += ["--source", str(folder / "images")]
    out = folder / "run"
    options = command.parse_options([*arguments, "--out", str(out)])
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        command.check_options(options)
        run = _Tenth(command.parser(), options, command.task)
        if training.plant:
            training.plant(run)
        with suppress(SystemExit):  # of a loss that is no number
            train_run(run)
    return out


class _Tenth(Run):
    """A run that stops after a tenth of its steps."""

    def __init__(self, parser: argparse.ArgumentParser, options: argparse.Namespace, make_task: Callable):
        super().__init__(parser, options, make_task)

    def train(self, first_step: int = 0, steps: int | None = None) -> Iterator:
        return islice(super().train(first_step, steps), self.config.steps // 10)
