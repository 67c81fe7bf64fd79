"""PaliGemma (Beyer et al. 2024): SigLIP's states of a picture go into Gemma as if they were words.

Picture and question are read whole, every token seeing every other; the answer is read and written from left to
right. Alphabet: B batch, N tokens of a row, P of them the picture's, D width, V tokens of the vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.vlm.gemma import Gemma, GemmaConfig, KVCache
from helpers.vlm.siglip import SiglipConfig, SiglipTower


@dataclass(frozen=True)
class PaliGemmaConfig:
    """Sizes of both towers; the defaults are those of PaliGemma 3B at 224 pixels."""

    vision: SiglipConfig = SiglipConfig()
    language: GemmaConfig = GemmaConfig()
    image_token: int = 257_152  # the id that stands where the picture's states go

    @classmethod
    def paligemma_3b_224(cls) -> "PaliGemmaConfig":
        """google/paligemma-3b-pt-224: 2,923,466,480 parameters, 256 tokens a picture."""
        return cls()

    @classmethod
    def paligemma_3b_448(cls) -> "PaliGemmaConfig":
        """At 448 pixels: 1,024 tokens a picture, and as many more positions in the vision tower."""
        return cls(SiglipConfig(size=448))

    @classmethod
    def paligemma_3b_896(cls) -> "PaliGemmaConfig":
        """At 896 pixels: 4,096 tokens a picture."""
        return cls(SiglipConfig(size=896))

    @classmethod
    def tiny(cls, vocabulary: int, image_token: int) -> "PaliGemmaConfig":
        """For drawn faces of 64x64 pixels: 64 tokens a picture."""
        return cls(
            SiglipConfig(size=64, patch=8, width=192, layers=4, heads=6, mlp=512),
            GemmaConfig(vocabulary, width=192, layers=3, heads=4, head_width=48, mlp=384),
            image_token,
        )


class Batch(NamedTuple):
    """What the model reads: rows of [picture, start, prefix, newline, suffix, end, padding]."""

    pictures: Tensor  # (B, 3, S, S) in [-1, 1]; or fewer, each for as many rows that follow one another
    ids: Tensor  # int64 (B, N), P times the image token first
    real: Tensor  # bool (B, N), False: padding
    suffix: Tensor  # bool (B, N), the answer and its end token, which is learned and read from left to right

    def to(self, device: str | torch.device) -> "Batch":
        """The same on a device."""
        return Batch(*(part.to(device) for part in self))

    def rows(self, chosen: slice | Tensor) -> "Batch":
        """Some of the rows, each with its picture."""
        pictures = self.pictures.repeat_interleave(len(self.ids) // len(self.pictures), dim=0)
        return Batch(pictures[chosen], *(part[chosen] for part in self[1:]))


def prefix_lm_mask(suffix: Tensor, real: Tensor) -> Tensor:
    """Who may see whom, bool (B, N, N), row asks, column is seen (big_vision's rule).

    Count the suffix tokens up to and including each token: a token sees those whose count is not larger than its own.
    The prefix counts 0 throughout, so it sees itself whole and nothing of the answer.
    """
    count = suffix.cumsum(dim=1)  # (B, N)
    return (count[:, None, :] <= count[:, :, None]) & real[:, None, :]


def positions(real: Tensor) -> Tensor:
    """1 for the first token, 2, 3, ...; padding is not counted: int64 (B, N)."""
    return real.long().cumsum(dim=1)


class PaliGemmaModel(nn.Module):
    """Vision tower, one linear layer, decoder."""

    def __init__(self, config: PaliGemmaConfig):
        super().__init__()
        self.config = config
        self.vision = SiglipTower(config.vision)
        self.projector = nn.Linear(config.vision.width, config.language.width)
        self.language = Gemma(config.language)

    def see(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, P, D), in the weights' dtype: once per picture, however much is said of it."""
        return self.projector(self.vision(pictures.to(self.projector.weight.dtype)))

    def embed(self, ids: Tensor, seen: Tensor) -> Tensor:
        """Words from the table, times sqrt(D); at the image tokens the picture's states, as they are: (B, N, D).

        Raises:
            ValueError: where a row has another number of image tokens than its picture has states.
        """
        place = ids == self.config.image_token  # (B, N)
        if not bool((place.sum(dim=1) == seen.shape[1]).all()):
            raise ValueError(
                f"every row needs {seen.shape[1]} image tokens, one per patch; got {place.sum(dim=1).tolist()}"
            )
        x = self.language.embed(ids)
        return x.masked_scatter(place[..., None], seen.to(x.dtype))

    def states(
        self, batch: Batch, seen: Tensor | None = None, cache: KVCache | None = None, only: Tensor | None = None
    ) -> Tensor:
        """(B, N, D), one state per token, or (T, D) for the T tokens of `only` (B, N).

        `seen` where the picture has been looked at before.
        """
        seen = self.see(batch.pictures) if seen is None else seen
        if len(batch.ids) % len(seen):
            raise ValueError(f"{len(batch.ids)} rows cannot be about {len(seen)} pictures, each as often as the others")
        x = self.embed(batch.ids, seen.repeat_interleave(len(batch.ids) // len(seen), dim=0))
        everything = bool(batch.real.all()) and not bool(batch.suffix.any())
        mask = None if everything else prefix_lm_mask(batch.suffix, batch.real)
        return self.language(x, positions(batch.real), mask, cache, only)

    def logits(self, batch: Batch) -> Tensor:
        """(B, N, V): what may follow each token."""
        return self.language.logits(self.states(batch))

    def losses(self, batch: Batch, seen: Tensor | None = None) -> Tensor:
        """(B,) the mean over each row's suffix of -log p(token | picture, prefix, suffix before it).

        Raises:
            ValueError: for a row without a suffix: there is nothing to learn.
        """
        learned = batch.suffix[:, 1:] & batch.real[:, 1:]  # (B, N - 1), of the next token
        counts = learned.sum(dim=1)
        if not bool(counts.all()):
            raise ValueError(f"rows {(counts == 0).nonzero().flatten().tolist()} have no suffix: a loss needs answers")
        states = self.states(batch, seen, only=F.pad(learned, (0, 1)))  # (tokens, D), no others
        losses = F.cross_entropy(self.language.logits(states).float(), batch.ids[:, 1:][learned], reduction="none")
        return torch.zeros_like(learned, dtype=losses.dtype).masked_scatter(learned, losses).sum(dim=1) / counts

    def forward(self, batch: Batch, seen: Tensor | None = None) -> Tensor:
        """`losses`: what a training calls."""
        return self.losses(batch, seen)
