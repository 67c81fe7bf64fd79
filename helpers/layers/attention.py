"""Attention: every position asks, and mixes what the others answer.

`readable` is the formula, and can keep its map; `Attention` runs PyTorch's fused kernel on the same numbers.
Alphabet: B batch, H heads, N queries, M keys, D width of one head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def readable(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, eq. 1), with its map.

    Args:
        q: (B, H, N, D); k, v: (B, H, M, D).

    Returns:
        (B, H, N, D) mixed values, and the map (B, H, N, M) whose rows sum to 1.
    """
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
    return weights @ v, weights


class Attention(nn.Module):
    """Multi-head attention of x over itself, or over a context (cross-attention).

    q, k and v have no bias and the output has one, as in Stable Diffusion.
    """

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        """`context_width` None is self-attention.

        Raises:
            ValueError: if heads does not divide width.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}: heads must divide it")
        self.heads, self.cross = heads, context_width is not None
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context_width or width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, N, width), context (B, M, context_width) -> (B, N, width).

        Raises:
            ValueError: for cross-attention over a single token: a softmax over one number is 1, so the queries
                and keys would never learn (1.4 million dead parameters in this course's predecessor).
        """
        if self.cross and (context is None or context.shape[1] < 2):
            raise ValueError("cross-attention needs a context of at least 2 tokens: over one token the softmax is "
                             "always 1 and the queries and keys get no gradient; add such a vector to the time "
                             "embedding instead")  # fmt: skip
        source = context if self.cross else x
        q = self._split(self.to_q(x))                                        # (B, H, N, D)
        k, v = (self._split(part) for part in self.to_kv(source).chunk(2, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v)                      # (B, H, N, D)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The attention map alone, (B, H, N, M): for looking at."""
        source = context if self.cross else x
        k, v = (self._split(part) for part in self.to_kv(source).chunk(2, dim=-1))
        return readable(self._split(self.to_q(x)), k, v)[1]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def zero(module: nn.Module) -> nn.Module:
    """Start a block's last layer at zero, so that the block begins as the identity (DDPM; Zhang et al. 2019)."""
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module
