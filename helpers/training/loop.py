"""The training loop of the course: a generator that yields its state after every step.

A notebook plots, stops or saves between two steps; nothing needs a callback. All randomness of step k, in which
examples it sees, their noise and the dropout, is drawn from (seed, k): stopping and resuming, or spreading
a batch over several processes, does not change a number.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from helpers.training.ema import EMA
from helpers.training.optimizers import OPTIMIZERS, make_optimizer

SCHEDULES = ("cosine", "inverse-sqrt")  # of the learning rate


@dataclass(frozen=True)
class TrainConfig:
    """How to walk; the defaults suit the course's tiny networks."""

    steps: int = 1000  # updates in all; the cosine schedule ends here
    learning_rate: float = 1e-3  # at the top of the cosine
    warmup: int = 200  # steps of linear growth before it: Adam's first estimates are poor
    betas: tuple[float, float] = (0.9, 0.99)  # a shorter memory than Adam's 0.999: losses change fast early on
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0  # largest norm of the gradient: one bad batch must not undo an hour
    ema_decay: float = 0.999  # of the average that samples are made with
    seed: int = 0
    schedule: str = "cosine"  # to zero at `steps`; or "inverse-sqrt", which does not depend on `steps`
    decay_from: int = 2000  # of "inverse-sqrt": the learning rate is constant up to this step
    optimizer_name: str = "adamw"  # or "muon": see helpers.training.optimizers

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        if self.optimizer_name not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer_name!r}: choose one of {', '.join(OPTIMIZERS)}")
        if self.steps < 1 or self.warmup < 0 or self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise ValueError(f"steps, learning_rate and clip must be positive and warmup not negative, got {self}")

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
    """What is known after a step."""

    step: int  # 1, 2, ...: how many updates have been made
    loss: float  # mean over the global batch
    learning_rate: float  # learning rate of this step
    details: Any  # whatever the loss function returned beside the losses


def step_generator(seed: int, step: int) -> torch.Generator:
    """The CPU random generator of one step; steps and seeds are mixed so that neighbours have nothing in common."""
    return torch.Generator().manual_seed(_mixed(seed, step))


def _mixed(seed: int, step: int) -> int:
    """splitmix64 of (seed, step): neighbouring seeds of PyTorch's generator would start alike."""
    z = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (z ^ (z >> 31)) & (2**63 - 1)


def _seed_dropout(seed: int, on_gpu: bool) -> None:
    """What `torch.manual_seed` does, without the millisecond for which that one notes where it was called from."""
    torch.default_generator.manual_seed(seed)
    if on_gpu:
        torch.cuda.manual_seed(seed)


def train(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, torch.Generator], tuple[Tensor, Any]],
    config: TrainConfig,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    ema: EMA | None = None,
    accelerator: Any = None,
    first_step: int = 0,
    bf16: bool = False,
) -> Iterator[TrainState]:
    """Train, and yield after every step.

    Args:
        model: in train mode during every step, whatever a caller does to it in between.
        losses: given the model and the step's random generator, returns this process's losses (B,) and any details.
            Under several processes each draws the whole batch's randomness and computes its own share of it.
        config: how long and how fast.
        optimizer: made from `config` where absent; given when resuming.
        ema: an average that follows; None: there is none.
        accelerator: an `accelerate.Accelerator`, which brings several processes; None: there is one.
        first_step: how many steps were made before.
        bf16: compute losses, and Muon's matrix products, under autocast to bfloat16; weights, gradients and the
            optimiser's state stay float32.

    Raises:
        FloatingPointError: when loss or gradient is not finite; it names the step, and nothing was updated by it.
    """
    optimizer = optimizer or config.optimizer(model)
    wrapped = model
    if accelerator is not None:
        wrapped, optimizer = accelerator.prepare(model, optimizer)
    kind = next(model.parameters()).device.type
    devices = [torch.cuda.current_device()] if kind == "cuda" else []
    for step in range(first_step, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        model.train()  # sampling in between may have called eval()
        with torch.random.fork_rng(devices):  # dropout: from (seed, step) too
            _seed_dropout(_mixed(config.seed + 1, step), on_gpu=bool(devices))
            with torch.autocast(kind, torch.bfloat16, enabled=bf16):
                values, details = loss_fn(wrapped, step_generator(config.seed, step))
            loss = values.float().mean()
            accelerator.backward(loss) if accelerator else loss.backward()
        mean = accelerator.reduce(loss.detach(), "mean") if accelerator else loss.detach()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        mean, norm = torch.stack([mean, norm.to(mean)]).tolist()
        if not math.isfinite(mean + norm):  # one infinite gradient would make NaN of every weight
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"at step {step + 1} the loss is {mean} and its gradient {norm}: nothing was updated by it"
            )
        if norm > config.max_grad_norm:
            nn.utils.clip_grads_with_norm_(model.parameters(), config.max_grad_norm, torch.tensor(norm))
        with torch.autocast(kind, torch.bfloat16, enabled=bf16):  # Muon multiplies matrices; AdamW is not affected
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if ema is not None:
            ema.update(model, step + 1)
        yield TrainState(step + 1, mean, config.learning_rate_at(step), details)
