"""The training loop of the course: a generator that yields its state after every step.

A notebook plots, stops or saves between two steps; nothing needs a callback. All randomness of step k, which is
the choice of examples, their noise and the dropout, is a function of (seed, k): neither stopping and resuming nor
distributing a batch over several processes changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from helpers.training.ema import EMA
from helpers.training.loss_scaling import LossScale
from helpers.training.optimizers import OPTIMIZERS, make_optimizer
from helpers.training.processes import Accumulation, SingleProcess

if TYPE_CHECKING:
    from accelerate import Accelerator

LossFunction = Callable[[nn.Module, torch.Generator], tuple[Tensor, Any]]
SCHEDULES = ("cosine", "inverse-sqrt")  # of the learning rate


@dataclass(frozen=True)
class TrainConfig:
    """Optimiser, learning rate and length of a training; the defaults suit the course's tiny networks."""

    steps: int = 1000  # updates in total; the cosine schedule ends here
    learning_rate: float = 1e-3  # at the top of the cosine
    warmup: int = 200  # steps of linear growth before it: Adam's first estimates are poor
    betas: tuple[float, float] = (0.9, 0.99)  # a shorter memory than Adam's 0.999: losses change fast early on
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0  # largest norm of the gradient: one bad batch must not undo an hour
    ema_decay: float = 0.999  # of the averaged weights, which generate the samples
    seed: int = 0
    schedule: str = "cosine"  # to zero at `steps`; or "inverse-sqrt", which does not depend on `steps`
    decay_from: int = 2000  # of "inverse-sqrt": the learning rate is constant up to this step
    optimizer_name: str = "adamw"  # or "muon": see helpers.training.optimizers

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        if self.optimizer_name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer_name!r}: choose one of {', '.join(OPTIMIZERS)}")
        if self.steps < 1 or self.warmup < 0 or not self.learning_rate > 0 or not self.max_grad_norm > 0:
            raise ValueError(
                f"steps, learning_rate and max_grad_norm must be positive and warmup not negative, got {self}"
            )

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: linear warm-up, then one of two schedules.

        "cosine": half a cosine to zero at the last step (Loshchilov & Hutter 2017).
        "inverse-sqrt": constant up to step `decay_from`, then proportional to 1 / sqrt(step) (EDM2,
        Karras et al. 2024). It needs no last step, so a training can be prolonged.
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.schedule == "inverse-sqrt":
            return self.learning_rate / math.sqrt(max(1.0, step / self.decay_from))
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW or Muon, without weight decay on biases, norms and embeddings of one dimension."""
        return make_optimizer(self.optimizer_name, model, self.learning_rate, self.betas, self.weight_decay)


class TrainState(NamedTuple):
    """The state of a training after a step."""

    step: int  # 1, 2, ...: the number of updates so far
    loss: float  # mean over the global batch
    learning_rate: float  # of this step
    details: Any  # whatever the loss function returned beside the losses
    gradient_norm: float = 0.0  # before it was limited; 0 where the update was skipped, see LossScale


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU random generator of one step; steps and seeds are mixed so that neighbours have nothing in common."""
    return torch.Generator().manual_seed(_mixed(seed, step))


def _mixed(seed: int, step: int) -> int:
    """Hash (seed, step) by splitmix64: neighbouring seeds of PyTorch's generator would start with similar numbers."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) & (2**63 - 1)


@contextmanager
def _dropout_seeded(seed: int, step: int, device_type: str) -> Iterator[None]:
    """Seed PyTorch's own generators, which dropout uses, from (seed, step); restore them afterwards."""
    accelerator: Any = None if device_type == "cpu" else torch.get_device_module(device_type)
    state = None if accelerator is None else accelerator.get_rng_state()
    with torch.random.fork_rng([]):
        number = _mixed(seed + 1, step)
        # what torch.manual_seed does, without the millisecond for which it records where it was called
        torch.default_generator.manual_seed(number)
        try:
            if accelerator is not None:
                accelerator.manual_seed(number)
            yield
        finally:
            if accelerator is not None:
                accelerator.set_rng_state(state)


def _players(model: nn.Module, adversary: nn.Module | None) -> list[list[nn.Parameter]]:
    """The model's parameters without the adversary's, and the adversary's, if there is one."""
    if adversary is None:
        return [list(model.parameters())]
    theirs = list(adversary.parameters())
    ids = {id(parameter) for parameter in theirs}
    return [[parameter for parameter in model.parameters() if id(parameter) not in ids], theirs]


