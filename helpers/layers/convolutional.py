"""The convolutional blocks that Stable Diffusion's U-Nets and autoencoders share, from SD1 to SD3.

Alphabet: B batch, C channels, H W height and width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers import fast


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps height and width."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        if fast.prefer_matmul(x):
            return fast.conv3x3_by_matmul(x, self.weight, self.bias)
        return super().forward(x)


class ResnetBlock(nn.Module):
    """Residual block: norm, SiLU, convolution, twice; the time embedding is added in between (DDPM, appendix B).

    Epsilon of the norms is 1e-5 in Stable Diffusion's U-Net and 1e-6 in its autoencoder.
    """

    def __init__(
        self, channels: int, out_channels: int, time_width: int | None = None, groups: int = 32, eps: float = 1e-5
    ):
        super().__init__()
        self.norm_1 = nn.GroupNorm(groups, channels, eps)
        self.conv_1 = Conv3x3(channels, out_channels)
        self.time = nn.Linear(time_width, out_channels) if time_width else None
        self.norm_2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv_2 = Conv3x3(out_channels, out_channels)
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), time (B, time_width), already through a SiLU -> (B, C', H, W)."""
        h = self.conv_1(fast.silu_after(self.norm_1, x))
        if self.time is not None:
            h = fast.add_to_output(self.conv_1, h, self.time(time)[:, :, None, None])
        h = self.conv_2(fast.silu_after(self.norm_2, h))
        return fast.add_to_output(self.conv_2, h, self.skip(x))


class Downsample(nn.Module):
    """Half the height and width by a convolution of stride 2, (B, C, H, W) -> (B, C, H/2, W/2).

    The U-Net pads one row and column on every side; the autoencoder, a relic of its first code, only below and right.
    """

    def __init__(self, channels: int, *, pad_all_sides: bool = True):
        super().__init__()
        self.pad_all_sides = pad_all_sides
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if pad_all_sides else 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.pad_all_sides else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width: nearest-neighbour interpolation, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, *size); size is (2H, 2W) unless an odd size was halved before."""
        doubled = (2 * x.shape[2], 2 * x.shape[3])
        if size in (None, doubled) and fast.prefer_folded(x):
            return fast.upsample_conv3x3(x, self.conv.weight, self.conv.bias)
        return self.conv(F.interpolate(x, size or doubled, mode="nearest"))
