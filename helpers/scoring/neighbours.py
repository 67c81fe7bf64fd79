"""Memorization: find the training images nearest to generated ones, and test whether they are suspiciously near."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.data.faces import to_float

CHUNK = 512  # images held as floats at once: 25 MB at 64 px

Embed = Callable[[Tensor], Tensor]  # images (B, 3, H, W) in [-1, 1] -> vectors (B, D)


class Neighbours(NamedTuple):
    """The k nearest neighbours of each sample, nearest first."""

    indices: Tensor  # int64 (B, k), rows of the images that were searched
    distances: Tensor  # float32 (B, k), root mean square difference per dimension: of colours in [-1, 1], for pixels


class MemorizationReport(NamedTuple):
    """Distances of samples to their nearest training images, beside those of held-out images."""

    ratio: float  # median distance sample -> training over validation -> training: 1 is fine, towards 0 is copying
    suspects: Tensor  # int64, samples nearer to a training image than 99 % of the validation images
    samples: Neighbours
    validation: Neighbours


def nearest(
    samples: Tensor | np.ndarray, images: Tensor | np.ndarray, k: int = 1, space: str | Embed = "pixels"
) -> Neighbours:
    """Find the k nearest neighbours of every sample.

    Args:
        samples: (B, 3, H, W), float in [-1, 1] or uint8.
        images: (N, 3, H, W) of the same size, likewise; `faces.images`, also a memory map, is read in chunks.
        k: from 1 to N.
        space: where distances are measured: "pixels", or an embedding such as `AttributeClassifier.features`.

    Raises:
        ValueError: for sizes that differ, an unknown space, or k out of range.
    """
    if isinstance(space, str) and space != "pixels":
        raise ValueError(f"unknown space {space!r}: 'pixels', or a function from images to vectors")
    if samples.ndim != 4 or samples.shape[1:] != images.shape[1:]:
        raise ValueError(f"images of one size are compared, got {tuple(samples.shape)} and {tuple(images.shape)}")
    if not 1 <= k <= len(images):
        raise ValueError(f"k must lie between 1 and the number of images, {len(images)}, got {k}")
    queries = torch.cat([_embed(samples[i : i + CHUNK], space) for i in range(0, len(samples), CHUNK)])  # (B, D)
    best = torch.full((len(queries), k), torch.inf)
    indices = torch.zeros(len(queries), k, dtype=torch.int64)
    for start in range(0, len(images), CHUNK):
        vectors = _embed(images[start : start + CHUNK], space)  # (n, D)
        squares = vectors.square().sum(1) - 2 * queries @ vectors.T  # (B, n), less |query|^2
        candidates = torch.arange(start, start + len(vectors)).expand(len(queries), -1)
        best, order = torch.cat([best, squares], 1).topk(k, largest=False)
        indices = torch.cat([indices, candidates], 1).gather(1, order)
    return _remeasured(queries, images, indices, space)


def _embed(images: Tensor | np.ndarray, space: str | Embed) -> Tensor:
    """float32 (B, D) on the CPU"""
    x = images if isinstance(images, Tensor) and images.dtype != torch.uint8 else to_float(images)
    vectors = x if isinstance(space, str) else space(x)
    return vectors.detach().float().cpu().flatten(1)


def _remeasured(queries: Tensor, images: Tensor | np.ndarray, indices: Tensor, space: str | Embed) -> Neighbours:
    """The neighbours, sorted by distances recomputed from differences.

    The matrix product of `nearest` loses the digits of near duplicates.
    """
    distances = torch.empty(indices.shape)
    for row, neighbours in enumerate(indices):
        selected = images[neighbours.numpy()] if isinstance(images, np.ndarray) else images[neighbours]
        distances[row] = (_embed(selected, space) - queries[row]).square().mean(1).sqrt()  # (k,)
    distances, order = distances.sort(1)
    return Neighbours(indices.gather(1, order), distances)


def memorization_check(
    samples: Tensor | np.ndarray,
    train: Tensor | np.ndarray,
    validation: Tensor | np.ndarray,
    space: str | Embed = "pixels",
) -> MemorizationReport:
    """Compare how near generated and held-out images are to their nearest training images.

    Args:
        samples: (B, 3, H, W), float in [-1, 1] or uint8, all generated.
        train: (N, 3, H, W), the generator's training images.
        validation: (M, 3, H, W), from the same distribution, not trained on.
        space: see `nearest`.

    Raises:
        ValueError: for sizes that differ, an unknown space, or no images.
    """
    if not (len(samples) and len(train) and len(validation)):
        raise ValueError(f"no images: {len(samples)} samples, {len(train)} train, {len(validation)} validation")
    of_samples = nearest(samples, train, 1, space)
    of_validation = nearest(validation, train, 1, space)
    ratio = of_samples.distances.median() / of_validation.distances.median()
    suspects = (of_samples.distances[:, 0] < of_validation.distances[:, 0].quantile(0.01)).nonzero()[:, 0]
    return MemorizationReport(ratio.item(), suspects, of_samples, of_validation)
