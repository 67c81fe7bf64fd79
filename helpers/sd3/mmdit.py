"""The MM-DiT of Stable Diffusion 3 (Esser et al. 2024, section 4): where should this noisy latent move?

Two streams of tokens, text and picture, each with its own weights; they meet in one attention over both. Time and
the prompt's summary enter by scaling and shifting what the layers normalised. Alphabet: B batch, C latent
channels, H W of the latent, N = H W / patch^2 picture tokens, M text tokens, D width, P pooled width.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.embeddings import timestep_embedding


@dataclass(frozen=True)
class MMDiTConfig:
    """Sizes of the transformer; the defaults are Stable Diffusion 3 medium's."""

    latent_channels: int = 16
    patch: int = 2  # latent positions a side of one token
    width: int = 1536  # 64 times the number of layers, in every published size
    layers: int = 24
    heads: int = 24  # of 64 numbers each
    text_width: int = 4096  # of T5's states; CLIP's are filled up with zeros
    pooled_width: int = 2048  # 768 of CLIP-L and 1280 of CLIP-G
    table: int = 192  # tokens a side of the largest picture; smaller ones sit in its centre
    base: int = 64  # tokens a side of a 1024-pixel picture; the table, however large, spans as many units
    qk_norm: bool = False  # 3.5 normalises queries and keys, which keeps training in half precision stable
    dual_layers: int = 0  # 3.5 medium: so many first layers give the picture a second attention, over itself alone

    @classmethod
    def sd3_medium(cls) -> "MMDiTConfig":
        """Stable Diffusion 3 medium: 2,028,328,000 parameters."""
        return cls()

    @classmethod
    def sd3_5_medium(cls) -> "MMDiTConfig":
        """Stable Diffusion 3.5 medium: 2,243,171,520 parameters."""
        return cls(table=384, qk_norm=True, dual_layers=13)

    @classmethod
    def sd3_5_large(cls) -> "MMDiTConfig":
        """Stable Diffusion 3.5 large: 8,056,627,520 parameters."""
        return cls(width=2432, layers=38, heads=38, qk_norm=True)


