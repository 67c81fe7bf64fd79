"""What is diffused: a codec maps pictures to it and back. The course's three methods differ in this object only."""

from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """Pictures to what is diffused, of about unit variance, and back."""

    name: str
    channels: int  # of what is diffused
    factor: int  # how many times smaller it is than the picture, per side

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, channels, H / factor, W / factor)."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, factor h, factor w) in [-1, 1]."""
        ...


class PixelCodec:
    """Method 1: what is diffused is the picture itself, in [-1, 1] (latent diffusion's IdentityFirstStage).

    The range matters: a sampler clips to it, so pictures normalised to any other range come out washed out.
    """

    name, channels, factor = "pixels", 3, 1

    def encode(self, pictures: Tensor) -> Tensor:
        """Raises ValueError for pictures that leave [-1, 1], such as ImageNet-normalised ones (-2.12..2.64)."""
        if pictures.abs().max() > 1 + 1e-4:
            low, high = pictures.min().item(), pictures.max().item()
            raise ValueError(f"pictures must be in [-1, 1], got [{low:.2f}, {high:.2f}]: samples are clipped to "
                             "[-1, 1], so any other normalisation loses colours (use Faces.tensor)")  # fmt: skip
        return pictures

    def decode(self, codes: Tensor) -> Tensor:
        return codes.clamp(-1, 1)
