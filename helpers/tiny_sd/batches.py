"""Training batches: which images, which noise, which conditions are dropped; all a function of (seed, step).

Alphabet: N images, B batch, V caption variants of an image, L tokens of a caption, C channels of the latents, h w their
height and width. With the pixel codec the "latents" are the images themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from helpers.autoencoders.latents import Latents
from helpers.data import Faces
from helpers.data.captions import CAPTION_VARIANTS, caption_variants, tokenize
from helpers.tiny_sd.augment import apply_augmentation, sample_augmentation
from helpers.tiny_sd.codecs import LatentCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.own_captions import CaptionTokenizer
from helpers.tiny_sd.unet import NO_CLASS
from helpers.training.processes import SingleProcess, process_share

if TYPE_CHECKING:
    from accelerate import Accelerator


class Details(NamedTuple):
    """What one batch consisted of, this process's share, detached: for plotting the loss against t, and for the log."""

    times: Tensor  # (B,)
    losses: Tensor  # (B,)
    latents: Tensor  # (B, C, h, w) what is diffused
    labels: Tensor  # int64 (B,), NO_CLASS where dropped

    def summary(self) -> dict[str, float]:
        """Numbers for the log: what the network was fed, and how noisy."""
        return {
            "input_mean": round(self.latents.mean().item(), 4),
            "input_std": round(self.latents.std().item(), 4),
            "input_min": round(self.latents.min().item(), 4),
            "input_max": round(self.latents.max().item(), 4),
            "input_diversity": round(self.latents.std(0).mean().item(), 4) if len(self.latents) > 1 else 1.0,
            "conditioned": round((self.labels != NO_CLASS).float().mean().item(), 4),
            "classes": len(self.labels.unique()),
            "time_mean": round(self.times.mean().item(), 4),
            "time_std": round(self.times.std(correction=0).item(), 4),
        }


def caption_table(faces: Faces, tokenizer: CaptionTokenizer | None = None, seed: int = 0) -> Tensor | None:
    """The tokens of the caption variants of every image: int64 (N, V, L), or None for images without captions.

    Args:
        faces: synthetic faces have several captions each, other images one.
        tokenizer: of captions in anybody's words; None: only synthetic faces have captions.
        seed: of the variants.
    """
    if tokenizer is not None and faces.captions is not None:
        return tokenizer(faces.captions, warn=False)[:, None]
    if faces.attributes is None:
        return None
    captions = caption_variants(faces.attributes, CAPTION_VARIANTS, seed)
    return tokenize(captions).unflatten(0, (len(faces), CAPTION_VARIANTS))


