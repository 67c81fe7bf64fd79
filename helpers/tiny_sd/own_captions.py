"""Captions in anybody's words: a byte-pair tokenizer that is trained on them, and travels with the weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers.data import Faces
from helpers.text.bpe import BytePairTokenizer, Pair
from helpers.text.train import learn_merges

MOST_MERGES = 1000  # 128 numbers each in the token embedding; a small collection has no more frequent words
MOST_TOKENS = 64  # of a caption: two or three sentences
LEAST_TOKENS = 32  # that a prompt may have, however short the captions are: rare words take several tokens


class CaptionTokenizer:
    """Captions to token ids as the network takes them: 0 is padding, and an empty caption is all padding.

    Words that it was not trained on are split into smaller tokens, at worst their bytes: none is unknown.
    """

    def __init__(self, merges: Sequence[Pair], length: int):
        """
        Args:
            merges: of the byte-pair encoding, in the order in which they were learned.
            length: of every encoded caption in tokens, padding included.
        """
        self.byte_pairs = BytePairTokenizer(merges)
        self.length = length

    @classmethod
    def train(cls, captions: Sequence[str]) -> CaptionTokenizer:
        """Learn merges from captions; the longest caption decides the length, within LEAST_TOKENS and MOST_TOKENS.

        Warns where captions are longer than that.
        """
        tokenizer = cls(list(learn_merges(captions, MOST_MERGES)), MOST_TOKENS)
        counts = [len(tokenizer.byte_pairs.split(caption)) for caption in captions]
        long = [caption for caption, count in zip(captions, counts, strict=True) if count > MOST_TOKENS]
        if long:
            warnings.warn(
                f"{len(long)} of {len(captions)} captions have more than {MOST_TOKENS} tokens and are cut off there, "
                f"such as {long[0]!r}",
                stacklevel=2,
            )
        tokenizer.length = min(max([LEAST_TOKENS, *counts]), MOST_TOKENS)
        return tokenizer

    def __len__(self) -> int:
        """Size of the vocabulary, padding included."""
        return len(self.byte_pairs) + 1

    def encode(self, caption: str) -> list[int]:
        """The ids of a caption's tokens, however many these are, without padding."""
        return [self.byte_pairs.ids[token] + 1 for token in self.byte_pairs.split(caption)]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Token ids back to lower-cased text."""
        return self.byte_pairs.decode([int(token_id) - 1 for token_id in ids if token_id])

    def __call__(self, captions: Sequence[str], *, warn: bool = True) -> Tensor:
        """Token ids int64 (B, length).

        Args:
            captions: texts.
            warn: of a caption that is too long, whose end is cut off.
        """
        rows = torch.zeros(len(captions), self.length, dtype=torch.int64)
        for row, caption in zip(rows, captions, strict=True):
            ids = self.encode(caption)
            if len(ids) > self.length and warn:
                warnings.warn(
                    f"this model's captions hold {self.length} tokens, and this one has {len(ids)}; its end was cut "
                    f"off: {self.decode(ids[self.length :])!r}",
                    stacklevel=2,
                )
            ids = ids[: self.length]
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return rows

    def summary(self, captions: Sequence[str]) -> str:
        """How many images have a caption, how long these are, and how large the vocabulary is."""
        lengths = [len(self.encode(caption)) for caption in captions if caption]
        return (
            f"{len(lengths)} of {len(captions)} images, {min(lengths)} to {max(lengths)} tokens, a vocabulary of "
            f"{len(self)} tokens"
        )

    def describe(self) -> dict[str, Any]:
        """The argument of `from_description` that builds it anew, as plain JSON values."""
        return {"merges": [" ".join(pair) for pair in self.byte_pairs.merges], "length": self.length}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> CaptionTokenizer:
        """Build the tokenizer that `describe` described."""
        pairs = [merge.split(" ") for merge in description["merges"]]
        return cls([(left, right) for left, right in pairs], description["length"])


def caption_tokenizer(faces: Faces, trained: CaptionTokenizer | None = None) -> CaptionTokenizer | None:
    """The tokenizer of captions in anybody's words: one that a network was trained with, else trained on these.

    None for images without captions, and for synthetic faces, whose captions have a vocabulary of their own.
    """
    if not faces.captions or not any(faces.captions) or faces.attributes is not None:
        return None
    return trained or CaptionTokenizer.train(faces.captions)
