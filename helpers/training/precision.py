"""Whether a machine computes in bfloat16, and whether a training gains by it."""

import copy
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers.training.loop import step_generator

ROUNDS = 3  # of one step in each precision, alternating
GAIN = 1.1  # bf16 must be so many times faster: its rounding costs a little, and timings are noisy
SLOWER = 4  # emulation costs a hundred times and more; a busy neighbour doubles a time at most


@cache
def computes_bf16(kind: str = "cpu") -> bool:
    """Whether bfloat16 is worth asking for on "cpu" or "cuda"; on a processor measured, once, in milliseconds.

    Processors without instructions for it multiply such matrices one number at a time.
    """
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    seconds = {dtype: _product(torch.ones(256, 256, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < SLOWER * seconds[torch.float32] + 1e-4


def _product(matrix: torch.Tensor) -> float:
    """Seconds of one product, the best of five; the first brings the library up."""
    found = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        found.append(time.perf_counter() - start)
    return min(found[1:])


class StepSeconds(NamedTuple):
    """What one training step of a network takes in either precision, median seconds."""

    fp32: float
    bf16: float

    @property
    def faster(self) -> str:
        """The name of the precision to train in."""
        return "bf16" if self.bf16 * GAIN < self.fp32 else "fp32"

    def __str__(self) -> str:
        return f"a step takes {self.fp32:.3g} s in fp32 and {self.bf16:.3g} s in bf16"


class Precision(NamedTuple):
    """What a training computes in, and why."""

    name: str  # "fp32" or "bf16"
    reason: str

    @classmethod
    def kept(cls, description: dict) -> "Precision | None":
        """The one that a checkpoint's training was begun in; None in older checkpoints."""
        found = description.get("precision")
        return cls(*found) if isinstance(found, list) else None


def choose_precision(
    asked: str, model: nn.Module, loss_fn: Callable[[nn.Module, torch.Generator], tuple[Tensor, object]], seed: int = 0
) -> Precision:
    """What to train in: what was asked for if the machine computes in it, and for "auto" what is faster.

    Args:
        asked: "fp32", "bf16" or "auto".
        model, loss_fn, seed: as for `measure_step`.
    """
    device = next(model.parameters()).device.type
    if asked == "fp32":
        return Precision("fp32", "computing in fp32, as --precision says")
    if not computes_bf16(device):
        imitated = "computing in fp32: this processor only imitates bf16, far slower"
        return Precision("fp32", imitated)
    if asked == "bf16" or device == "cuda":
        return Precision("bf16", f"computing in bf16: --precision {asked} on {device}")
    measured = measure_step(model, loss_fn, seed)
    return Precision(measured.faster, f"computing in {measured.faster}: {measured}")


def measure_step(
    model: nn.Module, loss_fn: Callable[[nn.Module, torch.Generator], tuple[Tensor, object]], seed: int = 0
) -> StepSeconds:
    """Time forward and backward passes of this very training, in fp32 and bf16 in turn, on a copy of the model.

    Wide layers gain most by bf16: on processors with matrix instructions for it (AMX) a wide U-Net trains 2.5 to 3
    times faster, a narrow one no faster at all. So the network itself must be measured.

    Args:
        model: stays as it is; the copy and its gradients are thrown away.
        loss_fn: as for `helpers.training.train`.
        seed: of the batches that are used.
    """
    trial = copy.deepcopy(model).train()
    device = next(trial.parameters()).device.type
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with torch.random.fork_rng():
        for step in range(ROUNDS + 1):
            for bf16, times in seconds.items():
                start = time.perf_counter()
                with torch.autocast(device, torch.bfloat16, enabled=bf16):
                    losses, _ = loss_fn(trial, step_generator(seed, step))
                losses.float().mean().backward()
                times.append(time.perf_counter() - start)
                trial.zero_grad(set_to_none=True)
    return StepSeconds(*(statistics.median(times[1:]) for times in seconds.values()))  # the first round warms up
