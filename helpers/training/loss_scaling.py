"""Loss scaling, without which a training in float16 loses its small gradients (Micikevicius et al. 2018, 3.2)."""

from collections.abc import Iterable

import torch
from torch import nn

LARGEST = 2.0**16  # to begin with; it halves until the gradients fit
PATIENCE = 2000  # steps without an overflow before it doubles


class LossScale:
    """The factor that the loss is multiplied by, and its gradients are divided by again.

    float16 rounds numbers below 6e-8 to 0, and many gradients are smaller. A loss that is 65,536 times larger has
    gradients that are 65,536 times larger. If they overflow, the update is skipped and the factor halved; after 2,000
    steps without an overflow it doubles.
    """

    def __init__(self, value: float = LARGEST, steps: int = 0):
        """
        Args:
            value: the factor.
            steps: without an overflow so far.
        """
        self.value = value
        self.steps = steps

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide all gradients by the factor."""
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(1 / self.value)

    def updated(self) -> None:
        """Note a step whose gradients were finite."""
        self.steps += 1
        if self.steps == PATIENCE:
            self.value *= 2
            self.steps = 0

    def skipped(self, step: int) -> None:
        """Note a step whose gradients overflowed.

        Raises:
            FloatingPointError: where they would overflow without any factor too.
        """
        if self.value <= 1:
            raise FloatingPointError(
                f"at step {step} the gradients overflow float16 without any loss scaling: train in fp32 or bf16"
            )
        self.value /= 2
        self.steps = 0
