"""Summarise a collection of faces without showing any one of them: counts, colours, averages, duplicates.

The photographs of the course may not be republished; averages over many of them may. `python -m benchmarks
animal_faces` summarises them once, and what it writes ships with the course. Alphabet: N images, K = 3 classes,
H = W = size.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.course import repository_root
from helpers.data.duplicates import near_duplicates
from helpers.data.faces import Faces, to_float, to_uint8

BINS = 32  # of a colour histogram, from -1 to 1
SHOWN = 11  # eigenfaces that are kept
COMPONENTS = 300  # whose share of the variance is kept
THRESHOLDS = (0.88, 0.93, 0.97)  # correlations from which a pair counts as near-duplicate
RECORD = "00_assets/results/animal_faces"  # .json and .npz
TENSORS = ("means", "deviations", "histograms", "eigenfaces", "explained")


@dataclass(frozen=True, eq=False)
class Summary:
    """Counts of a whole collection, and averages over equally many images of each class."""

    counts: dict[str, dict[str, int]]  # split -> class -> images
    averaged: int  # images in the averages, equally many of each class
    colours: dict[str, dict[str, float]]  # class -> mean of red, green, blue, and standard deviation of all values
    duplicates: dict[str, dict[str, int]]  # where -> threshold -> pairs of near-duplicates
    nearest_mean_accuracy: float  # of the classifier that picks the nearest mean face, on val
    means: Tensor  # (K, 3, H, W) mean face of each class, in [-1, 1]
    deviations: Tensor  # (K, 1, H, W) standard deviation of each pixel, mean over the channels
    histograms: Tensor  # (K, 3, BINS) share of the pixels of class and channel in each bin
    eigenfaces: Tensor  # (SHOWN, 3, H, W), each stretched so that its peak is 1
    explained: Tensor  # (COMPONENTS,) share of the variance explained by the first 1, 2, ...
    files: dict[str, dict[str, float]] | None = None  # class -> native size and bytes, where there are files


def summarise(train: Faces, val: Faces, files: dict | None = None) -> Summary:
    """Summarise a collection.

    Args:
        train: its training images; the averages are taken over these, equally many of each class.
        val: held-out images of the same size, for the accuracy and for near-duplicates across the two sets.
        files: what `file_statistics` says, where the images came from files.

    Raises:
        ValueError: if the sizes differ, or a class has no training image.
    """
    if train.size != val.size:
        raise ValueError(f"train has {train.size} px and val {val.size} px: load both at one size")
    if not all(train.counts.values()):
        raise ValueError(f"every class needs a training image, got {train.counts}")
    balanced = _balanced(train)
    x = balanced.tensor()  # (N, 3, H, W)
    per_class = [balanced.of_class(name).tensor() for name in train.class_names]
    means = torch.stack([images.mean(0) for images in per_class])
    eigenfaces, explained = principal_components(x)
    return Summary(
        counts={"train": train.counts, "val": val.counts},
        averaged=len(x),
        colours={name: _colours(images) for name, images in zip(train.class_names, per_class, strict=True)},
        duplicates={
            "within train": _count_duplicates(train.images),
            "across val and train": _count_duplicates(val.images, train.images),
        },
        nearest_mean_accuracy=_nearest_mean_accuracy(means, val),
        means=means,
        deviations=torch.stack([images.std(0).mean(0, keepdim=True) for images in per_class]),
        histograms=torch.stack([_histogram(images) for images in per_class]),
        eigenfaces=eigenfaces,
        explained=explained,
        files=files,
    )


def principal_components(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first eigenfaces, and the share of the variance that the first 1, 2, ... components explain.

    As in notebook 01, section 5: the small matrix of inner products between images has the same eigenvalues as the
    large covariance matrix of pixels.

    Args:
        x: float32 (N, 3, H, W).

    Returns:
        (SHOWN, 3, H, W), each stretched so that its peak is 1, and (COMPONENTS,); fewer where N is smaller.
    """
    flat = x.flatten(1)  # (N, D)
    centred = flat - flat.mean(0)
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # ascending
    values = values.flip(0)
    eigenfaces = (centred.T @ vectors.flip(1)[:, :SHOWN]).T  # (SHOWN, D), not of length 1
    peaks = eigenfaces.gather(1, eigenfaces.abs().argmax(1, keepdim=True))  # (SHOWN, 1), with their signs
    stretched = eigenfaces / peaks  # the sign of an eigenvector is arbitrary
    explained = (values / centred.square().sum()).cumsum(0)[:COMPONENTS]
    return stretched.unflatten(1, x.shape[1:]), explained


