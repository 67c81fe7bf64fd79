"""PaliGemma (Beyer et al. 2024): the patch features of an image encoder (SigLIP) are input tokens of Gemma.

Attention is bidirectional within image and question (the prefix) and causal within the answer (the suffix). Alphabet:
B batch, N tokens of a row, P of them image tokens, D width, V vocabulary, S pixels a side.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.vlm.gemma import GemmaConfig, KVCache
from helpers.vlm.gemma2 import PALIGEMMA2, decoder
from helpers.vlm.siglip import SiglipConfig, SiglipTower


@dataclass(frozen=True)
class PaliGemmaConfig:
    """Sizes of both networks; the defaults are those of PaliGemma 3B at 224 pixels."""

    vision: SiglipConfig = SiglipConfig()
    language: GemmaConfig = GemmaConfig()
    image_token: int = 257_152  # the id at the positions that receive image features

    @classmethod
    def paligemma_3b_224(cls) -> "PaliGemmaConfig":
        """google/paligemma-3b-pt-224: 2,923,466,480 parameters, 256 tokens per image."""
        return cls()

    @classmethod
    def paligemma_3b_448(cls) -> "PaliGemmaConfig":
        """At 448 pixels: 1,024 tokens per image, and as many more position embeddings in the vision tower."""
        return cls(SiglipConfig(size=448))

    @classmethod
    def paligemma_3b_896(cls) -> "PaliGemmaConfig":
        """At 896 pixels: 4,096 tokens per image."""
        return cls(SiglipConfig(size=896))

    @classmethod
    def paligemma2(cls, size: str = "3b", pixels: int = 224) -> "PaliGemmaConfig":
        """google/paligemma2-3b-pt-224 and its relatives: size "3b", "10b" or "28b", at 224, 448 or 896 pixels."""
        return cls(SiglipConfig(size=pixels), PALIGEMMA2[size])

    @classmethod
    def tiny(cls, vocabulary: int, image_token: int) -> "PaliGemmaConfig":
        """For synthetic faces of 64x64 pixels: 64 tokens per image."""
        return cls(
            SiglipConfig(size=64, patch=8, width=192, layers=4, heads=6, mlp=512),
            GemmaConfig(vocabulary, width=192, layers=3, heads=4, head_width=48, mlp=384),
            image_token,
        )


class Batch(NamedTuple):
    """Input of the model: rows of [image, start, prefix, newline, suffix, end, padding]."""

    images: Tensor  # (B, 3, S, S) in [-1, 1]; or fewer, each shared by the same number of consecutive rows
    ids: Tensor  # int64 (B, N), the image token P times first
    attention_mask: Tensor  # bool (B, N), False: padding
    suffix: Tensor  # bool (B, N), the answer and its end token, which are trained on and read causally

    def to(self, device: str | torch.device) -> "Batch":
        """Move to a device."""
        return Batch(*(part.to(device) for part in self))

    def rows(self, index: slice | Tensor) -> "Batch":
        """Select rows, each with its image."""
        images = self.images.repeat_interleave(len(self.ids) // len(self.images), dim=0)
        return Batch(images[index], *(part[index] for part in self[1:]))


def prefix_lm_mask(suffix: Tensor, attention_mask: Tensor) -> Tensor:
    """Which token may attend to which: bool (B, N, N), query rows and key columns (big_vision's rule).

    Count the suffix tokens up to and including each token: a token may attend to tokens with a count not above its
    own. The prefix has count 0 throughout, so it attends to all of itself and to nothing of the answer.
    """
    count = suffix.cumsum(dim=1)  # (B, N)
    return (count[:, None, :] <= count[:, :, None]) & attention_mask[:, None, :]


def positions(attention_mask: Tensor) -> Tensor:
    """Token positions 1, 2, 3, ..., not counting padding: int64 (B, N)."""
    return attention_mask.long().cumsum(dim=1)


def is_within_window(queries: Tensor, keys: Tensor, window: int) -> Tensor:
    """Whether a key is one of the `window` last tokens up to the query: positions (B, N), (B, M) -> bool (B, N, M)."""
    return keys[:, None, :] > queries[:, :, None] - window


def local_prefix_lm_mask(suffix: Tensor, attention_mask: Tensor, window: int) -> Tensor:
    """`prefix_lm_mask` of layers with a sliding window: bool (B, N, N).

    Suffix tokens attend to the last `window` tokens up to themselves. The prefix attends to all of itself, as in
    transformers. With PaliGemma 2's window of 4,096 tokens all this matters at 896 pixels only.
    """
    numbers = positions(attention_mask)
    near = is_within_window(numbers, numbers, window)
    return prefix_lm_mask(suffix, attention_mask) & (near | ~suffix[:, :, None])


class PaliGemmaModel(nn.Module):
    """Vision tower, one linear projection, decoder."""

    def __init__(self, config: PaliGemmaConfig):
        super().__init__()
        self.config = config
        self.vision = SiglipTower(config.vision)
        self.projector = nn.Linear(config.vision.width, config.language.width)
        self.language = decoder(config.language)

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S) in [-1, 1] as input tokens (B, P, D) of the decoder, in the weights' dtype."""
        return self.projector(self.vision(images.to(self.projector.weight.dtype)))

    def embed(self, ids: Tensor, image_features: Tensor) -> Tensor:
        """Token embeddings times sqrt(D), with unscaled image features at the image tokens: (B, N) -> (B, N, D).

        Raises:
            ValueError: where a row has another number of image tokens than its image has features.
        """
        is_image = ids == self.config.image_token  # (B, N)
        counts = is_image.sum(dim=1)
        if not bool((counts == image_features.shape[1]).all()):
            raise ValueError(
                f"every row needs {image_features.shape[1]} image tokens, one per patch; got {counts.tolist()}"
            )
        x = self.language.embed(ids)
        return x.masked_scatter(is_image[..., None], image_features.to(x.dtype))

    def hidden_states(
        self,
        batch: Batch,
        image_features: Tensor | None = None,
        cache: KVCache | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """Run the decoder: (B, N, D), one state per token, or (T, D) for the T tokens of `only`, bool (B, N).

        Args:
            image_features: from `encode_image`, where they are known already.
            cache: receives all keys and values.
            only: the tokens whose states are needed.

        Raises:
            ValueError: where the rows cannot share the images evenly.
        """
        if image_features is None:
            image_features = self.encode_image(batch.images)
        if len(batch.ids) % len(image_features):
            raise ValueError(
                f"{len(batch.ids)} rows cannot share {len(image_features)} images: each needs the same number of rows"
            )
        x = self.embed(batch.ids, image_features.repeat_interleave(len(batch.ids) // len(image_features), dim=0))
        mask = local_mask = None
        if not bool(batch.attention_mask.all()) or bool(batch.suffix.any()):
            mask = local_mask = prefix_lm_mask(batch.suffix, batch.attention_mask)
        window = self.language.window
        if window is not None and window < batch.ids.shape[1] and bool(batch.suffix.any()):
            local_mask = local_prefix_lm_mask(batch.suffix, batch.attention_mask, window)
        return self.language(x, positions(batch.attention_mask), mask, cache, only, local_mask)

    def logits(self, batch: Batch) -> Tensor:
        """Next-token logits after each token, (B, N, V)."""
        return self.language.logits(self.hidden_states(batch))

    def losses(self, batch: Batch, image_features: Tensor | None = None) -> Tensor:
        """Cross-entropy of the suffix, (B,): the mean of -log p(token | image, prefix, suffix before it) of each row.

        Raises:
            ValueError: for a row without a suffix: there is nothing to learn.
        """
        is_target = batch.suffix[:, 1:] & batch.attention_mask[:, 1:]  # (B, N - 1), of the next token
        counts = is_target.sum(dim=1)
        if not bool(counts.all()):
            empty = (counts == 0).nonzero().flatten().tolist()
            raise ValueError(f"rows {empty} have no suffix: a loss needs answers")
        states = self.hidden_states(batch, image_features, only=F.pad(is_target, (0, 1)))  # (targets, D)
        logits = self.language.logits(states).float()
        losses = F.cross_entropy(logits, batch.ids[:, 1:][is_target], reduction="none")
        per_token = torch.zeros_like(is_target, dtype=losses.dtype).masked_scatter(is_target, losses)
        return per_token.sum(dim=1) / counts

    def forward(self, batch: Batch, image_features: Tensor | None = None) -> Tensor:
        """The same as `losses`; training calls the module."""
        return self.losses(batch, image_features)
