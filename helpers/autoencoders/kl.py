"""The KL autoencoder of latent diffusion (Rombach et al. 2022, section 3.1): 48 values of an image become one.

Stable Diffusion 1 and 3 use this architecture with different sizes; both halves are built of the same residual
blocks. Alphabet: B batch, H W of the image, C latent channels, h = H / factor, w = W / factor.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.autoencoders.interface import Autoencoder
from helpers.layers import fast
from helpers.layers.attention import Attention
from helpers.layers.convolutional import Downsample, ResnetBlock, Upsample
from helpers.weights import load_config, load_weights, save_with_config
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class KLConfig:
    """Sizes of an autoencoder; the defaults are Stable Diffusion 1's."""

    width: int = 128  # channels at full resolution
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # of the width, per level; every level but the last halves the image
    blocks: int = 2  # residual blocks per level on the way down, one more on the way up
    latent_channels: int = 4
    groups: int = 32  # of the group norms; their epsilon is 1e-6, unlike the U-Net's 1e-5
    quant_convs: bool = True  # 1x1 convolutions around the latent, left over from a quantised ancestor; SD3 has none
    patch: int = 1  # pixels per side rearranged into channels first; published: 1, and 2 is four times as fast
    scale: float = 0.18215  # latents are multiplied by it: about unit variance, as the noise schedule expects
    shift: float = 0.0  # subtracted from the latents before they are scaled
    latents_of: str = ""  # of a distilled autoencoder: the fingerprint of the one whose latents it reproduces

    @property
    def downsampling_factor(self) -> int:
        """How many times smaller the latent is than the image, per side."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @classmethod
    def sd1(cls) -> "KLConfig":
        """Stable Diffusion 1: 512x512 pixels become 64x64x4; 83,653,863 parameters."""
        return cls()

    @classmethod
    def sd3(cls) -> "KLConfig":
        """Stable Diffusion 3: 16 channels, four times as many values; 83,819,683 parameters."""
        return cls(latent_channels=16, quant_convs=False, scale=1.5305, shift=0.0609)


@dataclass(frozen=True)
class DiagonalGaussian:
    """The encoder's posterior: mean and log-variance of every value of the latent, (B, C, h, w) each."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A reparameterised sample, mean + std * noise (Kingma & Welling 2013, eq. 10).

        The noise is generated on the generator's device.
        """
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device if generator else None)
        return self.mean + (0.5 * self.logvar).exp() * noise.to(self.mean)

    def kl(self) -> Tensor:
        """(B,) KL(q || N(0, I)) in nats, summed over the latent (Kingma & Welling 2013, appendix B)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).flatten(1).sum(1)


def check_divisible(images: Tensor, factor: int) -> None:
    """Raise ValueError unless images are (B, 3, H, W) with H and W divisible by `factor`."""
    if images.ndim != 4 or images.shape[1] != 3 or any(side % factor for side in images.shape[2:]):
        raise ValueError(
            f"the encoder takes (B, 3, H, W) with H and W multiples of {factor}, got {tuple(images.shape)}"
        )


