"""What is diffused: a codec maps images to latents and back. The course's three methods differ in this object only.

Alphabet: B batch, H W height and width of the image, C channels of the latents, h = H / factor, w = W / factor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.latents import latent_space, normalize_channels
from helpers.autoencoders.load import load_autoencoder
from helpers.weights import read_config, weights_path

DISTILLED = ("distilled_autoencoder",)  # shipped autoencoders that reproduce the latents of another one
SHIPPED = ("general_autoencoder", "faces_autoencoder", "autoencoder", "autoencoder_16", "vq")
MAX_PIXELS_AT_ONCE = 2**20  # decoded at once, so that a batch of large images fits a small GPU


class Codec(Protocol):
    """Images to what is diffused, of about unit variance, and back."""

    @property
    def name(self) -> str:
        """Of the method."""
        ...

    @property
    def channels(self) -> int:
        """C, of what is diffused."""
        ...

    @property
    def downsampling_factor(self) -> int:
        """H / h: how many times smaller than the image it is, per side."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W) in [-1, 1]."""
        ...

    def describe(self) -> Any:
        """The arguments of `load_codec` that restore it, as plain JSON values."""
        ...

    def to(self, device: torch.device | str) -> Codec:
        """Move what computes; returns itself."""
        ...


class PixelCodec:
    """Method 1: the image itself is diffused, in [-1, 1] (latent diffusion's IdentityFirstStage).

    The range matters: a sampler clips to it, so images normalised to any other range come out washed out.
    """

    name = "pixels"
    channels = 3
    downsampling_factor = 1

    def encode(self, images: Tensor) -> Tensor:
        """Return the images; raises ValueError if they leave [-1, 1], as ImageNet-normalised ones do (-2.12..2.64)."""
        if images.abs().max() > 1 + 1e-4:
            low = images.min().item()
            high = images.max().item()
            raise ValueError(
                f"images must be in [-1, 1], got [{low:.2f}, {high:.2f}]: samples are clipped to "
                "[-1, 1], so any other normalisation loses colours (use Faces.tensor)"
            )
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents.clamp(-1, 1)

    def describe(self) -> str:
        return self.name

    def to(self, device: torch.device | str) -> PixelCodec:
        return self


