"""An exponential moving average of the weights, which generates better samples (Song & Ermon 2020, section 3.4)."""

import copy

import torch
from torch import nn


class EMA:
    """A smoothed copy of a module: average = decay average + (1 - decay) weights, after every step.

    `torch.optim.swa_utils.AveragedModel` does the same with a fixed decay.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999):
        """Raises ValueError for a decay outside [0, 1)."""
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average lies in [0, 1), got {decay}")
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Include the weights after `step` (1, 2, ...).

        The decay ramps up as min(decay, (1 + step) / (10 + step)), so that the average forgets the random
        initial weights early on.
        """
        weight_of_new = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(parameter, weight_of_new)
        for average_buffer, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            average_buffer.copy_(buffer)
