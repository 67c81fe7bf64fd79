"""Training batches: which faces, which noise, which conditions are dropped; all a function of (seed, step)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from helpers.autoencoders.latents import Latents
from helpers.data import Faces
from helpers.data.captions import caption_variants, encode
from helpers.tiny_sd.augment import augmented, draw_augmentation
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.unet import NO_CLASS

WORDINGS = 4  # per drawn face: the full caption, and three that leave details out


class Details(NamedTuple):
    """What a notebook plots beside the loss."""

    times: Tensor  # (B,) of this process's share
    losses: Tensor  # (B,)


def caption_table(faces: Faces, seed: int = 0) -> Tensor | None:
    """int64 (N, WORDINGS, L) word numbers of every face, or None where faces have no attributes to speak of."""
    if faces.attributes is None:
        return None
    return encode(caption_variants(faces.attributes, WORDINGS, seed)).unflatten(0, (len(faces), WORDINGS))


@dataclass
class Batches:
    """Draws training batches and computes their losses, for `helpers.training.train`.

    Classes are drawn evenly however many pictures each has; half of the pictures are mirrored; conditions are
    dropped per example, so that one batch holds every mixture.
    """

    faces: Faces
    batch_size: int  # of all processes together
    drop: float = 0.1  # chance of an example to lose both class and caption (Ho & Salimans 2022, algorithm 1)
    drop_one: float = 0.1  # chance to lose the class alone, and again the caption alone
    flip: bool = True
    augment: float = 0.0  # probability of each non-leaking augmentation of an image
    process: int = 0  # which process this is, of how many
    processes: int = 1
    latents: Latents | None = None  # of these faces, encoded once; None: the codec encodes every batch

    def __post_init__(self):
        if self.latents is not None and len(self.latents) != len(self.faces):
            raise ValueError(f"latents of {len(self.latents)} pictures, but {len(self.faces)} faces")
        if self.latents is not None and self.augment:
            raise ValueError("latents that were encoded before cannot be augmented: augment=0")
        if self.batch_size % self.processes:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be shared by {self.processes} processes: make it a multiple"
            )
        if self.faces.split != "train":
            raise ValueError(f"training must not see the {self.faces.split!r} pictures: load_faces(..., split='train')")
        self.captions = caption_table(self.faces)
        members = [np.flatnonzero(self.faces.labels == label) for label in range(len(self.faces.class_names))]
        self.members = [torch.from_numpy(indices) for indices in members if len(indices)]

    def choose(self, generator: torch.Generator) -> Tensor:
        """(B,) positions of pictures: a class evenly, then one of its pictures."""
        classes = torch.randint(len(self.members), (self.batch_size,), generator=generator)
        share = torch.rand(self.batch_size, generator=generator, dtype=torch.float64)
        sizes = torch.tensor([len(indices) for indices in self.members])
        within = (share * sizes[classes]).long()
        return torch.stack([self.members[c][w] for c, w in zip(classes.tolist(), within.tolist(), strict=True)])

    def conditions(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Labels (B,) and captions (B, L) or None, dropped example by example."""
        luck = torch.rand(self.batch_size, generator=generator)
        wording = torch.randint(WORDINGS, (self.batch_size,), generator=generator)
        labels = torch.from_numpy(self.faces.labels[chosen.numpy()].astype(np.int64))
        no_class = (luck < self.drop + self.drop_one) if self.captions is not None else luck < self.drop
        labels = torch.where(no_class, NO_CLASS, labels)
        if self.captions is None:
            return labels, None
        no_caption = (luck < self.drop) | (luck > 1 - self.drop_one)
        return labels, self.captions[chosen, wording] * ~no_caption[:, None]

    def losses(self, model: nn.Module, generator: torch.Generator) -> tuple[Tensor, Any]:
        """This process's share of the step's losses; the whole batch's randomness is drawn by every process."""
        system: TinySD = getattr(model, "module", model)
        device = next(model.parameters()).device
        share = self._share()
        chosen = self.choose(generator)
        labels, captions = self.conditions(chosen, generator)
        mirrored = (torch.rand(self.batch_size, generator=generator) < 0.5) & self.flip
        times = system.objective.sample_times(self.batch_size, generator)
        augmentation = draw_augmentation(self.batch_size, self.augment, generator) if self.augment else None
        codes = self.codes(
            system, chosen[share], mirrored[share], device, None if augmentation is None else augmentation[share]
        )
        eps = torch.randn((self.batch_size, *codes.shape[1:]), generator=generator)
        arguments = [eps, times, labels, captions, augmentation]
        values = model(codes, *(None if a is None else a[share].to(device, non_blocking=True) for a in arguments))
        return values, Details(times[share], values.detach().float().cpu())

    def codes(
        self, system: TinySD, chosen: Tensor, mirrored: Tensor, device: torch.device, augmentation: Tensor | None = None
    ) -> Tensor:
        """What is diffused of the chosen images, (B, C, h, w): looked up where they were encoded before."""
        if self.latents is not None:
            return self.latents.batch(chosen, mirrored).to(device, non_blocking=True)
        images = self.faces.tensor(chosen.numpy(), device)
        images = torch.where(mirrored[:, None, None, None].to(device), images.flip(-1), images)
        if augmentation is not None:
            images = augmented(images, augmentation)
        return system.codec.encode(images)

    def _share(self) -> slice:
        size = self.batch_size // self.processes
        return slice(self.process * size, (self.process + 1) * size)
