"""An exponential moving average of the weights: what samples are made with (Song & Ermon 2020, section 3.4)."""

import copy

import torch
from torch import nn


class EMA:
    """A smoothed copy of a module: average = decay average + (1 - decay) weights, after every step."""

    def __init__(self, module: nn.Module, decay: float = 0.999):
        """Raises ValueError for a decay outside [0, 1)."""
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of an average lies in [0, 1), got {decay}")
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after `step` (1, 2, ...); early on the average is short, and forgets the random start.

        The decay ramps up as min(decay, (1 + step) / (10 + step)).
        """
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(weight, share)
        for average, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            average.copy_(buffer)
