"""One training process or several: what a loop needs from `accelerate.Accelerator`, and what stands in for it.

A training command may run under `accelerate launch`, which starts several processes. A notebook has one, and needs
no accelerate. The loop calls the same three methods in both cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import Accelerator

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


class SingleProcess:
    """The part of `accelerate.Accelerator` that the training loop uses, for one process: nothing is distributed."""

    num_processes = 1
    process_index = 0

    def prepare(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Return both as they are; several processes would wrap them."""
        return model, optimizer

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        loss.backward()

    def reduce(self, tensor: Tensor, reduction: str = "mean") -> Tensor:
        """Return the tensor: the mean and the sum over one process."""
        return tensor


class Accumulation:
    """An accelerator that lets every process compute its share of a batch in parts, one after another.

    The gradients of the parts are added up before an update, so that a large batch fits a small GPU (gradient
    accumulation). To `process_share` the parts are so many more processes; all else is the accelerator's.
    """

    def __init__(self, accelerator: Accelerator | SingleProcess, parts: int = 1):
        self.accelerator = accelerator
        self.parts = parts
        self.part = 0  # that is computed now

    @property
    def num_processes(self) -> int:
        """The shares that a batch is divided into."""
        return self.accelerator.num_processes * self.parts

    @property
    def process_index(self) -> int:
        """The share that is computed now."""
        return self.accelerator.process_index * self.parts + self.part

    def __iter__(self) -> Iterator[int]:
        """Go through the parts; `process_share` returns the rows of the current one."""
        for part in range(self.parts):
            self.part = part
            yield part
        self.part = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.accelerator, name)


def process_share(accelerator: Accelerator | SingleProcess | Accumulation, batch: Tensor) -> Tensor:
    """Return the rows of a batch that this process computes: every n-th row where there are n processes.

    Every process samples the whole batch from the same generator and keeps its share, so the batch does not depend
    on the number of processes.

    Args:
        batch: (B, ...), B a multiple of the number of processes.
    """
    return batch[accelerator.process_index :: accelerator.num_processes]
