"""Validation: the loss on held-out images at fixed noise, level by level, beside the losses that help to read it.

The training loss jumps from batch to batch, since every batch has other images, times and noise. Here all of them stay
the same, so that two values differ only by what the network has learned in between. The noise levels divide those of
the training into equal shares, so the mean compares with the training loss.

Alphabet: N images, C h w channels, height and width of their latents, L tokens of a caption.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.data import Faces
from helpers.tiny_sd.batches import caption_table
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.unet import NO_CLASS

QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the training's times: every image is noised at each of these
IMAGES = 32  # held out, and as many of the training images
TIMES = 100_000  # that are sampled to find the quantiles


class Batch(NamedTuple):
    """Images with their conditions."""

    latents: Tensor  # (N, C, h, w)
    labels: Tensor  # int64 (N,)
    captions: Tensor | None  # int64 (N, L)

    def without_conditions(self) -> Batch:
        """The same images, with class and caption dropped."""
        captions = None if self.captions is None else torch.zeros_like(self.captions)
        return Batch(self.latents, torch.full_like(self.labels, NO_CLASS), captions)


class Validation:
    """Measures a training from time to time, always on the same images with the same noise."""

    def __init__(self, model: TinySD, training: Faces, held_out: Faces, device: torch.device | str = "cpu"):
        """
        Args:
            model: its codec is on `device`.
            training, held_out: the first IMAGES of each are used.
        """
        self.training = _batch(model, training[:IMAGES], device)
        self.held_out = _batch(model, held_out[:IMAGES], device)
        generator = torch.Generator().manual_seed(0)
        times = model.objective.sample_times(TIMES, generator)
        self.levels = [round(t, 2) for t in times.quantile(torch.tensor(QUANTILES)).tolist()]
        shape = (len(self.levels), IMAGES, *self.held_out.latents.shape[1:])
        self.noise = torch.randn(shape, generator=generator).to(device)  # (levels, N, C, h, w)

    @torch.no_grad()
    def __call__(self, average: TinySD, current: TinySD) -> dict[str, Any]:
        """Measure the averaged weights and the current ones.

        Returns:
            "loss": mean loss of the average on the held-out images, and "by_noise_level" its parts;
            "training_loss": the same on training images: far smaller where they are learned by heart;
            "unconditional_loss": without class and caption: no larger than "loss" where these are not used;
            "current_loss": of the current weights: far smaller where the average lags behind.
        """
        current.eval()
        by_level = self._by_level(average, self.held_out)
        return {
            "loss": by_level.mean().item(),
            "by_noise_level": {f"{t:g}": loss for t, loss in zip(self.levels, by_level.tolist(), strict=True)},
            "training_loss": self._by_level(average, self.training).mean().item(),
            "unconditional_loss": self._by_level(average, self.held_out.without_conditions()).mean().item(),
            "current_loss": self._by_level(current, self.held_out).mean().item(),
        }

    def _by_level(self, model: TinySD, batch: Batch) -> Tensor:
        """The mean loss at every noise level, (levels,)."""
        count = len(batch.latents)
        losses = []
        for t, noise in zip(self.levels, self.noise, strict=True):
            times = torch.full((count,), t, device=noise.device)
            losses.append(model.denoising_losses(batch.latents, noise[:count], times, batch.labels, batch.captions))
        return torch.stack([loss.mean() for loss in losses]).cpu()


def _batch(model: TinySD, faces: Faces, device: torch.device | str) -> Batch:
    """Encode these images; of each the first caption."""
    captions = caption_table(faces, model.tokenizer)
    latents = model.codec.encode(faces.tensor(device=device))
    labels = torch.from_numpy(faces.labels).long().to(device)
    return Batch(latents, labels, None if captions is None else captions[:, 0].to(device))
