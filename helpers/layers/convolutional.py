"""The convolutional blocks that Stable Diffusion's U-Nets and autoencoders share, from SD1 to SD3.

Alphabet: B batch, C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x); overwrites x where no gradient will ask for it, which saves the largest copies of a decoder."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution that keeps height and width.

    Deep in a U-Net there are few positions and very many weights, and on a CPU the convolution kernel spends more time
    rearranging the weights than multiplying by them. There the nine neighbours of every position are laid side by
    side, and one matrix product does the rest: twice as fast at 8x8 positions of 1280 channels.
    """

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        few = x.shape[0] * x.shape[2] * x.shape[3] <= 512 and self.in_channels >= 256
        if torch.is_grad_enabled() or x.device.type != "cpu" or not few:
            return super().forward(x)
        B, C, H, W = x.shape
        padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)  # (B, H + 2, W + 2, C)
        around = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # (B, H, W, C, 3, 3), a view
        around = around.permute(0, 1, 2, 4, 5, 3).reshape(B * H * W, 9 * C)
        weight = self.weight.permute(0, 2, 3, 1).reshape(-1, 9 * C)  # (C', 9 C)
        return F.linear(around, weight, self.bias).view(B, H, W, -1).permute(0, 3, 1, 2)


class ResnetBlock(nn.Module):
    """norm, SiLU, convolution, twice, and the input added; the time is added in between (DDPM, appendix B).

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
        h = self.conv_1(silu(self.norm_1(x)))
        if self.time is not None:
            h += self.time(time)[:, :, None, None]
        h = self.conv_2(silu(self.norm_2(h)))
        h += self.skip(x)
        return h


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
    """Twice the height and width: every position becomes four, then a convolution smooths them."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv3x3(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, *size); size is (2H, 2W) unless an odd size was halved before."""
        doubled = (2 * x.shape[2], 2 * x.shape[3])
        small = x.shape[2] * x.shape[3] < 1024  # there, adding up weights costs more than it saves
        if torch.is_grad_enabled() or small or size not in (None, doubled):
            return self.conv(F.interpolate(x, size or doubled, mode="nearest"))
        return self._folded(x)

    def _folded(self, x: Tensor) -> Tensor:
        """The same numbers with 16 multiplications where enlarging first takes 36.

        Of the nine pixels under the kernel only four differ, since neighbours are copies: weights of equal
        pixels are added beforehand. Which ones depends on whether the output's row and column are even or odd.
        """
        weight = self.conv.weight
        (B, C, H, W) = x.shape
        out = x.new_empty((B, len(weight), 2 * H, 2 * W)).contiguous(memory_format=_layout(x))
        # even rows see (the row before | this one twice), odd ones (this one twice | the row after); columns alike
        pairs = x.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])  # (parity, 2, 3)
        mixing = torch.einsum("rai,cbj->rcabij", pairs, pairs).reshape(16, 9)
        kernels = mixing @ weight.permute(0, 2, 3, 1).reshape(-1, 9, C)  # (C', 16, C)
        kernels = kernels.reshape(-1, 2, 2, 2, 2, C).permute(1, 2, 0, 5, 3, 4)  # (row, column, C', C, 2, 2)
        for row in (0, 1):
            for column in (0, 1):
                padded = F.pad(x, (1 - column, column, 1 - row, row))
                out[:, :, row::2, column::2] = F.conv2d(padded, kernels[row, column], self.conv.bias)
        return out


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
