"""Precision and recall of generated images: how many look real, and how much of the real variety occurs."""

from typing import NamedTuple

import torch
from torch import Tensor


class PrecisionRecall(NamedTuple):
    """Shares, 0 to 1; either can be improved at the cost of the other, so print both."""

    precision: float  # of the samples that lie where real images lie: fidelity
    recall: float  # of the real images that lie where samples lie: diversity


def precision_recall(real: Tensor, samples: Tensor, k: int = 3) -> PrecisionRecall:
    """Compute precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2) from k-nearest-neighbour balls.

    Args:
        real: (N, D) features of training or held-out images.
        samples: (M, D) features by the same network; compare only results of equal N, M and k.
        k: which neighbour's distance is a ball's radius.

    Raises:
        ValueError: for other shapes, fewer than k + 1 features in a set, or values that are not finite.
    """
    if real.ndim != 2 or samples.ndim != 2 or real.shape[1] != samples.shape[1]:
        raise ValueError(
            f"two sets of features (N, D), (M, D) are needed, got {tuple(real.shape)}, {tuple(samples.shape)}"
        )
    if not 1 <= k < min(len(real), len(samples)):
        raise ValueError(
            f"k must lie between 1 and one less than the smaller set, got {k} for {len(real)} and "
            f"{len(samples)} features"
        )
    if not (real.isfinite().all() and samples.isfinite().all()):
        raise ValueError("there is NaN or infinity in the features")
    real = real.double()  # distances are small beside the features
    samples = samples.double()
    return PrecisionRecall(_share_inside(samples, real, k), _share_inside(real, samples, k))


def _share_inside(points: Tensor, centres: Tensor, k: int) -> float:
    """Share of `points` inside the union of balls around `centres`.

    A ball's radius is the distance to the k-th nearest other centre.
    """
    radii = torch.cdist(centres, centres).kthvalue(k + 1, dim=1).values  # the nearest of all is itself
    return (torch.cdist(points, centres) <= radii).any(1).float().mean().item()
