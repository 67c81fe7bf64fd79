"""A real cat at the top of notebooks 05, 06, 07 and 14: Chelsea (CC0), as their networks see her."""

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from helpers.autoencoders.interface import Autoencoder
from helpers.data.chelsea import load_chelsea
from helpers.show.figures import grid
from helpers.tiny_sd.model import TinySD

PATCH = 8  # pixels a side of a patch of the tiny PaliGemma


@torch.no_grad()
def latent_channels(autoencoder: Autoencoder) -> Figure:
    """Chelsea, each channel of her latent in grey, and her reconstruction."""
    image = load_chelsea()
    latent = autoencoder.to_latents(image)[0]  # (C, h, w)
    low = latent.amin((1, 2), keepdim=True)
    high = latent.amax((1, 2), keepdim=True)
    channels = (2 * (latent - low) / (high - low) - 1)[:, None]  # (C, 1, h, w) in [-1, 1]
    channels = F.interpolate(channels, image.shape[-2:]).expand(-1, 3, -1, -1)
    titles = ["Chelsea", *(f"channel {k}" for k in range(len(channels))), "decoded"]
    images = torch.cat([image, channels, decoded(autoencoder, image)])
    return grid(images, columns=len(titles), titles=titles, scale=1.6)


@torch.no_grad()
def reconstructions(autoencoders: dict[str, Autoencoder]) -> Figure:
    """Chelsea, and her reconstruction by each autoencoder."""
    image = load_chelsea()
    images = [image, *(decoded(autoencoder, image) for autoencoder in autoencoders.values())]
    return grid(torch.cat(images), columns=len(images), titles=["Chelsea", *autoencoders], scale=3)


@torch.no_grad()
def autoencoder_and_prior(animals: TinySD) -> Figure:
    """Chelsea and her reconstruction; two random latents, decoded; two latents of a diffusion model, decoded."""
    image = load_chelsea()
    latent = animals.codec.encode(image)
    noise = torch.randn(2, *latent.shape[1:], generator=torch.Generator().manual_seed(0))
    generated = animals.generate(["cat", "cat"], steps=12, guidance_scale=7, seed=0)
    images = [image, animals.codec.decode(latent), animals.codec.decode(noise), generated]
    titles = ["Chelsea", "reconstructed", "random", "random", "generated", "generated"]
    return grid(torch.cat(images).clamp(-1, 1), columns=6, titles=titles, scale=1.6)


def patches() -> Figure:
    """Chelsea, and the patches that she is cut into."""
    image = load_chelsea()
    rows = [torch.cat(pieces_of(strip, 3), dim=3) for strip in pieces_of(image, 2)]
    cut = torch.cat(rows, dim=2)
    whole = F.interpolate(image, cut.shape[-2:], mode="bicubic").clamp(-1, 1)
    return grid(torch.cat([whole, cut]), columns=2, titles=["Chelsea", "64 patches"], scale=2)


def decoded(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """What an autoencoder keeps of images (B, 3, H, W)."""
    return autoencoder.to_images(autoencoder.to_latents(images)).clamp(-1, 1)


def pieces_of(image: Tensor, dim: int) -> list[Tensor]:
    """The image in strips one patch wide along a dimension, each with a white line on two sides."""
    return [F.pad(strip, (1, 1) if dim == 3 else (0, 0, 1, 1), value=1.0) for strip in image.split(PATCH, dim)]