@lru_cache(maxsize=8)  # a walk asks for the same one at every step
def positions(height: int, width: int, config: MMDiTConfig) -> Tensor:
    """Where each token is: fixed waves of its column, then of its row.

    The published files store a table for the largest picture; a smaller one takes the table's centre. Every entry
    follows from its coordinates, so only the entries needed are made here.

    Args:
        height, width: in tokens.

    Returns:
        float32 (height * width, D), row by row.

    Raises:
        ValueError: for a picture larger than the table.
    """
    if max(height, width) > config.table:
        raise ValueError(f"{width}x{height} tokens are more than the {config.table} a side that there are places for")
    frequencies = 10_000.0 ** -(torch.arange(config.width // 4, dtype=torch.float64) / (config.width // 4))

    def waves(count: int) -> Tensor:
        place = (torch.arange(count, dtype=torch.float64) + (config.table - count) // 2) * config.base / config.table
        angles = place[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()  # (count, D / 2)

    column = waves(width).expand(height, width, -1)
    row = waves(height)[:, None].expand(height, width, -1)
    return torch.cat([column, row], dim=2).flatten(0, 1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm whose shift and scale (B, 1, D) come from outside ("adaLN"; Peebles & Xie 2022, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2)) times a learned factor, over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class GELU(nn.Module):
    """GELU by tanh (Hendrycks & Gimpel 2016, section 2); overwrites x where no gradient will ask for it."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return F.gelu(x, approximate="tanh")
        return torch.ops.aten.gelu_(x, approximate="tanh")


class Heads(nn.Module):
    """A stream's queries, keys and values, and the way back out of attention."""

    def __init__(self, config: MMDiTConfig, out: bool = True):
        super().__init__()
        self.heads = config.heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.to_out = nn.Linear(config.width, config.width) if out else None
        norms = [RMSNorm(config.width // config.heads) for _ in range(2)] if config.qk_norm else [nn.Identity()] * 2
        self.norm_q, self.norm_k = norms

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> q, k, v, each (B, N, heads, D / heads)."""
        # one layer, as published; on a CPU its three products are faster one by one (86 and 75 ms at full width)
        asking = x if self.to_out is not None else x[:, :0]  # what nothing reads need not ask
        parts = zip((asking, x, x), self.to_qkv.weight.chunk(3), self.to_qkv.bias.chunk(3), strict=True)
        q, k, v = (F.linear(given, weight, bias).unflatten(-1, (self.heads, -1)) for given, weight, bias in parts)
        return self.norm_q(q), self.norm_k(k), v


class Stream(nn.Module):
    """One stream's share of a block: everything but the attention, which is common."""

    def __init__(self, config: MMDiTConfig, dual: bool = False, last: bool = False):
        """
        Args:
            dual: a second attention, over this stream alone.
            last: nothing of this stream is read after this block, so it has neither output nor MLP.
        """
        super().__init__()
        self.last = last
        self.modulation = nn.Linear(config.width, (2 if last else 9 if dual else 6) * config.width)
        self.attention = Heads(config, out=not last)
        self.dual = Heads(config) if dual else None
        if not last:
            self.mlp = nn.Sequential(
                nn.Linear(config.width, 4 * config.width), GELU(), nn.Linear(4 * config.width, config.width)
            )

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """(B, D) -> shift, scale, gate of attention, the same of the MLP, the same of the dual one: (B, 1, D) each."""
        return list(self.modulation(condition)[:, None].chunk(self.modulation.out_features // condition.shape[-1], -1))

    def finish(self, x: Tensor, mixed: Tensor, modulations: list[Tensor]) -> Tensor:
        """Add what attention brought, then think about every token for itself; gates decide how much of either."""
        gate, shift_mlp, scale_mlp, gate_mlp, *dual = modulations[2:]
        added = torch.addcmul(x, gate, self.attention.to_out(mixed))
        if self.dual is not None:
            shift, scale, gate = dual
            added = torch.addcmul(added, gate, self.dual.to_out(attend(self.dual.split(modulated(x, shift, scale)))))
        return torch.addcmul(added, gate_mlp, self.mlp(modulated(added, shift_mlp, scale_mlp)))


def attend(*streams: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention of all tokens of all streams over all of them: (B, N, heads, D / heads) each -> (B, sum of N, D)."""
    # heads first, then joined: a head's tokens lie together, which the fused kernel reads faster in bfloat16
    q, k, v = (torch.cat([part.transpose(1, 2) for part in parts], dim=2) for parts in zip(*streams, strict=True))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class JointBlock(nn.Module):
    """Both streams normalise for themselves, attend together, and go on for themselves."""

    def __init__(self, config: MMDiTConfig, dual: bool = False, last: bool = False):
        super().__init__()
        self.text = Stream(config, last=last)
        self.picture = Stream(config, dual)

    def forward(self, x: Tensor, text: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, D), text (B, M, D), condition (B, D) -> x and text."""
        of_text = self.text.modulations(condition)
        of_picture = self.picture.modulations(condition)
        mixed = attend(
            self.text.attention.split(modulated(text, *of_text[:2])),
            self.picture.attention.split(modulated(x, *of_picture[:2])),
        )
        mixed_text, mixed_picture = mixed.split([mixed.shape[1] - x.shape[1], x.shape[1]], dim=1)
        x = self.picture.finish(x, mixed_picture, of_picture)
        return x, text if self.text.last else self.text.finish(text, mixed_text, of_text)


class MMDiT(nn.Module):
    """Predicts the velocity, noise minus data, of a latent on the straight path between them."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(config.latent_channels, config.width, config.patch, stride=config.patch)
        self.words = nn.Linear(config.text_width, config.width)
        self.time, self.summary = (
            nn.Sequential(nn.Linear(width, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
            for width in (256, config.pooled_width)
        )
        self.blocks = nn.ModuleList(
            JointBlock(config, dual=i < config.dual_layers, last=i == config.layers - 1) for i in range(config.layers)
        )
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.head = nn.Linear(config.width, config.patch**2 * config.latent_channels)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor, skip_layers: Collection[int] = ()) -> Tensor:
        """One prediction.

        Args:
            x: (B, C, H, W) the noisy latent, H and W multiples of the patch.
            t: (B,) in [0, 1], the share of noise.
            text: (B, M, text_width) states of the prompt.
            pooled: (B, P) its summary.
            skip_layers: blocks to leave out, for skip-layer guidance.

        Returns:
            (B, C, H, W) the velocity.

        Raises:
            ValueError: for a latent that the patches do not cover, or too large a one.
        """
        patch = self.config.patch
        (H, W) = x.shape[2:]
        if H % patch or W % patch:
            raise ValueError(f"a latent of {H}x{W} is not covered by patches of {patch}x{patch}")
        place = positions(H // patch, W // patch, self.config).to(x)
        condition = self.time(timestep_embedding(1000 * t, 256).to(x.dtype)) + self.summary(pooled)  # (B, D)
        condition = F.silu(condition)
        x = self.patches(x).flatten(2).transpose(1, 2).contiguous() + place  # (B, N, D)
        text = self.words(text)  # (B, M, D)
        for i, block in enumerate(self.blocks):
            if i not in skip_layers:
                x, text = block(x, text, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        x = self.head(modulated(x, shift, scale))  # (B, N, patch^2 C)
        return F.pixel_shuffle(_channels_first(x, patch).transpose(1, 2).unflatten(2, (H // patch, W // patch)), patch)


def _channels_first(x: Tensor, patch: int) -> Tensor:
    """Tokens number their outputs row, column, channel; pixel_shuffle wants channel, row, column."""
    return x.unflatten(2, (patch**2, -1)).transpose(2, 3).flatten(2)
