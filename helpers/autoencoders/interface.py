"""What every autoencoder of latent diffusion offers, whatever its architecture.

Alphabet: B batch, H W height and width of the image, C latent channels, h w of the latent.
"""

from typing import Any

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Base class of `KLAutoencoder`, `VQAutoencoder` and `TinyAutoencoder`: images to latents and back."""

    config: Any  # a frozen dataclass with `downsampling_factor`

    def to_latents(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> scaled latents (B, C, h, w); with a generator sampled, where encoding is random.

        Raises:
            ValueError: for sides that are not multiples of the downsampling factor.
        """
        raise NotImplementedError

    def to_images(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> (B, 3, H, W), clipped to [-1, 1]."""
        raise NotImplementedError
