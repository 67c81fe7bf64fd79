"""One training process or several: what a loop needs from `accelerate.Accelerator`, and what stands in for it.

A training command may run under `accelerate launch`, which starts several processes. A notebook has one, and needs
no accelerate. The loop calls the same three methods in both cases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

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


def process_share(accelerator: Accelerator | SingleProcess, batch: Tensor) -> Tensor:
    """Return the rows of a batch that this process computes: every n-th row where there are n processes.

    Every process samples the whole batch from the same generator and keeps its share, so the batch does not depend
    on the number of processes.

    Args:
        batch: (B, ...), B a multiple of the number of processes.
    """
    return batch[accelerator.process_index :: accelerator.num_processes]