@dataclass
class Batches:
    """Samples training batches and computes their losses, for `helpers.training.train`.

    Classes are equally frequent however many images each has; half of the images are mirrored; conditions are
    dropped per example, so that one batch holds every combination.
    """

    faces: Faces
    batch_size: int  # of all processes together
    p_uncond: float = 0.1  # probability of dropping class and caption together (Ho & Salimans 2022, algorithm 1)
    p_drop_class: float = 0.1  # probability of dropping the class alone
    p_drop_caption: float = 0.1  # probability of dropping the caption alone
    flip: bool = True
    augment: float = 0.0  # probability of each non-leaking augmentation of an image
    accelerator: Accelerator | SingleProcess = SingleProcess()  # which says what share of a batch is this process's
    latents: Latents | None = None  # of these faces, encoded once; None: the codec encodes every batch
    tokenizer: CaptionTokenizer | None = None  # of the captions; None: only synthetic faces have any

    def __post_init__(self):
        if self.latents is not None and len(self.latents) != len(self.faces):
            raise ValueError(f"latents of {len(self.latents)} images, but {len(self.faces)} faces")
        if self.latents is not None and self.augment:
            raise ValueError("latents that were encoded before cannot be augmented: augment=0")
        if self.batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be shared by {self.accelerator.num_processes} processes: "
                "make it a multiple"
            )
        if self.faces.split != "train":
            raise ValueError(f"training must not see the {self.faces.split!r} images: load_faces(..., split='train')")
        self.captions = caption_table(self.faces, self.tokenizer)
        by_class = [np.flatnonzero(self.faces.labels == label) for label in range(len(self.faces.class_names))]
        self.indices_by_class = [torch.from_numpy(indices) for indices in by_class if len(indices)]

    def sample_indices(self, generator: torch.Generator) -> Tensor:
        """Sample images, int64 (B,): a class uniformly, then one of its images."""
        classes = torch.randint(len(self.indices_by_class), (self.batch_size,), generator=generator)
        u = torch.rand(self.batch_size, generator=generator, dtype=torch.float64)
        sizes = torch.tensor([len(indices) for indices in self.indices_by_class])
        within = (u * sizes[classes]).long()
        pairs = zip(classes.tolist(), within.tolist(), strict=True)
        return torch.stack([self.indices_by_class[label][index] for label, index in pairs])

    def sample_conditions(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Sample the conditions of these images: a caption variant each, and which conditions are dropped.

        Args:
            indices: int64 (B,).

        Returns:
            Labels int64 (B,), NO_CLASS where dropped, and captions int64 (B, L), zeros where dropped, or None.
        """
        u = torch.rand(self.batch_size, generator=generator)
        variants = CAPTION_VARIANTS if self.captions is None else self.captions.shape[1]
        variant = torch.randint(variants, (self.batch_size,), generator=generator)
        labels = torch.from_numpy(self.faces.labels[indices.numpy()].astype(np.int64))
        if self.captions is None:
            return torch.where(u < self.p_uncond, NO_CLASS, labels), None
        no_class = u < self.p_uncond + self.p_drop_class
        no_caption = (u < self.p_uncond) | (u > 1 - self.p_drop_caption)
        return torch.where(no_class, NO_CLASS, labels), self.captions[indices, variant] * ~no_caption[:, None]

    def losses(self, model: nn.Module, generator: torch.Generator) -> tuple[Tensor, Details]:
        """Compute this process's share of the step's losses, (B,); every process samples the whole batch."""
        system = _unwrapped(model)
        device = next(model.parameters()).device
        indices = self.sample_indices(generator)
        labels, captions = self.sample_conditions(indices, generator)
        mirrored = (torch.rand(self.batch_size, generator=generator) < 0.5) & self.flip
        times = system.objective.sample_times(self.batch_size, generator)
        augmentation = sample_augmentation(self.batch_size, self.augment, generator) if self.augment else None
        latents = self.latents_of(
            system, self._share(indices), self._share(mirrored), device, self._optional_share(augmentation)
        )
        eps = torch.randn((self.batch_size, *latents.shape[1:]), generator=generator)
        arguments = [self._optional_share(x) for x in (eps, times, labels, captions, augmentation)]
        on_device = [None if x is None else x.to(device, non_blocking=True) for x in arguments]
        losses = model(latents, *on_device)
        return losses, Details(self._share(times), losses.detach().float().cpu(), latents.detach(), self._share(labels))

    def latents_of(
        self,
        system: TinySD,
        indices: Tensor,
        mirrored: Tensor,
        device: torch.device,
        augmentation: Tensor | None = None,
    ) -> Tensor:
        """The latents of these images, normalised, (B, C, h, w): looked up if they were encoded before.

        Args:
            indices: int64 (B,); mirrored: bool (B,).
            augmentation: (B, PARAMETERS) or None.
        """
        if self.latents is not None:
            if not isinstance(system.codec, LatentCodec):
                raise ValueError(f"these batches hold latents, the codec {system.codec.name!r} has none")
            stored = self.latents.values[indices.numpy(), mirrored.long().numpy()]  # float16
            return system.codec.normalise(torch.from_numpy(stored).float()).to(device, non_blocking=True)
        images = self.faces.tensor(indices.numpy(), device)
        images = torch.where(mirrored[:, None, None, None].to(device), images.flip(-1), images)
        if augmentation is not None:
            images = apply_augmentation(images, augmentation)
        return system.codec.encode(images)

    def _share(self, batch: Tensor) -> Tensor:
        return process_share(self.accelerator, batch)

    def _optional_share(self, batch: Tensor | None) -> Tensor | None:
        return None if batch is None else self._share(batch)


def _unwrapped(model: nn.Module) -> TinySD:
    """The system itself, of which several processes train a wrapper, `DistributedDataParallel`."""
    system = getattr(model, "module", model)
    if not isinstance(system, TinySD):
        raise TypeError(f"these batches train a TinySD, got {type(system).__name__}")
    return system
