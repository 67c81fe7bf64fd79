"""The tiny autoencoder (TAESD, github.com/madebyollin/taesd): a large one's latents from 2.4 million parameters.

It is distilled: its encoder predicts the latents of the large encoder, already scaled, and its decoder reconstructs
images from them. Plain convolutions and ReLU, 64 channels everywhere. Alphabet: B batch, H W of the image, C latent
channels, h = H / 8, w = W / 8.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.kl import check_divisible
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class TinyConfig:
    """Sizes; the defaults are those of the copies for Stable Diffusion 1 and XL."""

    latent_channels: int = 4  # 16 for Stable Diffusion 3, 32 for FLUX.2
    width: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)  # per resolution, from the image's down
    pooled: bool = False  # blocks at the smallest resolution use statistics of the whole map first (FLUX.2)

    @property
    def downsampling_factor(self) -> int:
        """How many times smaller the latent is than the image, per side."""
        return 2 ** (len(self.blocks) - 1)


class Pool(nn.Sequential):
    """Wide 1x1 convolutions around a group norm, whose means and variances run over the whole map."""

    def __init__(self, width: int):
        wide = 4 * width
        super().__init__(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.GroupNorm(4, wide),
            nn.ReLU(),
            nn.Conv2d(wide, width, 1, bias=False),
        )


class Block(nn.Module):
    """Three convolutions, added to their input: (B, width, h, w) -> the same."""

    def __init__(self, width: int, pooled: bool = False):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = Pool(width) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return F.relu(x + self.conv(x))


class Squash(nn.Module):
    """3 tanh(x / 3): bounds the latents, so that an outlier cannot make the decoder overflow."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def encoder(config: TinyConfig) -> nn.Sequential:
    """(B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
    width = config.width
    layers: list[nn.Module] = [nn.Conv2d(3, config.width, 3, padding=1)]
    for level, blocks in enumerate(config.blocks):
        if level:
            layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
        layers += [Block(width, config.pooled and level == len(config.blocks) - 1) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.Conv2d(width, config.latent_channels, 3, padding=1))


def decoder(config: TinyConfig) -> nn.Sequential:
    """(B, C, h, w) -> (B, 3, H, W), about [0, 1]."""
    width = config.width
    layers: list[nn.Module] = [Squash(), nn.Conv2d(config.latent_channels, config.width, 3, padding=1), nn.ReLU()]
    for level, blocks in enumerate(reversed(config.blocks)):
        if level:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        layers += [Block(width, config.pooled and not level) for _ in range(blocks)]
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))


class TinyAutoencoder(Autoencoder):
    """Encoder and decoder, with the same interface as the large autoencoders."""

    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.encoder = encoder(config)
        self.decoder = decoder(config)

    def to_latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w), of about unit variance; encoding is deterministic.

        Raises:
            ValueError: for sides that are not multiples of the factor.
        """
        check_divisible(images, self.config.downsampling_factor)
        return self.encoder((images + 1) / 2)

    def to_images(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W), clipped to [-1, 1]."""
        return (2 * self.decoder(latents) - 1).clamp(-1, 1)


def published_names(layout: str) -> KeyMapping:
    """Patterns from our parameter names to those of a file in layout "taesd" (one file per half) or "diffusers".

    diffusers numbers the decoder's layers from the first convolution on: the squashing is no layer there.
    """
    if layout == "taesd":
        return []
    return [
        (r"^encoder\.(\d+)\.", r"encoder.layers.\1."),
        (r"^decoder\.(\d+)\.", lambda match: f"decoder.layers.{int(match[1]) - 1}."),
    ]
