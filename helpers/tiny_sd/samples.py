"""A grid of samples on the way of a training, and numbers that say whether they look like the training images."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

import torch
from torch import Tensor

from helpers.data import Faces
from helpers.scoring.neighbours import nearest
from helpers.tiny_sd.model import TinySD

COLUMNS = 8  # samples of each class or caption
MAX_CAPTIONS = 6  # in a grid
MAX_ROWS = 12  # classes in a grid
COMPARED = 64  # training images whose colours are measured
SEARCHED = 5000  # training images among which copies are looked for
FARTHER = 10  # the nearest neighbour is compared with the tenth
AGREEMENT = 1000  # training images whose nearest neighbours' classes are compared
MIN_AGREEMENT = 100
THUMBNAIL = 8  # pixels per side, for that comparison
COPIED = 0.4  # a nearest neighbour at less than this share of that distance is a copy (Carlini et al. 2023, sec. 5.1)


class Samples:
    """Writes grids of generated images, and measures them."""

    def __init__(self, training: Faces, with_captions: bool = False):
        """
        Args:
            training: images.
            with_captions: the network is conditioned on the images' own captions, and samples are generated from these.
        """
        self.training = training
        distinct = dict.fromkeys(filter(None, training.captions or ())) if with_captions else {}
        self.prompts = list(distinct)[:MAX_CAPTIONS]
        self.reference = image_statistics(training.tensor(slice(0, COMPARED)))

    def __call__(self, average: TinySD, path: Path) -> dict[str, Any]:
        """Write a row of samples for each of the first captions, or classes.

        Returns:
            The statistics of the samples ("samples") and of training images ("training_images"), and "copied", the
            share of samples that repeat a training image.
        """
        from helpers.show.figures import compare, grid, save_png

        if self.prompts:
            rows = {_as_label(prompt): average.generate(prompts=[prompt] * COLUMNS) for prompt in self.prompts}
            images = torch.cat(list(rows.values()))
            save_png(compare(rows), path)
        else:
            labels = torch.arange(min(len(average.class_names), MAX_ROWS)).repeat_interleave(COLUMNS).tolist()
            images = average.generate(labels)
            save_png(grid(images, columns=COLUMNS), path)
        return {
            "samples": image_statistics(images),
            "training_images": self.reference,
            "copied": copied_share(images, self.training),
        }


def _as_label(caption: str) -> str:
    """A caption in lines beside its row, shortened."""
    return fill(caption, 24, max_lines=3, placeholder=" ...")


def image_statistics(images: Tensor) -> dict[str, float]:
    """Describe images (N, 3, H, W) in [-1, 1] by a few numbers.

    Returns:
        "mean" and "std" of all values; "roughness": the mean squared difference of neighbours in a row over twice the
        variance, 1 for white noise and nearly 0 for smooth images; "saturated": the share of values at either end;
        "diversity": the standard deviation over the images, mean over the positions.
    """
    variance = images.var().item()
    steps = (images[..., 1:] - images[..., :-1]).square().mean().item()
    return {
        "mean": round(images.mean().item(), 4),
        "std": round(variance**0.5, 4),
        "roughness": round(steps / max(2 * variance, 1e-8), 4),
        "saturated": round((images.abs() > 0.99).float().mean().item(), 4),
        "diversity": round(images.std(0).mean().item(), 4) if len(images) > 1 else 0.0,
    }


def copied_share(images: Tensor, training: Faces) -> float | None:
    """The share of images (N, 3, H, W) that lie much nearer to one training image than to the tenth nearest.

    Mirrored copies count. None where there are too few training images to tell.
    """
    searched = training.images[:SEARCHED]
    if len(searched) < 4 * FARTHER:
        return None
    upright = nearest(images, searched, FARTHER).distances  # (N, FARTHER)
    mirrored = nearest(images.flip(-1), searched, FARTHER).distances
    ratios = torch.minimum(upright[:, 0] / upright[:, -1], mirrored[:, 0] / mirrored[:, -1])
    return round((ratios < COPIED).float().mean().item(), 4)


def label_agreement(faces: Faces) -> dict[str, float] | None:
    """How often the most similar other image, by its colours, has the same class.

    Returns:
        "nearest": the share where it has; "chance": of two images taken at random, with the "standard_error" that the
        share then has. None for one class, and for too few images to tell.
    """
    chosen = faces[:AGREEMENT]
    counts = torch.bincount(torch.from_numpy(chosen.labels))
    if len(chosen) < MIN_AGREEMENT or (counts > 0).sum() < 2:
        return None
    small = torch.nn.functional.adaptive_avg_pool2d(chosen.tensor(), THUMBNAIL)
    other = nearest(small, small, 2).indices[:, 1]  # the nearest is the image itself
    labels = torch.from_numpy(chosen.labels)
    chance = (counts / len(chosen)).square().sum().item()
    return {
        "nearest": round((labels[other] == labels).float().mean().item(), 4),
        "chance": round(chance, 4),
        "standard_error": round((chance * (1 - chance) / len(chosen)) ** 0.5, 4),
    }
