"""Stable Diffusion 3's three text encoders: two CLIP text towers and T5's encoder.

CLIP was trained with images, T5 on text alone. Their hidden states are concatenated: those of the two CLIPs along the
width, T5's after them along the sequence. Alphabet: B batch, N tokens of a CLIP, M tokens in all, D width of the
states, P width of the pooled embedding.
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


class CLIPStates(NamedTuple):
    """A CLIP text tower's output."""

    states: Tensor  # (B, N, D) one per token, before the last layer and without the final norm
    pooled: Tensor  # (B, E) the projected state at the end token, after both


class Condition(NamedTuple):
    """The MM-DiT's conditioning."""

    text: Tensor  # (B, M, D) one hidden state per token
    pooled: Tensor  # (B, P) one embedding of the whole prompt

    def cat(self, other: "Condition") -> "Condition":
        """Concatenate two batches, this one first."""
        return Condition(torch.cat([self.text, other.text]), torch.cat([self.pooled, other.pooled]))


def encode_clip(tower: TextTower, ids: Tensor, end: int, skip: int = 0) -> CLIPStates:
    """Encode tokens int64 (B, N); `eos_id` is the end token, `skip` counts further last layers to leave out."""
    states = tower(ids, clip_skip=1 + skip, norm=False)
    final = tower(ids) if skip else tower.norm(tower.layers[-1](states))
    return CLIPStates(states, tower.pool_at_eos(final, ids, end))


def concat_text(clip_l: CLIPStates, clip_g: CLIPStates, t5: Tensor, width: int) -> Condition:
    """Concatenate the CLIPs' states along the width, T5's (B, M', D') after them, all zero-padded to `width`."""
    clip_states = torch.cat([clip_l.states, clip_g.states], dim=2)  # (B, N, 768 + 1280)
    text = torch.cat([F.pad(part, (0, width - part.shape[2])) for part in (clip_states, t5)], dim=1)
    return Condition(text, torch.cat([clip_l.pooled, clip_g.pooled], dim=1))


class TextEncoders(nn.Module):
    """Encodes prompts to the MM-DiT's condition."""

    def __init__(
        self,
        clip_l: TextTower,
        clip_g: TextTower,
        t5: T5Encoder | None,
        tokenizer: BytePairTokenizer,
        t5_tokenizer: T5Tokenizer | None,
        width: int,
        t5_length: int = 256,
    ):
        """
        Args:
            clip_l, clip_g: the CLIP text towers.
            t5: None: saves its memory, and zeros stand where its states would.
            tokenizer: the CLIPs'; t5_tokenizer: T5's.
            width: D of the transformer's text input; narrower states are padded with zeros.
            t5_length: tokens of T5's part.
        """
        super().__init__()
        self.clip_l = clip_l
        self.clip_g = clip_g
        self.t5 = t5
        self.tokenizer = tokenizer
        self.t5_tokenizer = t5_tokenizer
        self.width = width
        self.t5_length = t5_length
        self.tokenizer_g = BytePairTokenizer(tokenizer.merges, tokenizer.length, padding=0)  # OpenCLIP pads with "!"

    @torch.no_grad()
    def forward(
        self,
        prompts: Sequence[str],
        prompts_2: Sequence[str] | None = None,
        prompts_3: Sequence[str] | None = None,
        clip_skip: int = 0,
        use_t5: bool = True,
    ) -> Condition:
        """Encode one text per encoder and image; None repeats the first encoder's.

        Returns:
            text (B, N + t5_length, D) and pooled (B, P).
        """
        device = self.clip_l.positions.device
        triples = list(zip(prompts, prompts_2 or prompts, prompts_3 or prompts, strict=True))
        unique = list(dict.fromkeys(triples))  # many images of one prompt: encode it once
        texts, texts_2, texts_3 = (list(column) for column in zip(*unique, strict=True))
        states_l = encode_clip(self.clip_l, self.tokenizer(texts).to(device), self.tokenizer.eos_id, clip_skip)
        states_g = encode_clip(self.clip_g, self.tokenizer_g(texts_2).to(device), self.tokenizer.eos_id, clip_skip)
        if self.t5 is None or self.t5_tokenizer is None or not use_t5:
            states_t5 = states_l.states.new_zeros(len(texts), self.t5_length, self.width)
        else:
            states_t5 = self.t5(self.t5_tokenizer(texts_3).to(device))
        condition = concat_text(states_l, states_g, states_t5, self.width)
        row_of = {triple: row for row, triple in enumerate(unique)}
        rows = [row_of[triple] for triple in triples]
        return Condition(condition.text[rows], condition.pooled[rows])
