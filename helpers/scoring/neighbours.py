"""Is it memorising? The nearest training pictures of generated ones, and whether they are suspiciously near."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.data.faces import to_float

CHUNK = 512  # pictures held as floats at once: 25 MB at 64 px

Embed = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) in [-1, 1] -> vectors (B, D)


class Neighbours(NamedTuple):
    """The k nearest of each sample, nearest first."""

    indices: Tensor  # int64 (B, k), positions in the pictures that were searched
    distances: Tensor  # float32 (B, k), root mean square difference per number: of colours in [-1, 1], for pixels


class MemorizationReport(NamedTuple):
    """How near samples are to the training pictures, beside how near new pictures of the same kind are."""

    ratio: float  # median distance sample -> training over validation -> training: 1 is fine, towards 0 is copying
    suspects: Tensor  # int64, samples nearer to a training picture than 99 % of the validation pictures
    samples: Neighbours
    validation: Neighbours


def nearest(
    samples: Tensor | np.ndarray, images: Tensor | np.ndarray, k: int = 1, space: str | Embed = "pixels"
) -> Neighbours:
    """The k pictures nearest to every sample.

    Args:
        samples: (B, 3, H, W), float in [-1, 1] or uint8.
        images: (N, 3, H, W) of the same size, likewise; `faces.images`, also a memory map, is read in pieces.
        k: from 1 to N.
        space: "pixels", or a function to vectors, such as `AttributeClassifier.features`.

    Raises:
        ValueError: for sizes that differ, an unknown space, or k out of range.
    """
    if isinstance(space, str) and space != "pixels":
        raise ValueError(f"unknown space {space!r}: 'pixels', or a function from pictures to vectors")
    if samples.ndim != 4 or samples.shape[1:] != images.shape[1:]:
        raise ValueError(f"pictures of one size are compared, got {tuple(samples.shape)} and {tuple(images.shape)}")
    if not 1 <= k <= len(images):
        raise ValueError(f"k must lie between 1 and the number of pictures, {len(images)}, got {k}")
    wanted = torch.cat([_vectors(samples[i : i + CHUNK], space) for i in range(0, len(samples), CHUNK)])  # (B, D)
    best = torch.full((len(wanted), k), torch.inf)
    where = torch.zeros(len(wanted), k, dtype=torch.int64)
    for start in range(0, len(images), CHUNK):
        vectors = _vectors(images[start : start + CHUNK], space)  # (n, D)
        squares = vectors.square().sum(1) - 2 * wanted @ vectors.T  # (B, n), less |wanted|^2
        candidates = torch.arange(start, start + len(vectors)).expand(len(wanted), -1)
        best, order = torch.cat([best, squares], 1).topk(k, largest=False)
        where = torch.cat([where, candidates], 1).gather(1, order)
    return _measured(wanted, images, where, space)


def _vectors(pictures: Tensor | np.ndarray, space: str | Embed) -> Tensor:
    """float32 (B, D) on the CPU"""
    if not isinstance(pictures, Tensor) or pictures.dtype == torch.uint8:
        pictures = to_float(pictures)
    vectors = pictures if space == "pixels" else space(pictures)
    return vectors.detach().float().cpu().flatten(1)


def _measured(wanted: Tensor, images: Tensor | np.ndarray, where: Tensor, space: str | Embed) -> Neighbours:
    """The found ones measured again, by their differences: products lose the digits of very near ones."""
    distances = torch.empty(where.shape)
    for row, found in enumerate(where):
        others = _vectors(images[found.numpy() if isinstance(images, np.ndarray) else found], space)  # (k, D)
        distances[row] = (others - wanted[row]).square().mean(1).sqrt()
    distances, order = distances.sort(1)
    return Neighbours(where.gather(1, order), distances)


def memorization_check(
    samples: Tensor | np.ndarray,
    train: Tensor | np.ndarray,
    validation: Tensor | np.ndarray,
    space: str | Embed = "pixels",
) -> MemorizationReport:
    """Compare the distances sample -> nearest training picture with those of pictures the network has never seen.

    Args:
        samples: (B, 3, H, W), float in [-1, 1] or uint8, all generated.
        train: (N, 3, H, W), what the generator learned from.
        validation: (M, 3, H, W), of the same kind, not learned from.
        space: see `nearest`.

    Raises:
        ValueError: for sizes that differ, an unknown space, or no pictures.
    """
    if not (len(samples) and len(train) and len(validation)):
        raise ValueError(f"no pictures: {len(samples)} samples, {len(train)} train, {len(validation)} validation")
    sample = nearest(samples, train, 1, space)
    usual = nearest(validation, train, 1, space)
    ratio = sample.distances.median() / usual.distances.median()
    suspects = (sample.distances[:, 0] < usual.distances[:, 0].quantile(0.01)).nonzero()[:, 0]
    return MemorizationReport(ratio.item(), suspects, sample, usual)
