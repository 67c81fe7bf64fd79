"""PaliGemma 1 and 2 beside transformers' on the same random weights: logits, losses, greedy tokens.

Used by tests and by `python -m benchmarks check paligemma`.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.paligemma.reference import (
    PROCESSOR,
    SMALL,
    SMALL2,
    TOKENIZER,
    left_padded,
    ours_of,
    reference,
    reference_config,
)
from benchmarks.parity import difference, randomised
from benchmarks.report import Row, at_most, claim
from helpers.vlm.decoding import generate
from helpers.vlm.gemma2 import GEMMA2_NAMES, Gemma2, Gemma2Config
from helpers.vlm.paligemma import PaliGemmaModel, is_within_window
from helpers.weights.pretrained import load_pretrained

LIMIT = 1e-5
PROMPTS = ["answer en what animal is this?", "caption en", "detect nose"]
SUFFIXES = ["a cat", "a striped dog on a red background", "left eye"]
IMAGES = list(torch.rand(3, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1)
WIDE = Gemma2Config(vocabulary=300, layers=1, window=5)  # one layer of full width, for nine tokens


@torch.no_grad()
def compare_batch(theirs: Any, ours: PaliGemmaModel) -> tuple[float, float]:
    """The differences of logits and of the loss, for a batch with padding, prefixes and suffixes."""
    batch = PROCESSOR(IMAGES, PROMPTS, SUFFIXES)
    output = theirs(
        input_ids=batch.ids,
        pixel_values=batch.images,
        attention_mask=batch.attention_mask.long(),
        token_type_ids=batch.suffix.long(),
        labels=batch.ids.masked_fill(~batch.suffix, -100),
    )
    losses = ours.losses(batch)
    counts = batch.suffix.sum(dim=1)
    logits_difference = difference(ours.logits(batch)[batch.attention_mask], output.logits[batch.attention_mask])
    return logits_difference, abs((losses * counts).sum() / counts.sum() - output.loss).item()


@torch.no_grad()
def compare_generation(theirs: Any, ours: PaliGemmaModel, cached: bool) -> tuple[bool, float]:
    """Whether greedy tokens are the same, and the largest difference of their logits, up to the first other token.

    Raises:
        ValueError: where the answers are so monotonous that being the same would prove nothing.
    """
    batch = PROCESSOR(IMAGES, PROMPTS)
    eos = TOKENIZER.eos_token_id
    pad = TOKENIZER.pad_token_id
    steps = list(generate(ours, batch, eos_token_id=eos, pad_token_id=pad, max_new_tokens=12, cached=cached))
    output = theirs.generate(
        **left_padded(batch), max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    expected = output.sequences[:, batch.ids.shape[1] :]
    if len(expected.unique()) < 6:
        raise ValueError(f"the reference says the same again and again: {expected.tolist()}")
    largest = 0.0
    for step, logits, ids in zip(steps, output.logits, expected.T, strict=True):
        largest = max(largest, difference(step.logits, logits))
        if not torch.equal(step.ids, ids):
            return False, largest
    return True, largest


def reference_decoder(config: Gemma2Config) -> Any:
    """transformers' Gemma 2 alone, with random weights for which scores and logits exceed their caps."""
    from transformers import Gemma2ForCausalLM

    torch.manual_seed(0)
    text_config = reference_config(replace(SMALL2, language=config)).text_config
    theirs = randomised(Gemma2ForCausalLM(text_config))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "embed_tokens" in name:
                nn.init.normal_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=2 * parameter.shape[1] ** -0.5)
    return theirs


@torch.no_grad()
def compare_decoders(theirs: Any, config: Gemma2Config) -> float:
    """The difference of logits for causal attention over nine tokens, the same weights in a decoder of `config`."""
    tensors = {n.removeprefix("model."): t for n, t in theirs.state_dict().items() if n != "lm_head.weight"}
    with torch.device("meta"):
        ours = Gemma2(config)
    load_pretrained(ours, tensors, GEMMA2_NAMES, what="a decoder")
    ids = torch.randint(config.vocabulary, (2, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).expand(2, 9)
    causal = torch.ones(2, 9, 9, dtype=torch.bool).tril()
    local = causal & is_within_window(positions, positions, config.window)
    states = ours(ours.embed(ids), positions, causal, local_mask=local)
    return difference(ours.logits(states), theirs(ids).logits)


def rows() -> list[Row]:
    """Parity of PaliGemma 1."""
    theirs = reference(SMALL)
    return _rows(theirs, ours_of(theirs, SMALL), "parity of", "greedy tokens")


def paligemma2_rows() -> list[Row]:
    """Parity of PaliGemma 2, in a small model with every sequence longer than the window, and in one wide layer."""
    theirs = reference(SMALL2)
    wide = compare_decoders(reference_decoder(WIDE), WIDE)
    return [
        *_rows(theirs, ours_of(theirs, SMALL2), "PaliGemma 2 parity of", "PaliGemma 2 greedy tokens"),
        at_most("PaliGemma 2 parity of one layer of full width", wide, LIMIT),
    ]


def _rows(theirs: Any, ours: PaliGemmaModel, parity: str, tokens: str) -> list[Row]:
    logits, loss = compare_batch(theirs, ours)
    rows = [
        at_most(f"{parity} logits, a batch with padding", logits, LIMIT),
        at_most(f"{parity} the loss, prefix and suffix", loss, LIMIT),
    ]
    for cached in (True, False):
        same, _ = compare_generation(theirs, ours, cached)
        name = f"{tokens}, a batch with padding, {'with' if cached else 'without'} a cache"
        rows.append(claim(name, "the same" if same else "others", "the same", same))
    return rows