class LatentCodec:
    """The latents of an autoencoder, each channel normalised to mean 0 and unit variance.

    One scale for all channels, as in Stable Diffusion, is not enough if their standard deviations differ: noise drowns
    the channels with small ones first. The autoencoder is no part of the network: it is neither trained nor saved
    with it.
    """

    name = "latents"

    def __init__(self, autoencoder: Autoencoder, mean: Tensor, std: Tensor, source: str | Path = ""):
        """
        Args:
            autoencoder: is frozen.
            mean, std: (C,) of its latents on the training images.
            source: the argument of `load_autoencoder` that loads it.
        """
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.mean = mean
        self.std = std
        self.source = str(source)
        self.channels = len(mean)
        self.downsampling_factor: int = autoencoder.config.downsampling_factor

    def __deepcopy__(self, memo: dict) -> LatentCodec:
        return self  # an average of the network shares it

    def normalise(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents, (B, C, h, w), to mean 0 and unit variance in every channel."""
        return normalize_channels(latents, self.mean, self.std)

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latents * self.std[:, None, None].to(latents) + self.mean[:, None, None].to(latents)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.normalise(self.autoencoder.to_latents(images))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels_per_image = latents[0, 0].numel() * self.downsampling_factor**2
        parts = self.denormalise(latents).split(max(1, MAX_PIXELS_AT_ONCE // pixels_per_image))
        return torch.cat([self.autoencoder.to_images(part) for part in parts])

    def describe(self) -> dict[str, Any]:
        return {
            "method": self.name,
            "autoencoder": portable_name(self.source),
            "fingerprint": latent_space(self.autoencoder),
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
        }

    def to(self, device: torch.device | str) -> LatentCodec:
        self.autoencoder.to(device)
        return self


class PretrainedCodec(LatentCodec):
    """Method 2: an autoencoder that others trained on images of all sorts, such as Stable Diffusion XL's."""

    name = "pretrained"


class TrainedCodec(LatentCodec):
    """Method 3: an autoencoder trained on the very images that are diffused."""

    name = "own"


LATENT_CODECS: dict[str, type[LatentCodec]] = {codec.name: codec for codec in (PretrainedCodec, TrainedCodec)}
CODECS: dict[str, Any] = {PixelCodec.name: PixelCodec, **LATENT_CODECS}  # by the name of the method


def portable_name(source: str) -> str:
    """What saved weights call their autoencoder: a name or a hub repository as it is, of a path only the last part."""
    path = Path(source).expanduser()
    is_path = path.is_absolute() or ".." in path.parts or source.startswith((".", "~")) or path.exists()
    return path.name if is_path else source


def load_codec(description: Any, autoencoder: str | Path | None = None, weights: Path | None = None) -> Codec:
    """Load the codec that a network was trained with.

    Args:
        description: the result of `Codec.describe`.
        autoencoder: where it is, see `load_autoencoder`; None: it is looked for beside the weights, then by its name,
            then among those that ship. It is recognised by the fingerprint of its latents.
        weights: the file of the network's weights.

    Raises:
        ValueError: for an unknown codec, and for another autoencoder than the network was trained with: its latents
            would mean something else.
        FileNotFoundError: if the autoencoder is in none of these places; it says what was looked for.
    """
    method = description if isinstance(description, str) else description["method"]
    if method == PixelCodec.name:
        return PixelCodec()
    if method not in LATENT_CODECS:
        raise ValueError(f"unknown codec {method!r}: this version knows {', '.join(CODECS)}")
    if autoencoder is not None:
        source = str(autoencoder)
        module = load_autoencoder(source)
    else:
        source, module = _find_autoencoder(description, weights)
    if latent_space(module) != description["fingerprint"]:
        raise ValueError(
            f"the autoencoder {source} is not the one this network was trained with: its latents mean "
            "something else. Pass the right one as autoencoder=, or train the network again"
        )
    mean = torch.tensor(description["mean"])
    std = torch.tensor(description["std"])
    return LATENT_CODECS[method](module, mean, std, source)


def _find_autoencoder(description: dict[str, Any], weights: Path | None) -> tuple[str, Autoencoder]:
    """Its source, and the autoencoder; the errors are those of `load_codec`."""
    name = description["autoencoder"]
    fingerprint = description["fingerprint"]
    beside = _places_beside(weights, portable_name(name)) if weights is not None else []
    for path in beside:
        if path.exists() and path != weights:
            module = load_autoencoder(path)
            if latent_space(module) == fingerprint:
                return str(path), module
    try:
        return name, load_autoencoder(name)
    except FileNotFoundError as error:
        substitute = shipped_autoencoder(fingerprint) or _shipped_copy(fingerprint)
        if substitute is not None:
            return substitute, load_autoencoder(substitute)
        places = ", ".join(map(str, beside)) or "no folder, for these weights were loaded by name"
        raise FileNotFoundError(
            f"the autoencoder {name!r} of these weights (its latents have the fingerprint {fingerprint[:12]}...) is "
            f"not here: looked for {places}, and among those that ship. Put it there, or pass autoencoder="
        ) from error


def _places_beside(weights: Path, name: str) -> list[Path]:
    """Where the autoencoder of these weights may lie: a training leaves it in the folder autoencoder."""
    folder = weights.parent
    return [folder / "autoencoder" / "weights.safetensors", folder / "autoencoder" / name, folder / name]


def shipped_autoencoder(latents_of: str) -> str | None:
    """The name of the shipped autoencoder that was distilled from the one with this fingerprint, if there is one.

    A network that was trained on the latents of a large autoencoder can thus be used where that one is not available.
    """
    for name in DISTILLED:
        if weights_path(name).is_file() and read_config(name).get("latents_of") == latents_of:
            return name
    return None


def _shipped_copy(latents_of: str) -> str | None:
    """The name of the shipped autoencoder that has this fingerprint itself, under whatever name it was used."""
    for name in SHIPPED:
        if weights_path(name).is_file() and latent_space(load_autoencoder(name)) == latents_of:
            return name
    return None
