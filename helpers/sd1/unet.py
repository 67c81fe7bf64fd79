"""The U-Net of Stable Diffusion 1: predicts the noise in a latent from the latent, its timestep and the text.

Down through four resolutions and up again, with skip connections from every block of the way down. The timestep
embedding enters through the residual blocks, the text through the transformer blocks. Alphabet: B batch, C channels,
H W of a feature map, N = H W, D width of a position, M text tokens.
"""

from dataclasses import dataclass
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers import fast
from helpers.layers.attention import Attention
from helpers.layers.convolutional import Downsample, ResnetBlock, Upsample
from helpers.layers.embeddings import timestep_embedding


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the U-Net; the defaults are the published ones."""

    latent_channels: int = 4
    width: int = 320  # channels at full latent resolution
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of the width, at 64x64, 32x32, 16x16 and 8x8 for images of 512x512
    attention: tuple[bool, ...] = (True, True, True, False)  # 8x8 is left to the middle's one transformer
    blocks: int = 2  # residual blocks per level on the way down, one more on the way up
    heads: int = 8  # at every width: heads of 40, 80 and 160 channels
    text_width: int = 768  # of the text encoder's hidden states
    groups: int = 32  # of the group norms

    @classmethod
    def v1(cls) -> "UNetConfig":
        """Stable Diffusion 1.1 to 1.5: 859,520,964 parameters."""
        return cls()


class GatedMLP(nn.Module):
    """a * GELU(b), with a and b two halves of one projection (GEGLU; Shazeer 2020)."""

    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return self.out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Pre-norm transformer block: self-attention, cross-attention to the text, MLP; each adds to x."""

    def __init__(self, width: int, heads: int, text_width: int):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm_2 = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads, text_width)
        self.norm_3 = nn.LayerNorm(width)
        self.mlp = GatedMLP(width)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x (B, N, D), text (B, M, text_width) -> (B, N, D)."""
        x = x + self.self_attention(self.norm_1(x))
        x = x + self.cross_attention(self.norm_2(x), text)
        return x + self.mlp(self.norm_3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map, between two projections."""

    def __init__(self, channels: int, config: UNetConfig):
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels, eps=1e-6)  # 1e-6 here, 1e-5 in the residual blocks
        self.proj_in = nn.Linear(channels, channels)  # published as 1x1 convolutions, which are the same thing
        self.block = TransformerBlock(channels, config.heads, config.text_width)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x (B, C, H, W), text (B, M, text_width) -> (B, C, H, W)."""
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        h = self.proj_out(self.block(self.proj_in(h), text))
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.Module):
    """One resolution: residual blocks, each followed by a transformer where there is attention; then the next size."""

    resample: nn.Module | None

    def __init__(self, config: UNetConfig, inputs: list[int], width: int, attention: bool, resample: nn.Module | None):
        """
        Args:
            inputs: channels that each residual block takes.
            width: channels that it gives.
            attention: whether transformers follow.
            resample: changes height and width at the end; None: they stay.
        """
        super().__init__()
        time_width = 4 * config.width
        self.residual = nn.ModuleList(ResnetBlock(c, width, time_width, config.groups) for c in inputs)
        self.transformer = nn.ModuleList(SpatialTransformer(width, config) for _ in inputs if attention)
        self.resample = resample


class DownLevel(Level):
    """A level of the way down, which keeps every feature map for the way up."""

    def forward(self, x: Tensor, time: Tensor, text: Tensor, skips: list[Tensor]) -> Tensor:
        """x (B, C, H, W), time (B, time_width), text (B, M, text_width) -> (B, C', H/2, W/2); appends to `skips`."""
        for residual, transformer in zip_longest(self.residual, self.transformer):
            x = residual(x, time)
            if transformer is not None:
                x = transformer(x, text)
            skips.append(x)
        if self.resample is not None:
            x = self.resample(x)
            skips.append(x)
        return x


class UpLevel(Level):
    """A level of the way up, whose residual blocks take x and a feature map of the way down side by side."""

    def forward(self, x: Tensor, time: Tensor, text: Tensor, skips: list[Tensor]) -> Tensor:
        """x (B, C, H, W), time (B, time_width), text (B, M, text_width) -> (B, C', 2H, 2W); pops from `skips`."""
        for residual, transformer in zip_longest(self.residual, self.transformer):
            x = residual(torch.cat([x, skips.pop()], dim=1), time)
            if transformer is not None:
                x = transformer(x, text)
        if self.resample is not None:
            x = self.resample(x, skips[-1].shape[2:])  # an odd height or width was rounded up on the way down
        return x


class UNet(nn.Module):
    """Predicts the noise in a latent."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        time_width = 4 * config.width
        self.time = nn.Sequential(nn.Linear(config.width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.stem = nn.Conv2d(config.latent_channels, config.width, 3, padding=1)

        self.down = nn.ModuleList()
        skips = [config.width]  # channels of the feature maps that are kept for the way up
        channels = config.width
        for width, attention in zip(widths, config.attention, strict=True):
            last = len(self.down) == len(widths) - 1
            inputs = [channels] + [width] * (config.blocks - 1)
            self.down.append(DownLevel(config, inputs, width, attention, None if last else Downsample(width)))
            skips += [width] * (config.blocks + (not last))
            channels = width

        self.middle = nn.ModuleList(
            [
                ResnetBlock(channels, channels, time_width, config.groups),
                SpatialTransformer(channels, config),
                ResnetBlock(channels, channels, time_width, config.groups),
            ]
        )

        self.up = nn.ModuleList()
        for width, attention in zip(reversed(widths), reversed(config.attention), strict=True):
            last = len(self.up) == len(widths) - 1
            inputs = []
            for _ in range(config.blocks + 1):
                inputs.append(channels + skips.pop())
                channels = width
            self.up.append(UpLevel(config, inputs, width, attention, None if last else Upsample(width)))
        self.norm = nn.GroupNorm(config.groups, config.width, eps=1e-5)
        self.head = nn.Conv2d(config.width, config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """Predict the noise in a batch of latents.

        Args:
            x: (B, 4, H, W) the noisy latent, any H and W.
            timestep: (B,) 0 to 999, the training's numbering.
            text: (B, M, text_width) hidden states of the prompt.

        Returns:
            (B, 4, H, W) the noise.
        """
        time = F.silu(self.time(timestep_embedding(timestep, self.config.width).to(x.dtype)))  # (B, time_width)
        x = self.stem(x)
        skips = [x]
        for level in self.down:
            x = level(x, time, text, skips)
        first, transformer, last = self.middle
        x = last(transformer(first(x, time), text), time)
        for level in self.up:
            x = level(x, time, text, skips)
        return self.head(fast.silu_after(self.norm, x))
