"""Writing an answer, a token at a time: what has been read is kept, and only the new token is computed.

`CachedDecoder` keeps keys and values; `UncachedDecoder` is the same without a memory, for comparison.

Alphabet: B batch, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.vlm.gemma import KVCache
from helpers.vlm.paligemma import Batch, PaliGemmaModel


class Step(NamedTuple):
    """One more token for every row."""

    ids: Tensor  # int64 (B,); the padding's once a row has ended
    logits: Tensor  # (B, V), what was chosen from


class CachedDecoder:
    """Picture and prompt, read once; every further token costs one token."""

    @torch.inference_mode()
    def __init__(self, model: PaliGemmaModel, batch: Batch, room: int):
        """`room`: tokens that will be added at most."""
        self.model = model
        (rows, length) = batch.ids.shape
        seen = model.see(batch.pictures)
        self.cache = KVCache(model.config.language, rows, length + room, like=seen)
        last = batch.real.sum(dim=1) - 1  # (B,), padding is on the right
        self.logits = model.language.logits(model.states(batch, seen, self.cache, _only(last, length)))
        self.count = last + 1  # (B,) tokens read of each row
        self.visible = (
            None if bool(batch.real.all()) else torch.cat([batch.real, batch.real.new_ones(rows, room)], dim=1)[:, None]
        )  # (B, 1, length + room)

    @torch.inference_mode()
    def add(self, ids: Tensor) -> Tensor:
        """Read one token (B,) more and say what may follow it: (B, V)."""
        self.count = self.count + 1
        mask = None if self.visible is None else self.visible[..., : self.cache.filled + 1]
        language = self.model.language
        x = language(language.embed(ids[:, None]), self.count[:, None], mask, self.cache)
        self.logits = language.logits(x[:, 0])
        return self.logits


class UncachedDecoder:
    """The same, all of it computed again for every token: what a cache saves."""

    @torch.inference_mode()
    def __init__(self, model: PaliGemmaModel, batch: Batch, room: int = 0):
        self.model = model
        self.batch = batch
        self.seen = model.see(batch.pictures)
        last = batch.real.sum(dim=1) - 1
        self.logits = model.language.logits(model.states(batch, self.seen, only=_only(last, batch.ids.shape[1])))

    @torch.inference_mode()
    def add(self, ids: Tensor) -> Tensor:
        """As `CachedDecoder.add`."""
        new = torch.ones_like(ids[:, None], dtype=torch.bool)
        old = self.batch
        self.batch = Batch(
            old.pictures,
            torch.cat([old.ids, ids[:, None]], dim=1),
            torch.cat([old.real, new], dim=1),
            torch.cat([old.suffix, new], dim=1),
        )
        last = torch.full_like(ids, self.batch.ids.shape[1] - 1)
        only = _only(last, self.batch.ids.shape[1])
        self.logits = self.model.language.logits(self.model.states(self.batch, self.seen, only=only))
        return self.logits


def _only(token: Tensor, length: int) -> Tensor:
    """One token of each row: (B,) -> bool (B, length)."""
    return F.one_hot(token, length).bool()


def choose(
    logits: Tensor, temperature: float = 0.0, top_p: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """The next token of every row: (B, V) -> (B,).

    Args:
        temperature: 0 takes the likeliest; above, tokens are drawn with the odds softmax(logits / temperature).
        top_p: draws only among the likeliest tokens that together reach this share (Holtzman et al. 2019).
        generator: of the draw.

    Raises:
        ValueError: for a negative temperature, or a top_p outside (0, 1].
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature is 0 or more and top_p lies in (0, 1], got {temperature} and {top_p}")
    if temperature == 0:
        return logits.argmax(dim=-1)
    chances, order = (logits.float() / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = chances.cumsum(dim=-1) - chances  # of all likelier tokens
    drawn = torch.multinomial(chances.masked_fill(before >= top_p, 0), 1, generator=generator)
    return order.gather(-1, drawn)[:, 0]


def generate(
    model: PaliGemmaModel,
    batch: Batch,
    *,
    end: int,
    padding: int = 0,
    limit: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    cached: bool = True,
) -> Iterator[Step]:
    """Yield token after token until every row has ended, or `limit` have been written.

    Args:
        batch: prompts; every row has as many image tokens as its picture has patches.
        end: the token that ends an answer; padding: what a row gets behind it.
        temperature, top_p, generator: as for `choose`.
        cached: False computes everything again for every token.

    Raises:
        ValueError: for a batch that holds answers already, and as `choose`.
    """
    if bool(batch.suffix.any()):
        raise ValueError("this batch holds answers already (suffix): make it of prompts alone")
    reading = (CachedDecoder if cached else UncachedDecoder)(model, batch, limit)
    ended = None  # bool (B,) from the first end on
    for number in range(limit):
        logits = reading.logits
        ids = choose(logits, temperature, top_p, generator)
        ids = ids if ended is None else ids.masked_fill(ended, padding)
        yield Step(ids, logits)
        if end in ids.tolist():
            ended = ids == end if ended is None else ended | (ids == end)
            if bool(ended.all()):
                return
        if number + 1 < limit:
            reading.add(ids)