class PixelAttention(nn.Module):
    """Single-head self-attention over all positions of a feature map, with a residual connection."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.attention = Attention(channels, heads=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        return x + self.attention(h).transpose(1, 2).unflatten(2, x.shape[2:])


class Level(nn.Module):
    """The residual blocks of one resolution, then the layer that changes to the next one."""

    def __init__(self, channels: int, width: int, blocks: int, groups: int, resample: nn.Module | None):
        super().__init__()
        inputs = [channels] + [width] * (blocks - 1)
        self.residual: nn.ModuleList = nn.ModuleList(ResnetBlock(c, width, groups=groups, eps=1e-6) for c in inputs)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.residual:
            x = block(x)
        return x if self.resample is None else self.resample(x)


def _middle(width: int, groups: int) -> nn.Sequential:
    """Residual block, attention, residual block: only here can one corner depend on the opposite one."""
    return nn.Sequential(
        ResnetBlock(width, width, groups=groups, eps=1e-6),
        PixelAttention(width, groups),
        ResnetBlock(width, width, groups=groups, eps=1e-6),
    )


class Encoder(nn.Module):
    """Image to mean and log-variance of the posterior: (B, 3, H, W) in [-1, 1] -> (B, 2C, h, w)."""

    def __init__(self, config: KLConfig, outputs: int | None = None):
        """`outputs`: channels of the output, where it is no Gaussian; None: 2C."""
        super().__init__()
        widths = [config.width * m for m in config.multipliers]
        groups = config.groups
        self.fold = nn.PixelUnshuffle(config.patch)
        self.stem = nn.Conv2d(3 * config.patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for before, width in zip([widths[0], *widths], widths, strict=False):
            last = len(self.down) == len(widths) - 1
            resample = None if last else Downsample(width, pad_all_sides=False)
            self.down.append(Level(before, width, config.blocks, groups, resample))
        self.middle = _middle(widths[-1], groups)
        self.norm = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.head = nn.Conv2d(widths[-1], outputs or 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.fold(x))
        for level in self.down:
            x = level(x)
        return self.head(fast.silu_after(self.norm, self.middle(x)))


class Decoder(nn.Module):
    """Latent to image: (B, C, h, w) -> (B, 3, H, W), about [-1, 1]."""

    def __init__(self, config: KLConfig):
        super().__init__()
        widths = [config.width * m for m in reversed(config.multipliers)]
        groups = config.groups
        self.stem = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.middle = _middle(widths[0], groups)
        self.up = nn.ModuleList()
        for before, width in zip([widths[0], *widths], widths, strict=False):
            last = len(self.up) == len(widths) - 1
            self.up.append(Level(before, width, config.blocks + 1, groups, None if last else Upsample(width)))
        self.norm = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.head = nn.Conv2d(widths[-1], 3 * config.patch**2, 3, padding=1)
        self.unfold = nn.PixelShuffle(config.patch)

    def forward(self, z: Tensor) -> Tensor:
        x = self.middle(self.stem(z))
        for level in self.up:
            x = level(x)
        return self.unfold(self.head(fast.silu_after(self.norm, x)))


class KLAutoencoder(Autoencoder):
    """Encoder and decoder; `to_latents` and `to_images` also apply the scale that diffusion expects."""

    def __init__(self, config: KLConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        C = config.latent_channels
        self.quant = nn.Conv2d(2 * C, 2 * C, 1) if config.quant_convs else nn.Identity()
        self.post_quant = nn.Conv2d(C, C, 1) if config.quant_convs else nn.Identity()

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """(B, 3, H, W) in [-1, 1] -> a Gaussian over (B, C, h, w).

        Raises:
            ValueError: for sides that are not multiples of the factor.
        """
        check_divisible(images, self.config.downsampling_factor)
        mean, logvar = self.quant(self.encoder(images)).chunk(2, dim=1)  # (B, C, h, w) each
        return DiagonalGaussian(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w), unscaled -> (B, 3, H, W), about [-1, 1]."""
        return self.decoder(self.post_quant(z))

    def to_latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What is diffused: scale * (z - shift), (B, C, h, w).

        z is sampled from the posterior with `generator`; without one it is the posterior's mean.
        """
        gaussian = self.encode(images)
        z = gaussian.mean if generator is None else gaussian.sample(generator)
        return (z - self.config.shift) * self.config.scale

    def to_images(self, latents: Tensor) -> Tensor:
        """Decode latents / scale + shift: (B, C, h, w) -> (B, 3, H, W), clipped to [-1, 1]."""
        return self.decode(latents / self.config.scale + self.config.shift).clamp(-1, 1)

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the weights (fp16) with their sizes."""
        save_with_config(self, asdict(self.config), path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path) -> "KLAutoencoder":
        """Weights that `save` wrote. Raises what `load_weights` and `read_config` raise."""
        model = cls(load_config(KLConfig, name_or_path))
        load_weights(model, name_or_path)
        return model.eval()


def published_names(config: KLConfig, layout: str) -> KeyMapping:
    """Patterns from our parameter names to those of a published file, in layout "compvis" or "diffusers".

    CompVis numbers the decoder's levels from the image up, so its `up.3` runs first; diffusers and this course number
    them in the order in which they run. Example for compvis: `decoder.up.0.residual.1.norm_2.weight` ->
    `decoder.up.3.block.1.norm2.weight`.
    """
    last = len(config.multipliers) - 1
    common = [
        (r"^(quant|post_quant)\.", r"\1_conv."),
        (r"\.stem\.", ".conv_in."),
        (r"\.head\.", ".conv_out."),
        (r"\.(norm|conv)_(\d)", r".\1\2"),
    ]
    if layout == "diffusers":
        return [
            *common,
            (r"coder\.norm\.", "coder.conv_norm_out."),
            (r"\.skip\.", ".conv_shortcut."),
            (r"\.(down|up)\.(\d+)\.residual\.", r".\1_blocks.\2.resnets."),
            (r"\.(down|up)\.(\d+)\.resample\.", r".\1_blocks.\2.\1samplers.0."),
            (r"\.middle\.1\.norm\.", ".mid_block.attentions.0.group_norm."),
            (r"\.middle\.1\.attention\.", ".mid_block.attentions.0."),
            (r"\.middle\.0\.", ".mid_block.resnets.0."),
            (r"\.middle\.2\.", ".mid_block.resnets.1."),
            (r"\.to_kv\.", ".to_{kv}."),
            (r"\.to_out\.", ".to_out.0."),
        ]
    return [
        *common,
        (r"coder\.norm\.", "coder.norm_out."),
        (r"\.skip\.", ".nin_shortcut."),
        (r"\.up\.(\d+)\.", lambda match: f".up.{last - int(match[1])}."),
        (r"\.residual\.", ".block."),
        (r"\.(down|up)\.(\d+)\.resample\.", r".\1.\2.\1sample."),
        (r"\.middle\.1\.attention\.to_kv", ".mid.attn_1.{kv}"),
        (r"\.middle\.1\.attention\.to_q", ".mid.attn_1.q"),
        (r"\.middle\.1\.attention\.to_out", ".mid.attn_1.proj_out"),
        (r"\.middle\.1\.", ".mid.attn_1."),
        (r"\.middle\.0\.", ".mid.block_1."),
        (r"\.middle\.2\.", ".mid.block_2."),
    ]
