"""Does this machine compute in bfloat16, and is a training faster in it?"""

import copy
import time
from functools import cache
from typing import NamedTuple

import torch
from torch import nn

from helpers.devices import has_bf16
from helpers.training.loop import LossFunction, step_generator

ROUNDS = 3  # of one step in each precision, alternating
GAIN = 1.1  # bf16 must be faster by this factor: its rounding costs a little accuracy, and timings are noisy
SHORTEST_STEP = 0.1  # seconds in fp32: a training of shorter steps has little to gain, and must give the same numbers
# on every run, which a choice by the clock cannot promise
SLOWER = 4  # emulation costs a hundred times and more; a busy neighbour doubles a time at most


@cache
def computes_bf16(device_type: str = "cpu") -> bool:
    """Return whether a kind of device has instructions for bfloat16; on a CPU measured, once, in milliseconds.

    Processors without instructions for it multiply such matrices one number at a time.
    """
    if device_type != "cpu":
        return has_bf16(device_type)
    seconds = {dtype: _product(torch.ones(256, 256, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}
    return seconds[torch.bfloat16] < SLOWER * seconds[torch.float32] + 1e-4


def _product(matrix: torch.Tensor) -> float:
    """Seconds of one matrix product: the fastest of four, after a first one that loads the library."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


class StepSeconds(NamedTuple):
    """The shortest seconds of one training step of a network in each precision."""

    fp32: float
    bf16: float

    @property
    def faster(self) -> str:
        """The name of the precision to train in."""
        return "bf16" if self.fp32 > SHORTEST_STEP and self.bf16 * GAIN < self.fp32 else "fp32"

    def __str__(self) -> str:
        text = f"a step takes {self.fp32:.3g} s in fp32 and {self.bf16:.3g} s in bf16"
        return text if self.fp32 > SHORTEST_STEP else f"{text}, too short for a gain that counts"


class Precision(NamedTuple):
    """The precision that a training computes in, and why."""

    name: str  # "fp32" or "bf16"
    reason: str

    @classmethod
    def stored(cls, description: dict) -> "Precision | None":
        """The precision in a checkpoint's description; None in older checkpoints."""
        stored = description.get("precision")
        return cls(*stored) if isinstance(stored, list) else None


def choose_precision(requested: str, model: nn.Module, loss_fn: LossFunction, seed: int = 0) -> Precision:
    """Choose the precision of a training: the requested one if the machine has it, and for "auto" the faster one.

    Args:
        requested: "fp32", "bf16", "fp16" or "auto".
        model, loss_fn, seed: as for `measure_step`.
    """
    device = next(model.parameters()).device.type
    if requested in ("fp32", "fp16"):
        return Precision(requested, f"computing in {requested}, as --precision says")
    if not computes_bf16(device):
        reason = "this processor only imitates bf16, far slower"
        if device != "cpu":
            reason = f"bf16 is not for this GPU ({device}); --precision fp16 is faster, with scaled losses"
        return Precision("fp32", f"computing in fp32: {reason}")
    if requested == "bf16" or device != "cpu":
        return Precision("bf16", f"computing in bf16: --precision {requested} on {device}")
    measured = measure_step(model, loss_fn, seed)
    return Precision(measured.faster, f"computing in {measured.faster}: {measured}")


def measure_step(model: nn.Module, loss_fn: LossFunction, seed: int = 0) -> StepSeconds:
    """Time forward and backward passes of this training, alternately in fp32 and bf16, on a copy of the model.

    Wide layers gain most from bf16: on processors with matrix instructions for it (AMX) a wide U-Net trains 2.5 to 3
    times faster, a narrow one no faster at all. So the network itself must be measured. Of its rounds the shortest
    counts: a busy neighbour only ever adds time.

    Args:
        model: is not changed; the copy and its gradients are discarded.
        loss_fn: as for `helpers.training.train`.
        seed: of the batches.
    """
    trial = copy.deepcopy(model).train()
    device = next(trial.parameters()).device.type
    seconds: dict[bool, list[float]] = {False: [], True: []}  # by whether bf16
    with torch.random.fork_rng():
        for step in range(ROUNDS + 1):
            for bf16, times in seconds.items():
                start = time.perf_counter()
                with torch.autocast(device, torch.bfloat16, enabled=bf16):
                    losses, _ = loss_fn(trial, step_generator(seed, step))
                losses.float().mean().backward()
                times.append(time.perf_counter() - start)
                trial.zero_grad(set_to_none=True)
    return StepSeconds(min(seconds[False][1:]), min(seconds[True][1:]))  # the first round warms up
