"""The MM-DiT of Stable Diffusion 3 (Esser et al. 2024, section 4): predicts the velocity of a noisy latent.

Two streams of tokens, text and image, each with its own weights; they meet in one attention over both. Time and
the pooled text embedding enter by adaptive layer norm: they scale and shift what was normalised. Alphabet: B batch,
C latent channels, H W of the latent, N = H W / patch^2 image tokens, M text tokens, D width, P pooled width.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers import fast
from helpers.layers.embeddings import timestep_embedding


@dataclass(frozen=True)
class MMDiTConfig:
    """Sizes of the transformer; the defaults are Stable Diffusion 3 medium's."""

    latent_channels: int = 16
    patch: int = 2  # latent positions a side of one token
    width: int = 1536  # 64 times the number of layers, in every published size
    layers: int = 24
    heads: int = 24  # of 64 channels each
    text_width: int = 4096  # of T5's hidden states; CLIP's are padded with zeros
    pooled_width: int = 2048  # 768 of CLIP-L and 1280 of CLIP-G
    pos_embed_max_size: int = 192  # tokens a side of the largest image; smaller ones take the centre of its table
    pos_embed_base_size: int = 64  # tokens a side of a 1024-pixel image; the table, however large, spans as many units
    qk_norm: bool = False  # 3.5 normalises queries and keys, which keeps training in half precision stable
    dual_layers: int = 0  # 3.5 medium: so many first layers give the image a second attention, over itself alone

    @classmethod
    def sd3_medium(cls) -> "MMDiTConfig":
        """Stable Diffusion 3 medium: 2,028,328,000 parameters."""
        return cls()

    @classmethod
    def sd3_5_medium(cls) -> "MMDiTConfig":
        """Stable Diffusion 3.5 medium: 2,243,171,520 parameters."""
        return cls(pos_embed_max_size=384, qk_norm=True, dual_layers=13)

    @classmethod
    def sd3_5_large(cls) -> "MMDiTConfig":
        """Stable Diffusion 3.5 large: 8,056,627,520 parameters."""
        return cls(width=2432, layers=38, heads=38, qk_norm=True)


@lru_cache(maxsize=8)  # sampling needs the same one at every step
def positions(height: int, width: int, config: MMDiTConfig) -> Tensor:
    """Two-dimensional sinusoidal position embeddings: half of the channels encode the column, half the row.

    The published files store a table for the largest image; a smaller one takes the table's centre. Every entry
    follows from its coordinates, so only the entries needed are computed here.

    Args:
        height, width: in tokens.

    Returns:
        float32 (height * width, D), row by row.

    Raises:
        ValueError: for an image larger than the table.
    """
    if max(height, width) > config.pos_embed_max_size:
        largest = config.pos_embed_max_size
        raise ValueError(f"{width}x{height} tokens are more than the {largest} a side that there are positions for")
    frequencies = 10_000.0 ** -(torch.arange(config.width // 4, dtype=torch.float64) / (config.width // 4))

    def sinusoids(count: int) -> Tensor:
        index = torch.arange(count, dtype=torch.float64) + (config.pos_embed_max_size - count) // 2
        angles = (index * config.pos_embed_base_size / config.pos_embed_max_size)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1).float()  # (count, D / 2)

    column = sinusoids(width).expand(height, width, -1)
    row = sinusoids(height)[:, None].expand(height, width, -1)
    return torch.cat([column, row], dim=2).flatten(0, 1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm with shift and scale (B, 1, D) from the condition ("adaLN"; Peebles & Xie 2022, section 3.2)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2)) times a learned factor, over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class MLP(nn.Sequential):
    """Linear, GELU by tanh (Hendrycks & Gimpel 2016, section 2), linear."""

    def __init__(self, width: int):
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        first, activation, last = self
        if fast.may_overwrite(first, activation):
            return last(fast.gelu_tanh_(first(x)))
        return super().forward(x)


