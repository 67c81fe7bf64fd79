"""Autoregressive decoding: generate an answer token by token, with a key-value cache.

`CachedDecoder` keeps the keys and values of everything it has read; `UncachedDecoder` computes all of them for every
token and exists for comparison. Alphabet: B batch, N tokens, V vocabulary.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.vlm.gemma import KVCache
from helpers.vlm.paligemma import Batch, PaliGemmaModel, is_within_window, positions


class DecodeStep(NamedTuple):
    """One new token for every row."""

    ids: Tensor  # int64 (B,); the padding token once a row has ended
    logits: Tensor  # (B, V), from which it was chosen


class CachedDecoder:
    """Reads image and prompt once; every further token costs the work of one token."""

    @torch.inference_mode()
    def __init__(self, model: PaliGemmaModel, batch: Batch, max_new_tokens: int):
        """Read the prompts, and reserve a cache for them and for `max_new_tokens` more."""
        self.model = model
        rows, length = batch.ids.shape
        image_features = model.encode_image(batch.images)
        self.cache = KVCache(model.config.language, rows, length + max_new_tokens, like=image_features)
        last = batch.attention_mask.sum(dim=1) - 1  # (B,), padding is on the right
        states = model.hidden_states(batch, image_features, self.cache, _one_token(last, length))
        self.logits = model.language.logits(states)
        later = last[:, None] + 2 + torch.arange(max_new_tokens, device=last.device)
        self.positions = torch.cat([positions(batch.attention_mask), later], dim=1)  # (B, length + max_new_tokens)
        self.visible = None  # bool (B, 1, length + max_new_tokens); None: all
        if not bool(batch.attention_mask.all()):
            new = batch.attention_mask.new_ones(rows, max_new_tokens)
            self.visible = torch.cat([batch.attention_mask, new], dim=1)[:, None]

    @torch.inference_mode()
    def add(self, ids: Tensor) -> Tensor:
        """Read one more token (B,) and return the logits of the next one, (B, V)."""
        language = self.model.language
        filled = self.cache.filled
        position = self.positions[:, filled : filled + 1]
        mask = None if self.visible is None else self.visible[..., : filled + 1]
        local_mask = mask
        if language.window is not None and language.window <= filled:
            near = is_within_window(position, self.positions[:, : filled + 1], language.window)
            local_mask = near if mask is None else near & mask
        x = language(language.embed(ids[:, None]), position, mask, self.cache, local_mask=local_mask)
        self.logits = language.logits(x[:, 0])
        return self.logits


class UncachedDecoder:
    """Computes the whole sequence for every new token; the same results as `CachedDecoder`, for comparison."""

    @torch.inference_mode()
    def __init__(self, model: PaliGemmaModel, batch: Batch, max_new_tokens: int = 0):
        """Read the prompts; nothing has to be reserved, so `max_new_tokens` has no effect."""
        self.model = model
        self.batch = batch
        self.image_features = model.encode_image(batch.images)
        self.logits = self._logits(batch.attention_mask.sum(dim=1) - 1)

    @torch.inference_mode()
    def add(self, ids: Tensor) -> Tensor:
        """As `CachedDecoder.add`."""
        old = self.batch
        new = torch.ones_like(ids[:, None], dtype=torch.bool)
        self.batch = Batch(
            old.images,
            torch.cat([old.ids, ids[:, None]], dim=1),
            torch.cat([old.attention_mask, new], dim=1),
            torch.cat([old.suffix, new], dim=1),
        )
        self.logits = self._logits(torch.full_like(ids, self.batch.ids.shape[1] - 1))
        return self.logits

    def _logits(self, last: Tensor) -> Tensor:
        only = _one_token(last, self.batch.ids.shape[1])
        return self.model.language.logits(self.model.hidden_states(self.batch, self.image_features, only=only))


def _one_token(index: Tensor, length: int) -> Tensor:
    """Select one token of each row: (B,) -> bool (B, length)."""
    return F.one_hot(index, length).bool()


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise ValueError for a negative or infinite temperature, or a top_p outside (0, 1]."""
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise ValueError(f"temperature must be at least 0 and top_p in (0, 1], got {temperature} and {top_p}")


def sample_token(
    logits: Tensor, temperature: float = 0.0, top_p: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Choose the next token of every row: (B, V) -> int64 (B,).

    Args:
        temperature: 0 takes the most likely token; above, tokens are sampled from softmax(logits / temperature).
        top_p: nucleus sampling: only the most likely tokens that together reach this probability can be chosen
            (Holtzman et al. 2019).
        generator: the source of randomness.

    Raises:
        ValueError: for a negative temperature, or a top_p outside (0, 1].
    """
    check_sampling(temperature, top_p)
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, order = (logits.float() / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    more_likely = probabilities.cumsum(dim=-1) - probabilities  # total probability of all more likely tokens
    nucleus = probabilities.masked_fill(more_likely >= top_p, 0)
    sampled = torch.multinomial(nucleus, 1, generator=generator)
    return order.gather(-1, sampled)[:, 0]


def generate(
    model: PaliGemmaModel,
    batch: Batch,
    *,
    eos_token_id: int,
    pad_token_id: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cached: bool = True,
) -> Iterator[DecodeStep]:
    """Yield one token per row at a time until every row has ended, or `max_new_tokens` have been generated.

    Args:
        batch: prompts; every row has as many image tokens as its image has patches.
        eos_token_id: the token that ends an answer.
        pad_token_id: what a row gets after its end.
        temperature, top_p, generator: as for `sample_token`.
        cached: False computes the whole sequence for every token.

    Raises:
        ValueError: for a batch that contains answers already, and as `sample_token`.
    """
    if bool(batch.suffix.any()):
        raise ValueError("this batch contains answers already (suffix): build it from prompts alone")
    check_sampling(temperature, top_p)
    decoder = (CachedDecoder if cached else UncachedDecoder)(model, batch, max_new_tokens)
    ended = None  # bool (B,), from the first end token on
    for index in range(max_new_tokens):
        logits = decoder.logits
        ids = sample_token(logits, temperature, top_p, generator)
        if ended is not None:
            ids = ids.masked_fill(ended, pad_token_id)
        yield DecodeStep(ids, logits)
        if eos_token_id in ids.tolist():
            ended = ids == eos_token_id if ended is None else ended | (ids == eos_token_id)
            if bool(ended.all()):
                return
        if index + 1 < max_new_tokens:
            decoder.add(ids)
