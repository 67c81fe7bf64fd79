"""Attention: every query position takes a weighted mean of the values, weighted by how well its query fits the keys.

`attention_with_map` is the formula and returns its weights too; `Attention` is the layer, which runs PyTorch's fused
kernel on the same numbers. Alphabet: B batch, H heads, N queries, M keys, D width of one head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers import fast


def attention_with_map(
    q: Tensor, k: Tensor, v: Tensor, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(D)) v (Vaswani et al. 2017, eq. 1), and the softmax itself.

    Args:
        q: (B, H, N, D); k, v: (B, H, M, D).
        causal: position n attends to the positions up to n only (N = M).
        mask: bool, (B, 1, N, M) or broadcastable to it: True where attention is allowed.

    Returns:
        (B, H, N, D) the mixed values, and the attention map (B, H, N, M) whose rows sum to 1.
    """
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, H, N, M)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    attention_map = scores.softmax(dim=-1)
    return attention_map @ v, attention_map


class Attention(nn.Module):
    """Multi-head attention of x over itself, or over a context (cross-attention).

    By default q, k and v have no bias and the output has one, as in Stable Diffusion's U-Net.
    """

    def __init__(
        self, width: int, heads: int, context_width: int | None = None, *, bias: bool = False, causal: bool = False
    ):
        """
        Args:
            width: of x; heads share it evenly.
            context_width: None is self-attention.
            bias: give q, k and v one, as CLIP and the autoencoder do.
            causal: every token attends to itself and the tokens before it.

        Raises:
            ValueError: if heads does not divide width.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}: heads must divide it")
        self.heads = heads
        self.cross = context_width is not None
        self.causal = causal
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_kv = nn.Linear(context_width or width, 2 * width, bias=bias)
        self.to_out = nn.Linear(width, width)
        self.attention_map: Tensor | None = None  # (B, H, N, M) of the last call inside `record_attention_maps`
        self.record_map = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, N, width), context (B, M, context_width) -> (B, N, width).

        Raises:
            ValueError: for cross-attention over a single token: a softmax over one number is 1, so the queries
                and keys would never learn.
        """
        if self.cross and (context is None or context.shape[1] < 2):
            raise ValueError(
                "cross-attention needs a context of at least 2 tokens: over one token the softmax is "
                "always 1 and the queries and keys get no gradient; add such a vector to the time "
                "embedding instead"
            )
        q, k, v = self._project(x, context)  # (B, H, N or M, D)
        if self.record_map or fast.prefer_plain_attention(q):
            mixed, attention_map = attention_with_map(q, k, v, self.causal)
            self.attention_map = attention_map if self.record_map else None
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def compute_attention_map(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The attention map alone, (B, H, N, M), of inputs as for `forward`."""
        q, k, v = self._project(x, context)
        _, attention_map = attention_with_map(q, k, v, self.causal)
        return attention_map

    def _project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        k, v = self.to_kv(context if self.cross else x).chunk(2, dim=-1)
        return self._split_heads(self.to_q(x)), self._split_heads(k), self._split_heads(v)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, H D) -> (B, H, N, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@contextmanager
def record_attention_maps(module: nn.Module, *, cross_only: bool = True) -> Iterator[dict[str, Any]]:
    """Inside the block every attention of the module uses the plain formula and keeps its map in `.attention_map`.

    with record_attention_maps(unet) as layers:
        unet(x, t, text)
        maps = {name: layer.attention_map for name, layer in layers.items()}

    Args:
        module: with layers of `Attention`, or others with `record_map`, `attention_map` and `cross`.
        cross_only: leave self-attention out.
    """
    layers: dict[str, Any] = {}
    for name, layer in module.named_modules():
        if hasattr(layer, "record_map") and (layer.cross or not cross_only):
            layers[name] = layer
    for layer in layers.values():
        layer.record_map = True
    try:
        yield layers
    finally:
        for layer in layers.values():
            layer.record_map = False
            layer.attention_map = None


def zero_module(module: nn.Module) -> nn.Module:
    """Set all parameters to zero and return the module.

    A block whose last layer starts at zero begins as the identity (DDPM; Zhang et al. 2019).
    """
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module
