"""Long prompts and weights of words for Stable Diffusion 1: `a cat with (green eyes:1.3) on a [blue] background`.

CLIP reads 77 tokens, start and end included. A longer prompt is cut into chunks of 75 tokens, each encoded by itself,
and the U-Net attends to the states of all of them. A weight above 1 moves the states of its words further away from
those of the empty prompt, one below 1 moves them closer. The syntax is the Stable Diffusion web UI's, this meaning of a
weight is ComfyUI's. Neither is part of the model: nothing in its training prepared it for them.

Alphabet: B prompts, N tokens of all chunks, K chunks, D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.text.bpe import BytePairTokenizer

STRONGER = 1.1  # what a pair of round brackets multiplies by; square ones divide
LARGEST = 10.0  # weight
PARTS = re.compile(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|:|\\")


class Weighted(NamedTuple):
    """A part of a prompt."""

    text: str
    weight: float


def parse_weights(prompt: str) -> list[Weighted]:
    r"""Split a prompt into parts with their weights.

    `(word)` multiplies by 1.1, `[word]` divides by it, `(word:1.3)` multiplies by 1.3; brackets may be nested, and a
    backslash makes a bracket a plain one.

    Raises:
        ValueError: for brackets that do not match, and for a weight that is negative or above 10.
    """
    parts: list[Weighted] = []
    opened: list[tuple[str, int]] = []  # bracket, and the first part inside it
    for match in PARTS.finditer(prompt):
        symbol = match[0]
        if symbol in "([":
            opened.append((symbol, len(parts)))
        elif match[1] is not None and opened and opened[-1][0] == "(":
            _scale(parts, opened.pop()[1], _checked_weight(match[1]))
        elif symbol in ")]":
            if not opened or opened[-1][0] != {")": "(", "]": "["}[symbol]:
                raise ValueError(f"the prompt has a {symbol!r} that nothing opens: {prompt!r}; write \\{symbol} for it")
            _scale(parts, opened.pop()[1], STRONGER if symbol == ")" else 1 / STRONGER)
        else:
            text = symbol[1:] if len(symbol) == 2 and symbol[0] == "\\" else symbol
            parts.append(Weighted(text, 1.0))
    if opened:
        symbol = opened[-1][0]
        raise ValueError(f"the prompt has a {symbol!r} that nothing closes: {prompt!r}; write \\{symbol} for it")
    return list(_joined(parts))


def _scale(parts: list[Weighted], first: int, factor: float) -> None:
    """Multiply the weights of all parts from `first` on."""
    parts[first:] = [Weighted(part.text, part.weight * factor) for part in parts[first:]]


def _checked_weight(text: str) -> float:
    weight = float(text)
    if not 0 <= weight <= LARGEST:
        raise ValueError(f"the weight of a word lies between 0 and {LARGEST:g}, got {text}")
    return weight


def _joined(parts: Sequence[Weighted]) -> Iterator[Weighted]:
    """Neighbours of equal weight as one part, since a word must not be torn."""
    text = ""
    weight = 1.0
    for part in parts:
        if text and part.weight != weight:
            yield Weighted(text, weight)
            text = ""
        weight = part.weight
        text += part.text
    if text:
        yield Weighted(text, weight)


def weighted_tokens(prompt: str, tokenizer: BytePairTokenizer) -> list[tuple[int, float]]:
    """The token ids of a prompt without start and end, each with its weight."""
    tokens = []
    for part in parse_weights(prompt):
        tokens += [(tokenizer.ids[token], part.weight) for token in tokenizer.split(part.text)]
    return tokens


def encode_weighted(
    prompts: Sequence[str],
    tokenizer: BytePairTokenizer,
    encode: Callable[[Tensor], Tensor],
    chunks: int | None = None,
) -> Tensor:
    """Encode prompts of any length with their weights.

    Args:
        prompts: B texts.
        tokenizer: of the encoder.
        encode: ids int64 (B, length) -> states (B, length, D).
        chunks: how many chunks to pad all prompts to; None: what the longest one needs.

    Returns:
        States (B, N, D), N the tokens of all chunks: as `encode` returns them for prompts of one chunk without weights.

    Raises:
        ValueError: as `parse_weights`, and for a prompt that needs more chunks.
    """
    rows = [weighted_tokens(prompt, tokenizer) for prompt in prompts]
    room = tokenizer.length - 2
    needed = max(chunk_count(prompt, tokenizer) for prompt in prompts)
    chunks = chunks or needed
    if needed > chunks:
        raise ValueError(f"a prompt needs {needed} chunks of {room} tokens, there are {chunks}")
    states = []
    weights = torch.ones(len(rows), chunks * tokenizer.length)
    for index in range(chunks):
        ids = torch.full((len(rows), tokenizer.length), tokenizer.pad_id, dtype=torch.int64)
        for row, tokens in enumerate(rows):
            inside = tokens[index * room : (index + 1) * room]
            chunk = [tokenizer.bos_id, *(token for token, _ in inside), tokenizer.eos_id]
            ids[row, : len(chunk)] = torch.tensor(chunk)
            first = index * tokenizer.length + 1
            weights[row, first : first + len(inside)] = torch.tensor([weight for _, weight in inside])
        states.append(encode(ids))
    if (weights == 1).all():
        return torch.cat(states, dim=1)
    empty = encode(tokenizer([""])).repeat(1, chunks, 1)  # (1, N, D)
    return torch.lerp(empty, torch.cat(states, dim=1), weights[..., None].to(empty))


def chunk_count(prompt: str, tokenizer: BytePairTokenizer) -> int:
    """How many chunks a prompt needs, at least one."""
    return max(1, -(-len(weighted_tokens(prompt, tokenizer)) // (tokenizer.length - 2)))
