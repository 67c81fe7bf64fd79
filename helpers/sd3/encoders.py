"""Stable Diffusion 3's three readers of a prompt: two CLIP text towers and T5's encoder.

CLIP learned from pictures what words look like, T5 from text alone what sentences say. Their states are laid side by
side: the CLIPs' along the width, T5's behind them along the sequence. Alphabet: B batch, N tokens of a CLIP,
M tokens in all, D width of the states, P width of the summary.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import CLIPTowerConfig, TextTower
from helpers.text.t5 import T5Encoder, T5Tokenizer


def clip_l() -> CLIPTowerConfig:
    """ViT-L/14's text tower with its projection: 123,650,304 parameters."""
    return CLIPTowerConfig(projection=768)


def clip_g() -> CLIPTowerConfig:
    """OpenCLIP's ViT-bigG/14's text tower with its projection: 694,659,840 parameters."""
    return CLIPTowerConfig(width=1280, layers=32, heads=20, mlp=5120, activation="gelu", projection=1280)


class Condition(NamedTuple):
    """What the transformer is told."""

    text: Tensor  # (B, M, D) one state per token
    pooled: Tensor  # (B, P) a summary

    def joined(self, other: "Condition") -> "Condition":
        """Both batches, one behind the other."""
        return Condition(*(torch.cat(parts) for parts in zip(self, other, strict=True)))


def read(tower: TextTower, ids: Tensor, end: int, skip: int = 0) -> tuple[Tensor, Tensor]:
    """States (B, N, D) before the last layer and without the final norm, and the summary (B, E) after both."""
    states = tower(ids, skip=1 + skip, norm=False)
    after = tower(ids) if skip else tower.norm(tower.layers[-1](states))
    return states, tower.pool_at_eos(after, ids, end)


def laid_out(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], third: Tensor, width: int) -> Condition:
    """What the CLIPs read side by side, T5's states (B, M', D') behind; zeros fill what is narrower than `width`."""
    (states, summary) = first
    (states_2, summary_2) = second
    both = torch.cat([states, states_2], dim=2)  # (B, N, 768 + 1280)
    text = torch.cat([F.pad(part, (0, width - part.shape[2])) for part in (both, third)], dim=1)
    return Condition(text, torch.cat([summary, summary_2], dim=1))


class TextEncoders(nn.Module):
    """Prompts to a condition."""

    def __init__(
        self,
        clip_l: TextTower,
        clip_g: TextTower,
        t5: T5Encoder | None,
        words: BytePairTokenizer,
        t5_words: T5Tokenizer | None,
        width: int,
        t5_length: int = 256,
    ):
        """
        Args:
            clip_l, clip_g: the CLIP towers.
            t5: None: the memory is spared, and zeros stand where its states would.
            words: the CLIPs' tokenizer; t5_words: T5's.
            width: D that the transformer reads; narrower states are filled up with zeros.
            t5_length: tokens that stand for T5's.
        """
        super().__init__()
        self.clip_l = clip_l
        self.clip_g = clip_g
        self.t5 = t5
        self.words = words
        self.t5_words = t5_words
        self.width = width
        self.t5_length = t5_length
        self.words_g = BytePairTokenizer(words.merges, words.length, padding=0)  # OpenCLIP fills up with its "!"

    @torch.no_grad()
    def forward(
        self,
        prompts: Sequence[str],
        prompts_2: Sequence[str] | None = None,
        prompts_3: Sequence[str] | None = None,
        clip_skip: int = 0,
        use_t5: bool = True,
    ) -> Condition:
        """One text for each reader and each picture; None repeats the first reader's.

        Returns:
            text (B, N + t5_length, D) and pooled (B, P).
        """
        device = self.clip_l.positions.device
        asked = list(zip(prompts, prompts_2 or prompts, prompts_3 or prompts, strict=True))
        different = list(dict.fromkeys(asked))  # the same wish for many pictures is read once
        texts, texts_2, texts_3 = (list(column) for column in zip(*different, strict=True))
        first = read(self.clip_l, self.words(texts).to(device), self.words.end, clip_skip)
        second = read(self.clip_g, self.words_g(texts_2).to(device), self.words.end, clip_skip)
        if self.t5 is None or not use_t5:
            third = first[0].new_zeros(len(texts), self.t5_length, self.width)
        else:
            third = self.t5(self.t5_words(texts_3).to(device))
        rows = [different.index(one) for one in asked]
        return Condition(*(part[rows] for part in laid_out(first, second, third, self.width)))
