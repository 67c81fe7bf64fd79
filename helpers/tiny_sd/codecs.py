"""What is diffused: a codec maps pictures to it and back. The course's three methods differ in this object only.

Alphabet: B batch, H W of the picture, C channels of what is diffused, h = H / factor, w = W / factor.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from helpers.autoencoders.latents import latent_space, normalised
from helpers.autoencoders.load import load_autoencoder
from helpers.weights import read_config, weights_path

DISTILLED = ("distilled_autoencoder",)  # shipped autoencoders that reproduce the latents of another one
MAX_PIXELS_AT_ONCE = 2**20  # decoded at once, so that a batch of large pictures fits a small card


class Codec(Protocol):
    """Pictures to what is diffused, of about unit variance, and back."""

    name: str  # of the method
    channels: int  # of what is diffused
    downsampling_factor: int  # how many times smaller it is than the picture, per side

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w)."""
        ...

    def decode(self, codes: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W) in [-1, 1]."""
        ...

    def describe(self) -> Any:
        """What `load_codec` needs to make it again, as plain JSON values."""
        ...

    def to(self, device: torch.device | str) -> "Codec":
        """Move what computes; returns itself."""
        ...


class PixelCodec:
    """Method 1: what is diffused is the picture itself, in [-1, 1] (latent diffusion's IdentityFirstStage).

    The range matters: a sampler clips to it, so pictures normalised to any other range come out washed out.
    """

    name = "pixels"
    channels = 3
    factor = 1

    def encode(self, pictures: Tensor) -> Tensor:
        """Raises ValueError for pictures that leave [-1, 1], such as ImageNet-normalised ones (-2.12..2.64)."""
        if pictures.abs().max() > 1 + 1e-4:
            low = pictures.min().item()
            high = pictures.max().item()
            raise ValueError(
                f"pictures must be in [-1, 1], got [{low:.2f}, {high:.2f}]: samples are clipped to "
                "[-1, 1], so any other normalisation loses colours (use Faces.tensor)"
            )
        return pictures

    def decode(self, codes: Tensor) -> Tensor:
        return codes.clamp(-1, 1)

    def describe(self) -> str:
        return self.name

    def to(self, device: torch.device | str) -> "PixelCodec":
        return self


class LatentCodec:
    """The latents of an autoencoder, each channel brought to mean 0 and unit variance.

    One scale for all channels, as Stable Diffusion has it, is not enough where channels differ: noise drowns the quiet
    ones first. The autoencoder is no part of the network: it is neither trained nor saved with it.
    """

    name = "latents"

    def __init__(self, autoencoder: nn.Module, mean: Tensor, std: Tensor, source: str = ""):
        """
        Args:
            autoencoder: has `config.downsampling_factor`, `to_latents` and `to_pictures`.
            mean, std: (C,) of its latents on the training pictures.
            source: what `load_autoencoder` finds it by.
        """
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.mean = mean
        self.std = std
        self.source = str(source)
        self.channels = len(mean)
        self.downsampling_factor = autoencoder.config.downsampling_factor

    def __deepcopy__(self, memo: dict) -> "LatentCodec":
        return self  # an average of the network shares it

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        return normalised(self.autoencoder.to_latents(pictures), self.mean, self.std)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        latents = codes * self.std[:, None, None].to(codes) + self.mean[:, None, None].to(codes)
        per_part = max(1, MAX_PIXELS_AT_ONCE // (codes[0, 0].numel() * self.downsampling_factor**2))
        return torch.cat([self.autoencoder.to_pictures(part) for part in latents.split(per_part)])

    def describe(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "autoencoder": self.source,
            "fingerprint": latent_space(self.autoencoder),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    def to(self, device: torch.device | str) -> "LatentCodec":
        self.autoencoder.to(device)
        return self


class PretrainedCodec(LatentCodec):
    """Method 2: an autoencoder that somebody else trained on everything, such as Stable Diffusion XL's."""

    name = "pretrained"


class TrainedCodec(LatentCodec):
    """Method 3: an autoencoder that we trained ourselves, on the very pictures that are diffused."""

    name = "own"


CODECS = {codec.name: codec for codec in (PixelCodec, PretrainedCodec, TrainedCodec)}


def load_codec(described: Any, autoencoder: str | Path | None = None) -> Codec:
    """The codec that a network was trained with.

    Args:
        described: what `describe` gave.
        autoencoder: where it is now, if it was moved; see `load_autoencoder`.

    Raises:
        ValueError: for a codec nobody knows, and for another autoencoder than the network was trained with: its latents
            would mean something else.
        FileNotFoundError: if the autoencoder is not where it was, and none that ships has the same latents.
    """
    method = described if isinstance(described, str) else described["method"]
    if method not in CODECS:
        raise ValueError(f"unknown codec {method!r}: this version knows {', '.join(CODECS)}")
    if method == PixelCodec.name:
        return PixelCodec()
    source = str(autoencoder or described["autoencoder"])
    try:
        found = load_autoencoder(source)
    except FileNotFoundError as error:
        stand_in = None if autoencoder else shipped_autoencoder(described["fingerprint"])
        if stand_in is None:
            raise FileNotFoundError(f"{error}. If the autoencoder was moved, pass autoencoder=") from error
        source = stand_in
        found = load_autoencoder(stand_in)
    if latent_space(found) != described["fingerprint"]:
        raise ValueError(
            f"the autoencoder {source} is not the one this network was trained with: its latents mean "
            "something else. Pass the right one as autoencoder=, or train the network again"
        )
    return CODECS[method](found, torch.tensor(described["mean"]), torch.tensor(described["std"]), source)


def shipped_autoencoder(latents_of: str) -> str | None:
    """The name of the shipped autoencoder that was distilled from the one with this fingerprint, if there is one.

    A network that was trained on the latents of a large autoencoder can so be used where that one cannot be had.
    """
    for name in DISTILLED:
        if weights_path(name).is_file() and read_config(name).get("latents_of") == latents_of:
            return name
    return None
