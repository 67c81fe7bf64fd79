"""Find near-duplicates: images that occur twice, cropped, brightened or compressed differently (notebook 01).

Two stages: a 64-bit difference hash proposes pairs, the correlation of their pixels decides.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.data.faces import to_float

MAX_BITS = 6  # hashes that differ in more bits are not compared further
THRESHOLD = 0.93  # correlation of the pixels from which a pair counts as near-duplicate
ROWS = 500  # hashes compared with all others at a time, and pairs correlated at a time


class Pair(NamedTuple):
    """Two images that are nearly the same."""

    first: int  # row of the first set
    second: int  # row of the second set
    correlation: float  # of their pixels, 1 for equal up to brightness and contrast


def difference_hash(images: np.ndarray) -> Tensor:
    """Return 64 signs per image: is the right neighbour brighter, on 9 x 8 grey pixels?

    Args:
        images: uint8 (N, 3, H, W).

    Returns:
        float32 (N, 64), each 1 or -1.
    """
    grey = torch.from_numpy(np.array(images)).float().mean(1, keepdim=True)
    small = F.interpolate(grey, (8, 9), mode="area")[:, 0]  # (N, 8, 9)
    return torch.where(small.diff(dim=-1).flatten(1) > 0, 1.0, -1.0)


def correlation(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Return the correlation of uint8 images (P, 3, H, W), pair by pair: float32 (P,)."""
    x = to_float(a).flatten(1)
    y = to_float(b).flatten(1)
    return F.cosine_similarity(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def near_duplicates(a: np.ndarray, b: np.ndarray | None = None, threshold: float = THRESHOLD) -> list[Pair]:
    """Return the pairs of images whose pixels correlate at least as much as the threshold, most alike first.

    Args:
        a: uint8 (N, 3, H, W).
        b: uint8 (M, 3, H, W) of the same size; None compares `a` with itself, each pair once.
        threshold: smallest correlation of a near-duplicate.
    """
    others = a if b is None else b
    measured = []
    for pairs in _candidates(a, others).split(ROWS):
        if b is None:
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        rows = pairs[:, 0].numpy()
        columns = pairs[:, 1].numpy()
        correlations = correlation(a[rows], others[columns])
        measured += [Pair(*pair) for pair in zip(rows.tolist(), columns.tolist(), correlations.tolist(), strict=True)]
    return sorted((pair for pair in measured if pair.correlation >= threshold), key=lambda pair: -pair.correlation)


def _candidates(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Pairs (P, 2) of rows whose hashes differ in at most MAX_BITS bits."""
    hashes = difference_hash(b).T
    candidates = []
    for start, rows in enumerate(difference_hash(a).split(ROWS)):
        bits = (64 - rows @ hashes) / 2  # (ROWS, M) how many bits differ
        candidates.append(torch.nonzero(bits <= MAX_BITS) + torch.tensor([start * ROWS, 0]))
    return torch.cat(candidates)