def file_statistics(split: str = "train", size: int = 128, root: str | Path | None = None) -> dict[str, dict]:
    """Return sizes of the photographs' files, read without decoding them.

    Args:
        split: "train" or "val".
        size: if there are several editions, the one with at least this many pixels a side.
        root: where the photographs are; None looks in the usual places.

    Returns:
        class -> the smallest and the largest native size in pixels, and the median size of a file in kilobytes.

    Raises:
        FileNotFoundError: if there are no photographs.
        ValueError, PermissionError: as `find` and `scan`.
    """
    from helpers.data.animal_faces import find
    from helpers.data.collection import scan
    from helpers.data.faces import CLASS_NAMES
    from helpers.data.images import native_size

    collection = find(root, size, split)
    entries = scan(collection, split).entries
    statistics = {}
    for label, name in enumerate(CLASS_NAMES):
        of_class = [entry for entry in entries if entry.label == label]
        sides = [native_size(collection.read(entry)) for entry in of_class]
        sizes = [side for side in sides if side]
        kilobytes = float(np.median([entry.bytes for entry in of_class])) / 1000
        statistics[name] = {"smallest px": min(sizes), "largest px": max(sizes), "median kB": round(kilobytes, 1)}
    return statistics


def save_summary(summary: Summary, path: str | Path) -> None:
    """Write a summary to `path`.json and `path`.npz; images as bytes, so that both together stay below 300 kB."""
    path = Path(path)
    statistics = {name: value for name, value in asdict(summary).items() if name not in TENSORS}
    path.with_suffix(".json").write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(
        path.with_suffix(".npz"),
        means=to_uint8(summary.means).numpy(),
        deviations=summary.deviations.half().numpy(),
        histograms=summary.histograms.numpy(),
        eigenfaces=to_uint8(summary.eigenfaces).numpy(),
        explained=summary.explained.numpy(),
    )


def load_summary(path: str | Path | None = None) -> Summary:
    """Load a summary that `save_summary` wrote; None: that of the photographs, which ships with the course.

    Raises:
        FileNotFoundError: if one of the two files is missing.
    """
    path = repository_root() / RECORD if path is None else Path(path)
    statistics = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in TENSORS}
    for name in ("means", "eigenfaces"):
        tensors[name] = to_float(tensors[name])
    tensors["deviations"] = tensors["deviations"].float()
    return Summary(**(statistics | tensors))


def _colours(x: Tensor) -> dict[str, float]:
    """Mean of each channel, and standard deviation of all values, of images (N, 3, H, W)."""
    red, green, blue = x.mean((0, 2, 3)).tolist()
    colours = {"mean R": red, "mean G": green, "mean B": blue, "std": x.std().item()}
    return {name: round(value, 4) for name, value in colours.items()}


def _histogram(x: Tensor) -> Tensor:
    """Share of the pixels of (N, 3, H, W) in each bin, by channel: (3, BINS)."""
    counts = torch.stack([torch.histc(x[:, channel], bins=BINS, min=-1, max=1) for channel in range(3)])
    return counts / counts.sum(1, keepdim=True)


def _count_duplicates(
    a: np.ndarray, b: np.ndarray | None = None, thresholds: Sequence[float] = THRESHOLDS
) -> dict[str, int]:
    """threshold -> pairs whose correlation reaches it."""
    pairs = near_duplicates(a, b, min(thresholds))
    return {str(threshold): sum(pair.correlation >= threshold for pair in pairs) for threshold in thresholds}


def _nearest_mean_accuracy(means: Tensor, val: Faces) -> float:
    """Share of images whose nearest mean face is their class's; equally many of each class, so chance is 1 / K."""
    balanced = _balanced(val)
    nearest = torch.cdist(balanced.tensor().flatten(1), means.flatten(1)).argmin(1)
    correct = nearest == torch.from_numpy(balanced.labels)
    return round(correct.float().mean().item(), 4)


def _balanced(faces: Faces) -> Faces:
    """The first images of each class, equally many: as many as the smallest class has."""
    smallest = min(faces.counts.values())
    labels = range(len(faces.class_names))
    return faces[np.concatenate([np.flatnonzero(faces.labels == label)[:smallest] for label in labels])]
