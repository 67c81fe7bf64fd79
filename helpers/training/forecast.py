"""What a training will take, before it starts: `--dry-run` measures a few of its steps and writes nothing."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from helpers.training.setup import FIRST_SAMPLES, Run

WARM_UP = 2  # steps that are not counted: they allocate memory, and compile
MEASURED = 6  # steps
BYTES = 4  # of a stored number in float32
CHECKPOINT_COPIES = 4  # of every parameter: the model, its average, and the two moments of Adam
GRIDS_KEPT = 300_000  # bytes of a grid of samples, roughly


class Forecast(NamedTuple):
    """What a training will take."""

    parameters: int  # that are trained
    steps: int
    step_seconds: float  # on the clock
    core_seconds: float  # of processor time, of one step
    sample_seconds: float  # of one grid of samples
    grids: int  # of samples in the whole training
    validation_seconds: float  # on the clock that one validation takes
    validations: int  # in the whole training
    memory: int  # bytes, the largest so far: of the GPU, else of this process
    disk: int  # bytes in the run's folder at the end

    @property
    def seconds(self) -> float:
        """On the clock, of the whole training with all it measures; loading images and encoding latents not counted."""
        measuring = self.grids * self.sample_seconds + self.validations * self.validation_seconds
        return self.steps * self.step_seconds + measuring

    def __str__(self) -> str:
        samples = f", {self.grids} grids of samples included" if self.grids else ""
        return "\n".join(
            [
                f"parameters: {self.parameters:,}",
                f"a step: {self.step_seconds:.3g} s, {self.core_seconds:.3g} s of processor time",
                f"{self.steps:,} steps: {_duration(self.seconds)}{samples}",
                f"memory: {self.memory / 1e9:.1f} GB",
                f"disk: {self.disk / 1e6:.0f} MB",
            ]
        )


def make_forecast(run: Run) -> Forecast:
    """Train a few steps, measure them, and compute what the whole training will take; nothing is written.

    The steps change the model, so the run cannot be trained afterwards.

    Args:
        run: has been started, which chose its precision.
    """
    walls = []
    cores = []
    wall = time.perf_counter()
    core = time.process_time()
    for _ in run.train(steps=WARM_UP + MEASURED):
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
        wall = time.perf_counter()
        core = time.process_time()
    parameters = sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad)
    every = run.options.sample_every
    early = FIRST_SAMPLES < min(every, run.config.steps)
    grids = 0 if run.task.sample is None else early + _times(every, run.config.steps)
    validations = 0 if run.task.validate is None else _times(run.options.validate_every, run.config.steps)
    weights_files = 2 if validations else 1  # the last ones, and the best
    return Forecast(
        parameters,
        run.config.steps,
        statistics.median(walls[WARM_UP:]),
        statistics.median(cores[WARM_UP:]),
        _seconds_of_sample(run) if grids else 0.0,
        grids,
        _seconds_of_validation(run) if validations else 0.0,
        validations,
        _memory(run.accelerator.device),
        BYTES * CHECKPOINT_COPIES * _numbers(run.model) + weights_files * BYTES // 2 * parameters + grids * GRIDS_KEPT,
    )


def _seconds_of_sample(run: Run) -> float:
    """Seconds on the clock that a grid of samples takes."""
    assert run.task.sample is not None
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run.task.sample(run.ema.module, Path(folder) / "samples.png")
        return time.perf_counter() - start


def _times(every: int, steps: int) -> int:
    """How often something happens every so many steps and at the end; 0 steps: never."""
    return -(-steps // every) if every else 0


def _seconds_of_validation(run: Run) -> float:
    """Seconds on the clock that a validation takes."""
    assert run.task.validate is not None
    start = time.perf_counter()
    run.task.validate(run.ema.module, run.model)
    return time.perf_counter() - start


def _numbers(model: nn.Module) -> int:
    """How many numbers the state of a model holds."""
    return sum(tensor.numel() for tensor in model.state_dict().values())


def _memory(device: torch.device) -> int:
    """The most bytes that were in use so far: on the GPU, else by this process."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
