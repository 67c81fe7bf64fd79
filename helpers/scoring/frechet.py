"""The distance between two sets of images: the Frechet distance and the kernel distance of their features.

The features are those of the course's own classifier (`helpers.scoring.attributes`), not of the Inception network that
published FID and KID values are computed with: these numbers compare with each other, never with those of a paper.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

MAX_SUBSET = 1000  # rows of a subset that the standard error is estimated from
CHUNK = 2048  # rows of a kernel matrix held at once


class Distance(NamedTuple):
    """A distance between two sets; print it with its standard error and its counts, without which it says little."""

    value: float
    stderr: float  # standard error of `value`; nan if it was not estimated
    counts: tuple[int, int]  # how many features each set had

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.stderr:.2g} (n = {self.counts[0]}, {self.counts[1]})"


def frechet_distance(features_a: Tensor, features_b: Tensor, repeats: int = 0, seed: int = 0) -> Distance:
    """Compute the Frechet distance of two Gaussians with the sets' means and covariances (Heusel et al. 2017, eq. 6).

        |mean_a - mean_b|^2 + trace(C_a + C_b - 2 (C_a C_b)^(1/2))

    Few features make it larger: with n of the order of D it is mostly bias, and it falls as n grows. Compare only sets
    of equal n, always print n, and prefer `kernel_distance` below a few thousand.

    Args:
        features_a: (n, D), n >= 2; n may be smaller than D.
        features_b: (m, D), m >= 2.
        repeats: half-samples that the standard error is estimated from; 0: none.
        seed: of the half-samples.

    Raises:
        ValueError: for other shapes, fewer than two rows, or values that are not finite.
    """
    a, b = _checked(features_a, features_b)
    return _with_stderr(_frechet, a, b, repeats, seed)


def _frechet(a: Tensor, b: Tensor) -> float:
    # With C_a = A^T A and C_b = B^T B, C_a C_b has the eigenvalues of (A B^T)(A B^T)^T: the trace of its root is the
    # sum of the singular values of A B^T. No matrix square root, and exact when C_a is singular.
    root_a = _root(a)
    root_b = _root(b)
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    squares = (a.mean(0) - b.mean(0)).square().sum() + root_a.square().sum() + root_b.square().sum()
    return max(0.0, (squares - 2 * shared).item())


def _root(features: Tensor) -> Tensor:
    """A matrix A (min(n, D), D) with A^T A = the covariance."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return centred if len(centred) <= centred.shape[1] else torch.linalg.qr(centred, mode="r").R


def kernel_distance(features_a: Tensor, features_b: Tensor, repeats: int = 0, seed: int = 0) -> Distance:
    """Compute the unbiased squared maximum mean discrepancy under (x.y / D + 1)^3 (KID, Binkowski et al. 2018).

    Zero on average for two samples of one distribution, at any n, and therefore sometimes below zero.

    Args:
        features_a: (n, D), n >= 2.
        features_b: (m, D), m >= 2.
        repeats: half-samples that the standard error is estimated from; 0: none.
        seed: of the half-samples.

    Raises:
        ValueError: for other shapes, fewer than two rows, or values that are not finite.
    """
    a, b = _checked(features_a, features_b)
    return _with_stderr(_kernel, a, b, repeats, seed)


def _kernel(a: Tensor, b: Tensor) -> float:
    n = len(a)
    m = len(b)
    within_a = (_kernel_sum(a, a) - _cubic((a * a).sum(1), a).sum()) / (n * (n - 1))  # without i = j: hence unbiased
    within_b = (_kernel_sum(b, b) - _cubic((b * b).sum(1), b).sum()) / (m * (m - 1))
    return (within_a + within_b - 2 * _kernel_sum(a, b) / (n * m)).item()


def _cubic(products: Tensor, features: Tensor) -> Tensor:
    """The kernel, from inner products of D-dimensional features."""
    return (products / features.shape[1] + 1) ** 3


def _kernel_sum(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the kernel over all pairs of a and b."""
    return torch.stack([_cubic(rows @ b.T, b).sum() for rows in a.split(CHUNK)]).sum()


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets as float64 without gradients. Raises ValueError for wrong shapes and values that are not finite."""
    for features in (a, b):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != a.shape[1]:
            raise ValueError(
                "two sets of features (n, D) and (m, D) with n, m >= 2 are needed, "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        if not features.isfinite().all():
            raise ValueError("there is NaN or infinity in the features")
    return a.detach().double(), b.detach().double()


def _with_stderr(
    distance: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor, repeats: int, seed: int
) -> Distance:
    """The distance of all features, and its standard error from subsets without replacement.

    A bootstrap repeats features, which both distances take for structure. A share s of n features varies by
    (1 - s) / s of the variance at n (the finite-population correction; none at s = 1/2): Politis & Romano 1994.
    """
    counts = (len(a), len(b))
    stderr = float("nan")
    if repeats == 1 or repeats < 0:
        raise ValueError(f"a standard error needs at least 2 repeats (0: none), got {repeats}")
    if repeats and min(counts) >= 4:
        share = min(0.5, MAX_SUBSET / max(counts))
        generator = torch.Generator().manual_seed(seed)
        values = [distance(_subset(a, share, generator), _subset(b, share, generator)) for _ in range(repeats)]
        stderr = torch.tensor(values).std().item() * (share / (1 - share)) ** 0.5
    return Distance(distance(a, b), stderr, counts)


def _subset(features: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A random share of the rows, at least two."""
    return features[torch.randperm(len(features), generator=generator)[: max(2, round(share * len(features)))]]
