"""How well an autoencoder reconstructs, and what its latents are like.

Alphabet: B images, H W pixels, C channels of h w latents, N D flat latents.
"""

import torch
from torch import Tensor


def psnr(images: Tensor, reconstructions: Tensor) -> float:
    """Compute the peak signal-to-noise ratio in decibels, over all images together.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        reconstructions: likewise; values outside the range are clamped.

    Raises:
        ValueError: for different shapes.
    """
    _check_same_shape(images, reconstructions)
    error = ((reconstructions.clamp(-1, 1) - images) / 2).square().mean()
    return (-10 * error.log10()).item()


def ssim(images: Tensor, reconstructions: Tensor) -> float:
    """Compute the structural similarity (Wang et al. 2004, eq. 13), mean over the images: 1 for a copy.

    Args:
        images: (B, 3, H, W) in [-1, 1].
        reconstructions: likewise.

    Raises:
        ValueError: for different shapes.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_same_shape(images, reconstructions)
    similarity = structural_similarity_index_measure(_to_unit(reconstructions), _to_unit(images), data_range=1.0)
    assert isinstance(similarity, Tensor)  # a tuple only with return_full_image
    return similarity.item()


def _to_unit(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]: SSIM also compares brightness, which must not be negative."""
    return (x.clamp(-1, 1) + 1) / 2


def _check_same_shape(images: Tensor, reconstructions: Tensor) -> None:
    if images.shape != reconstructions.shape:
        raise ValueError(f"compare images of one shape, got {tuple(images.shape)} and {tuple(reconstructions.shape)}")


def neighbour_correlation(latents: Tensor) -> float:
    """Correlation of a latent value with the one to its right, mean over the channels: 1 where latents are smooth.

    Args:
        latents: (B, C, h, w).
    """
    centred = latents - latents.mean((0, 2, 3), keepdim=True)
    products = (centred[..., 1:] * centred[..., :-1]).mean((0, 2, 3))
    return (products / centred.square().mean((0, 2, 3))).mean().item()


def active_units(latents: Tensor, threshold: float = 0.01) -> int:
    """Count the latent dimensions whose posterior mean varies over images (Burda et al. 2015, section 5.2).

    Args:
        latents: (N, D) posterior means.
        threshold: variance from which a dimension is active.
    """
    return int((torch.var(latents, dim=0) > threshold).sum())