class QKVProjection(nn.Module):
    """A stream's queries, keys and values, and the projection after attention."""

    norm_q: nn.Module
    norm_k: nn.Module

    def __init__(self, config: MMDiTConfig, out: bool = True):
        """`out`: False leaves out the projection after attention, and with it the queries."""
        super().__init__()
        self.heads = config.heads
        self.to_qkv = nn.Linear(config.width, 3 * config.width)
        self.to_out = nn.Linear(config.width, config.width) if out else None
        head_width = config.width // config.heads
        self.norm_q = RMSNorm(head_width) if config.qk_norm else nn.Identity()
        self.norm_k = RMSNorm(head_width) if config.qk_norm else nn.Identity()

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> q, k, v, each (B, N, heads, D / heads); without `to_out` there are no queries (N = 0)."""
        q, k, v = fast.qkv_in_three_products(x, self.to_qkv, queries=self.to_out is not None)
        q = q.unflatten(-1, (self.heads, -1))
        k = k.unflatten(-1, (self.heads, -1))
        v = v.unflatten(-1, (self.heads, -1))
        return self.norm_q(q), self.norm_k(k), v

    def project(self, mixed: Tensor) -> Tensor:
        """(B, N, D), what attention mixed -> (B, N, D)."""
        assert self.to_out is not None
        return self.to_out(mixed)


class Stream(nn.Module):
    """One stream's half of a block: everything but the joint attention."""

    def __init__(self, config: MMDiTConfig, dual: bool = False, last: bool = False):
        """
        Args:
            dual: a second attention, over this stream alone.
            last: nothing of this stream is read after this block, so it has neither output projection nor MLP.
        """
        super().__init__()
        self.last = last
        self.modulation = nn.Linear(config.width, (2 if last else 9 if dual else 6) * config.width)
        self.attention = QKVProjection(config, out=not last)
        self.dual = QKVProjection(config) if dual else None
        if not last:
            self.mlp = MLP(config.width)

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """(B, D) -> shift, scale, gate of attention, the same of the MLP, the same of the dual one: (B, 1, D) each."""
        return list(self.modulation(condition)[:, None].chunk(self.modulation.out_features // condition.shape[-1], -1))

    def finish(self, x: Tensor, mixed: Tensor, modulations: list[Tensor]) -> Tensor:
        """Add the output of attention, then of the MLP, each scaled by its gate: (B, N, D)."""
        gate, shift_mlp, scale_mlp, gate_mlp, *dual = modulations[2:]
        h = torch.addcmul(x, gate, self.attention.project(mixed))
        if self.dual is not None:
            shift, scale, gate = dual
            mixed_within = attend(self.dual.split(modulate(x, shift, scale)))
            h = torch.addcmul(h, gate, self.dual.project(mixed_within))
        return torch.addcmul(h, gate_mlp, self.mlp(modulate(h, shift_mlp, scale_mlp)))


def attend(*streams: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention of all tokens of all streams over all of them: (B, N, heads, D / heads) each -> (B, sum of N, D)."""
    queries, keys, values = zip(*streams, strict=True)
    mixed = F.scaled_dot_product_attention(_concat_tokens(queries), _concat_tokens(keys), _concat_tokens(values))
    return mixed.transpose(1, 2).flatten(2)


def _concat_tokens(parts: Sequence[Tensor]) -> Tensor:
    """(B, N, heads, D / heads) each -> (B, heads, sum of N, D / heads).

    Transposed before they are concatenated: a head's tokens then lie together, which the fused kernel reads faster in
    bfloat16.
    """
    return torch.cat([part.transpose(1, 2) for part in parts], dim=2)


class JointBlock(nn.Module):
    """Each stream normalises with its own weights, both attend together, and each has its own MLP."""

    def __init__(self, config: MMDiTConfig, dual: bool = False, last: bool = False):
        super().__init__()
        self.text = Stream(config, last=last)
        self.image = Stream(config, dual)

    def forward(self, x: Tensor, text: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, N, D), text (B, M, D), condition (B, D) -> x and text."""
        text_modulations = self.text.modulations(condition)
        image_modulations = self.image.modulations(condition)
        mixed = attend(
            self.text.attention.split(modulate(text, *text_modulations[:2])),
            self.image.attention.split(modulate(x, *image_modulations[:2])),
        )
        mixed_text, mixed_image = mixed.split([mixed.shape[1] - x.shape[1], x.shape[1]], dim=1)
        x = self.image.finish(x, mixed_image, image_modulations)
        if not self.text.last:
            text = self.text.finish(text, mixed_text, text_modulations)
        return x, text


class MMDiT(nn.Module):
    """Predicts the velocity, noise minus data, of a latent on the straight path between them."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(config.latent_channels, config.width, config.patch, stride=config.patch)
        self.context_embedder = nn.Linear(config.text_width, config.width)
        self.time = _embedding_mlp(256, config.width)
        self.pooled_embedder = _embedding_mlp(config.pooled_width, config.width)
        self.blocks = nn.ModuleList(
            JointBlock(config, dual=i < config.dual_layers, last=i == config.layers - 1) for i in range(config.layers)
        )
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.head = nn.Linear(config.width, config.patch**2 * config.latent_channels)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor, skip_layers: Collection[int] = ()) -> Tensor:
        """Predict the velocity of a batch of latents.

        Args:
            x: (B, C, H, W) the noisy latent, H and W multiples of the patch.
            t: (B,) in [0, 1], the share of noise.
            text: (B, M, text_width) hidden states of the prompt.
            pooled: (B, P) its pooled embedding.
            skip_layers: blocks to leave out, for skip-layer guidance.

        Returns:
            (B, C, H, W) the velocity.

        Raises:
            ValueError: for a latent that the patches do not cover, or too large a one.
        """
        patch = self.config.patch
        H, W = x.shape[2:]
        if H % patch or W % patch:
            raise ValueError(f"a latent of {H}x{W} is not covered by patches of {patch}x{patch}")
        position_embedding = positions(H // patch, W // patch, self.config).to(x)
        condition = self.time(timestep_embedding(1000 * t, 256).to(x.dtype)) + self.pooled_embedder(pooled)  # (B, D)
        condition = F.silu(condition)
        x = self.patch_embed(x).flatten(2).transpose(1, 2).contiguous() + position_embedding  # (B, N, D)
        text = self.context_embedder(text)  # (B, M, D)
        for i, block in enumerate(self.blocks):
            if i not in skip_layers:
                x, text = block(x, text, condition)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        x = self.head(modulate(x, shift, scale))  # (B, N, patch^2 C)
        x = _channels_first(x, patch).transpose(1, 2).unflatten(2, (H // patch, W // patch))
        return F.pixel_shuffle(x, patch)


def _embedding_mlp(input_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(input_width, width), nn.SiLU(), nn.Linear(width, width))


def _channels_first(x: Tensor, patch: int) -> Tensor:
    """Reorder a token's outputs from (row, column, channel) to pixel_shuffle's (channel, row, column)."""
    return x.unflatten(2, (patch**2, -1)).transpose(2, 3).flatten(2)
