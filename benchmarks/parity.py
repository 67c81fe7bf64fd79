"""Comparing an implementation with its reference: random weights that show every mistake, and one figure."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def randomised(module: Module) -> Module:
    """Replace norms and biases by random values, in place: untouched, they would hide one that is swapped.

    Returns:
        The module in evaluation mode.
    """
    generator = torch.Generator().manual_seed(7)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.data = noise + (1.0 if name.endswith("weight") else 0.0)
    return module.eval()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference of two tensors, over the largest absolute value of `theirs`."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
