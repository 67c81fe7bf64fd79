"""How much memory does a training step need? Counted tensor by tensor, also for a model that has only shapes.

On the "meta" device nothing is computed and nothing allocated, so a laptop can tell whether a network for 512 pixels
fits a GPU. There attention counts its whole matrix, which fused kernels never store: the result is an upper bound.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

GIB = 2**30


class Memory(NamedTuple):
    """The memory of a training step, bytes of each part."""

    weights: int
    gradients: int
    optimizer: int  # AdamW: two numbers for each weight
    average: int  # the exponential moving average
    activations: int  # kept from the forward pass for the backward pass

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        return f"{self.total / GIB:.2f} GiB"


def training_memory(model: nn.Module, forward: Callable[[], Tensor]) -> Memory:
    """Count the memory that a step of AdamW with an average of the weights needs, without temporary buffers.

    Args:
        model: on any device.
        forward: computes the loss or the output, under autocast where the training is.
    """
    parameters = {p.untyped_storage()._cdata: p for p in model.parameters()}
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address could be reused, and two tensors counted as a single one

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters and storage._cdata not in kept:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return Memory(weights, weights, 2 * weights, weights, sum(kept.values()))