def _gradient_norm(parameters: list[nn.Parameter], device: torch.device) -> Tensor:
    """The L2 norm of all gradients of these parameters together; 0 if there is none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=device)


def _autocast(device_type: str, bf16: bool, loss_scale: LossScale | None) -> torch.autocast:
    """To float16 where there is a loss scale, else to bfloat16 where that is asked for."""
    dtype = torch.bfloat16 if loss_scale is None else torch.float16
    return torch.autocast(device_type, dtype, enabled=bf16 or loss_scale is not None)


def train(
    model: nn.Module,
    loss_fn: LossFunction,
    config: TrainConfig,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    ema: EMA | None = None,
    accelerator: Accelerator | SingleProcess | None = None,
    adversary: nn.Module | None = None,
    accumulation: Accumulation | None = None,
    first_step: int = 0,
    bf16: bool = False,
    loss_scale: LossScale | None = None,
) -> Iterator[TrainState]:
    """Train, and yield after every step.

    Args:
        model: in train mode during every step, whatever a caller does to it in between.
        loss_fn: takes the model and the step's random generator, returns this process's losses (B,) and any details.
            Under several processes each samples the whole batch and computes its share of it (`process_share`).
        config: length of the training, learning rate, optimiser.
        optimizer: built from `config` if absent; pass the restored one when resuming.
        ema: an average of the weights, updated after every step; None: there is none.
        accelerator: an `accelerate.Accelerator`, which brings several processes; None: there is one.
        adversary: a part of the model that is trained against the rest, a discriminator. The norm of its gradient is
            limited on its own, so that the training is that of two optimisers: AdamW and Muon treat every parameter
            for itself, and nothing else is shared.
        accumulation: the loss function computes the parts of a batch one after another; None: all at once.
        first_step: the number of updates so far, when resuming.
        bf16: compute losses, and Muon's matrix products, under autocast to bfloat16; weights, gradients and the
            optimiser's state stay float32.
        loss_scale: compute them under autocast to float16 instead, and scale the loss.

    Raises:
        FloatingPointError: when loss or gradient is not finite; it names the step, and nothing was updated by it. With
            a loss scale a gradient may overflow now and then.
    """
    processes = accelerator or SingleProcess()
    parts = accumulation or Accumulation(processes)
    wrapped, optimizer = processes.prepare(model, optimizer or config.optimizer(model))
    device = next(model.parameters()).device
    device_type = device.type
    players = _players(model, adversary)
    for step in range(first_step, config.steps):
        learning_rate = config.learning_rate_at(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        model.train()  # sampling in between may have called eval()
        with _dropout_seeded(config.seed, step, device_type):
            batch_loss = torch.zeros((), device=device)
            for _ in parts:
                with _autocast(device_type, bf16, loss_scale):
                    losses, details = loss_fn(wrapped, step_generator(config.seed, step))
                loss = losses.float().mean() / parts.parts
                processes.backward(loss if loss_scale is None else loss * loss_scale.value)
                batch_loss += loss.detach()
        if loss_scale is not None:
            loss_scale.unscale(model.parameters())
        mean_loss = processes.reduce(batch_loss, "mean")
        norms = [_gradient_norm(parameters, device).to(mean_loss) for parameters in players]
        loss_value, *norm_values = torch.stack([mean_loss, *norms]).tolist()  # a GPU is waited for once
        if not math.isfinite(loss_value + sum(norm_values)):  # one infinite gradient would make NaN of every weight
            optimizer.zero_grad(set_to_none=True)
            if loss_scale is not None and math.isfinite(loss_value):
                loss_scale.skipped(step + 1)
                yield TrainState(step + 1, loss_value, learning_rate, details)
                continue
            listed = " and ".join(map(str, norm_values))
            raise FloatingPointError(
                f"at step {step + 1} the loss is {loss_value} and its gradient {listed}: nothing was updated by it"
            )
        for parameters, norm in zip(players, norm_values, strict=True):
            if norm > config.max_grad_norm:
                nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, torch.tensor(norm))
        if loss_scale is not None:
            loss_scale.updated()
        with _autocast(device_type, bf16, loss_scale):  # for Muon's matrix products; AdamW has none
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update(model, step + 1)
        yield TrainState(step + 1, loss_value, learning_rate, details, math.hypot(*norm_values))
