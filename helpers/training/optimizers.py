"""Muon, an optimiser for weight matrices, together with AdamW for all other parameters.

AdamW scales every weight's step on its own. Muon treats a layer's weights as one matrix: it replaces the momentum of
the gradient by the nearest matrix whose singular values are all 1, so that directions with small gradients are learned
as fast as those with large ones (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "muon")
OUTER = ("stem", "head")  # names of first and last layers in the course's networks: Jordan et al. keep AdamW there
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # of a quintic that takes singular values near 1 in few steps (ibid.)
NEWTON_SCHULZ_STEPS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """Replace the singular values of a matrix by values between 0.5 and 1.5: approximately U V^T, where it is U S V^T.

    Args:
        matrix: (m, n).
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)  # singular values of at most 1, as the iteration needs
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.T


def orthogonalized_by_gram(matrix: Tensor) -> Tensor:
    """`orthogonalized` by iterating on the small Gram matrix x x^T: two products of the whole matrix instead of ten.

    Squaring halves the precision of small singular values, so this is for float32 only; bfloat16 diverges.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    gram = x @ x.T
    identity = torch.eye(len(x)).to(x)
    factor = identity
    for _ in range(NEWTON_SCHULZ_STEPS):  # the next x is step @ x, and its Gram matrix step @ gram @ step
        step = a * identity + b * gram + c * (gram @ gram)
        factor = step @ factor
        gram = step @ gram @ step
    x = factor @ x
    return x if wide else x.T


def muon_update(gradient: Tensor, state: dict[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    """Compute the direction of Muon's step, to be multiplied by the learning rate, and update `state`.

    A convolution's (C', C, 3, 3) is the matrix (C', 9 C). The factor 0.2 sqrt(max(m, n)) makes the step's root mean
    square that of AdamW's usual steps, so that both take the same learning rate (Liu et al. 2025, arXiv 2502.16982).
    """
    momentum = state.setdefault("momentum", torch.zeros_like(gradient))
    momentum.lerp_(gradient, 1 - group["momentum"])
    direction = gradient.lerp(momentum, group["momentum"])  # Nesterov's look ahead
    matrix = direction.flatten(1)
    half = torch.is_autocast_enabled(matrix.device.type)
    update = orthogonalized(matrix) if half else orthogonalized_by_gram(matrix)
    return update.view(gradient.shape) * (0.2 * max(update.shape) ** 0.5)


def adamw_update(gradient: Tensor, state: dict[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    """Compute the direction of AdamW's step (Loshchilov & Hutter 2019), without weight decay, and update `state`."""
    beta_1, beta_2 = group["betas"]
    step = state.setdefault("step", torch.zeros(()))
    mean = state.setdefault("exp_avg", torch.zeros_like(gradient))
    square = state.setdefault("exp_avg_sq", torch.zeros_like(gradient))
    step += 1
    mean.lerp_(gradient, 1 - beta_1)
    square.mul_(beta_2).addcmul_(gradient, gradient, value=1 - beta_2)
    root = (square / (1 - beta_2 ** step.item())).sqrt()
    return mean / (1 - beta_1 ** step.item()) / (root + 1e-8)


class Muon(torch.optim.Optimizer):
    """Muon for the groups of parameters with "muon": True, AdamW for the others; one learning rate for both.

    torch.optim.Muon takes matrices alone and needs a second optimiser beside it for everything else.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.99), momentum: float = 0.95
    ):
        defaults = {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": 0.0, "muon": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch's stub also returns a closure's loss
        """Update all parameters that have a gradient; `closure` is not supported."""
        for group in self.param_groups:
            update = muon_update if group["muon"] else adamw_update
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                direction = update(weight.grad, self.state[weight], group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(direction.to(weight), alpha=-group["lr"])


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is meant for: of linear and convolutional layers, without the first and last layers."""
    chosen = set()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.rpartition(".")[2] not in OUTER:
            chosen.add(id(layer.weight))
    return [weight for weight in model.parameters() if id(weight) in chosen]


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """Build the optimiser "adamw" or "muon", without weight decay on parameters of one dimension (biases, norms)."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    hidden = hidden_weights(model)
    ids = {id(weight) for weight in hidden}
    groups[0]["params"] = [weight for weight in matrices if id(weight) not in ids]
    groups.append({"params": hidden, "weight_decay": weight_decay, "muon": True})
    return Muon([group for group in groups if group["params"]], learning_rate, betas)
