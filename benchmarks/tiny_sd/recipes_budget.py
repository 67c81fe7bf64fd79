"""How many updates a budget of processor time allows: a few are timed, alternating with those of other trainings."""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.model import TinySD
from helpers.training import EMA, TrainConfig, train

WARM_UP = 2  # updates before the clock starts
MEASURED = 8  # updates that decide the number of updates


class Trial(NamedTuple):
    """A training whose updates are timed, on a copy of the model."""

    model: TinySD
    batches: Batches
    options: argparse.Namespace
    precision: str

    def begin(self) -> Iterator[Any]:
        """Every `next` is an update."""
        model = copy.deepcopy(self.model)
        steps = WARM_UP + MEASURED
        config = TrainConfig(
            steps=steps, warmup=steps, learning_rate=self.options.learning_rate, optimizer_name=self.options.optimizer
        )
        average = EMA(model, self.options.ema)
        return train(model, self.batches.losses, config, ema=average, bf16=self.precision == "bf16")


def update_seconds(trials: list[Trial]) -> list[float]:
    """Processor time of one update of each, medians of a few, alternating."""
    seconds: list[list[float]] = [[] for _ in trials]
    loops = [_timed(trial.begin(), times) for trial, times in zip(trials, seconds, strict=True)]
    for _ in zip(*loops, strict=True):
        pass
    return [statistics.median(times[WARM_UP:]) for times in seconds]


def _timed(loop: Iterator[Any], times: list[float]) -> Iterator[None]:
    """Steps of the loop, the seconds of processor time of each noted."""
    while True:
        mark = time.process_time()
        if next(loop, None) is None:
            return
        times.append(time.process_time() - mark)
        yield


def updates(budget: float, seconds: list[float]) -> list[int]:
    """How many updates of each phase the budget, in seconds, allows; the phases get equal shares of it.

    Raises:
        SystemExit: where nothing is left for training.
    """
    if budget <= 0:
        raise SystemExit("encoding the images took longer than the whole budget: more --minutes, or do not count it")
    return [max(1, round(budget / len(seconds) / update_time)) for update_time in seconds]
