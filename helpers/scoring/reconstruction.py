"""How close a picture that went through an autoencoder is to what it was. Alphabet: B pictures, H W pixels."""

import torch
from torch import Tensor


def psnr(pictures: Tensor, again: Tensor) -> float:
    """Peak signal-to-noise ratio in decibels, over all pictures together: (B, 3, H, W) in [-1, 1] each.

    Raises:
        ValueError: for different shapes.
    """
    error = (_same(pictures, again) / 2).square().mean()
    return (-10 * error.log10()).item()


def ssim(pictures: Tensor, again: Tensor) -> float:
    """Structural similarity, 1 for a copy (Wang et al. 2004, eq. 13), mean over the pictures; torchmetrics' code."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    _same(pictures, again)
    light = ((x.clamp(-1, 1) + 1) / 2 for x in (again, pictures))  # it compares lightness too, which is not negative
    return structural_similarity_index_measure(*light, data_range=1.0).item()


def _same(pictures: Tensor, again: Tensor) -> Tensor:
    if pictures.shape != again.shape:
        raise ValueError(f"compare pictures of one shape, got {tuple(pictures.shape)} and {tuple(again.shape)}")
    return again.clamp(-1, 1) - pictures


def active_units(codes: Tensor, threshold: float = 0.01) -> int:
    """Numbers of a code whose mean really varies over pictures, (N, D) (Burda et al. 2015, section 5.2)."""
    return int((torch.var(codes, dim=0) > threshold).sum())
