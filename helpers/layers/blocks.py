"""The two blocks of the tiny diffusion U-Net: a residual block conditioned on time, a transformer block over pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.attention import Attention, zero_module


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with the most groups, up to 32, that leave at least 4 channels each."""
    groups = next(g for g in (32, 24, 16, 12, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)
    return nn.GroupNorm(groups, channels)


class AdaGNResidualBlock(nn.Module):
    """Residual block with adaptive group norm: the condition scales and shifts (FiLM; Dhariwal & Nichol 2021)."""

    def __init__(self, channels: int, out_channels: int, condition_width: int, dropout: float = 0.0):
        super().__init__()
        self.norm_1 = group_norm(channels)
        self.norm_2 = group_norm(out_channels)
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.scale_shift = nn.Linear(condition_width, 2 * out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = zero_module(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, H, W), condition (B, condition_width), already through a SiLU -> (B, C', H, W)."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.scale_shift(condition)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        return self.skip(x) + self.conv_2(self.dropout(F.silu(h)))


class TransformerBlock(nn.Module):
    """Self-attention over the pixels, cross-attention to the caption where there is one, and an MLP; each adds to x."""

    def __init__(self, channels: int, heads: int, context_width: int | None):
        super().__init__()
        self.norm_1 = nn.LayerNorm(channels)
        self.self_attention = Attention(channels, heads)
        self.cross_attention: Attention | None = None
        if context_width is not None:
            self.norm_2 = nn.LayerNorm(channels)
            self.cross_attention = Attention(channels, heads, context_width)
        self.norm_3 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), zero_module(nn.Linear(2 * channels, channels))
        )
        zero_module(self.self_attention.to_out)
        if self.cross_attention is not None:
            zero_module(self.cross_attention.to_out)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), context (B, M, context_width) -> (B, C, H, W)."""
        height = x.shape[2]
        h = x.flatten(2).transpose(1, 2)  # (B, N, C) with N = H W
        h = h + self.self_attention(self.norm_1(h))
        if self.cross_attention is not None:
            h = h + self.cross_attention(self.norm_2(h), context)
        h = h + self.mlp(self.norm_3(h))
        return h.transpose(1, 2).unflatten(2, (height, -1))
