"""Exercises of notebook 05: latent size, byte-pair merges, causal attention, mixed noise, ancestral steps."""

import math

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, as_number, as_pair, as_tensor, call, close, exercise


@exercise(
    "05.1",
    mistakes={
        "channels": 64,
        "each side": 8,
        "inverse": 1 / 48,
    },
)
def compression(answer):
    """The compression factor of Stable Diffusion's latents."""
    value = as_number(answer)
    if close(value, 64.0):
        raise Wrong("There are 64 times fewer positions, but count the channels too: 3 before, 4 after.")
    if close(value, 8.0):
        raise Wrong("It is 8 times fewer along each side. Count both sides, and the channels.")
    if close(value, 1 / 48):
        raise Wrong("That is the inverse: divide the size of the image by the size of the latent.")
    if not close(value, 48.0):
        raise Wrong(
            f"{value:g} is not right. The image has 3 x 512 x 768 values; the latent has 4 channels, and an eighth of "
            "each side."
        )
    return "48 times fewer values, for images of any size: the factor does not depend on it."


def _merge(tokens, pair, only_first=False):
    merged = []
    for token in tokens:
        is_pair = bool(merged) and (merged[-1], token) == pair
        if is_pair and not (only_first and "".join(pair) in merged):
            merged[-1] += token
        else:
            merged.append(token)
    return merged


@exercise(
    "05.2",
    mistakes={
        "every occurrence": lambda pieces, pair: _merge(pieces, pair, only_first=True),
        "whole tokens": lambda pieces, pair: " ".join(pieces).replace(" ".join(pair), "".join(pair)).split(),
        "order of the two": lambda pieces, pair: _merge(_merge(pieces, pair), pair[::-1]),
        "exactly once": lambda pieces, pair: (
            [a + b for a, b in zip(pieces, pieces[1:]) if (a, b) == pair] + [p for p in pieces if p not in pair]
        ),
    },
)
def merge(answer):
    """A merge of byte-pair encoding."""
    tokens = call(answer, ["b", "a", "n", "a", "n", "a"], ("a", "n"))
    if not isinstance(tokens, list | tuple):
        raise Wrong(f"Return a list of tokens, not a {type(tokens).__name__}.")
    if list(tokens) == ["b", "an", "a", "n", "a"]:
        raise Wrong("`banana` became b an a n a: merge every occurrence of the pair, not only the first.")
    if "na" in call(answer, ["n", "a", "t"], ("a", "n")):
        raise Wrong("You also merged n a: the order of the two matters.")
    if "".join(map(str, tokens)) != "banana":
        raise Wrong(
            f"banana became {' '.join(map(str, tokens))}: use each token exactly once, and keep the order and all "
            "tokens outside the pair."
        )
    for word, expected in [("banana", ["b", "an", "an", "a"]), ("cat", list("cat")), ("an", ["an"])]:
        tokens = list(call(answer, list(word), ("a", "n")))
        if tokens != expected:
            raise Wrong(f"{word} should become {' '.join(expected)}; you get {' '.join(map(str, tokens))}.")
    for before, pair in [(["ba", "n", "a", "nd"], ("a", "n")), (["an", "d"], ("a", "nd"))]:
        tokens = list(call(answer, before, pair))
        if tokens != before:
            raise Wrong(
                f"{' '.join(before)} does not contain the pair {' '.join(pair)}, only the same letters; you get "
                f"{' '.join(map(str, tokens))}. Compare whole tokens."
            )
    if list(call(answer, list("aaa"), ("a", "a"))) != ["aa", "a"]:
        raise Wrong("aaa contains the pair a a once: a token that is part of a merge cannot be used a second time.")
    return "CLIP's tokenizer consists of 48,894 such merges, applied in the order in which they were learned."


@exercise(
    "05.3",
    mistakes={
        "root": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0),
        "later tokens": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        "itself": lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(6, 6).tril(-1).bool() | (torch.arange(6) == 0)
        ),
    },
)
def causal_attention(answer):
    """The attention of CLIP's text encoder: every token attends to the tokens before it and to itself."""
    q, k, v = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    result = as_tensor(call(answer, q, k, v), q)
    scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    if not torch.isfinite(result).all():
        raise Wrong(
            "Your result contains NaN, from a softmax over minus infinity only. Can every token attend to itself, or "
            "is your mask strict? And does the softmax run over the last axis?"
        )
    if close(result, scores.softmax(1) @ v):
        raise Wrong(
            "The mask is right, but the softmax runs over the wrong axis: it belongs over the keys, the last one."
        )
    if close(result, (q @ k.mT / 8**0.5).softmax(-1).tril() @ v):
        raise Wrong(
            "Later tokens have weight 0, but the remaining weights no longer sum to 1: mask *before* the softmax, with "
            "minus infinity."
        )
    if not close(result[:, 0], v[:, 0]):
        raise Wrong(
            "The first token can only attend to itself, so its result should be its value. Does yours also attend to "
            "later tokens?"
        )
    if close(result, F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)):
        raise Wrong("The mask is right, but the scores are too large: divide by the square root of the head width.")
    if not close(result[:, 1], F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 1]):
        raise Wrong(
            "The second token should mix the first value and its own, with the softmax of q k^T / sqrt(d). A token "
            "also attends to itself: is your mask strict?"
        )
    if not close(result, F.scaled_dot_product_attention(q, k, v, is_causal=True)):
        raise Wrong("The first tokens are right, the last are not: the softmax runs over the keys, the last axis.")
    return "no token attends to a later one. So the end token, which attends to all, can represent the sentence."


@exercise(
    "05.4",
    mistakes={
        "too small": lambda a, b, share: (1 - share) * a + share * b,
        "ends": lambda a, b, share: (a + b) / math.sqrt(2),
        "swapped": lambda a, b, share: math.sqrt(share) * a + math.sqrt(1 - share) * b,
    },
)
def mixed_noise(answer):
    """A mixture of two noises that has the statistics of noise."""
    a, b = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0))
    first = as_tensor(call(answer, a, b, 0.0), a)
    last = as_tensor(call(answer, a, b, 1.0), a)
    if close(first, b) and close(last, a):
        raise Wrong("The two are swapped: share 0 should be a, share 1 should be b.")
    if not close(first, a) or not close(last, b):
        raise Wrong("At its ends the mixture should be exactly a (share 0) and b (share 1).")
    for share in (0.25, 0.5, 0.9):
        std = as_tensor(call(answer, a, b, share), a).std().item()
        if std < 0.97:
            raise Wrong(
                f"At share {share} the standard deviation of the mixture is {std:.2f}: too small for noise. Variances "
                "of independent noises add up, so the squares of the weights must sum to 1."
            )
        if not std <= 1.03:
            raise Wrong(f"At share {share} the standard deviation of the mixture is {std:.2f}: too large for noise.")
    return (
        "the network was trained on noise of variance 1. It would take a linear mixture, whose variance is smaller, "
        "for a partly denoised image."
    )


def _ancestral(sigma, after):
    up = after * math.sqrt(1 - (after / sigma) ** 2)
    return math.sqrt(after**2 - up**2), up


@exercise(
    "05.5",
    mistakes={
        "must equal": lambda sigma, after: (after, after * math.sqrt(1 - (after / sigma) ** 2)),
        "other order": lambda sigma, after: _ancestral(sigma, after)[::-1],
        "squares": lambda sigma, after: tuple(std**2 for std in _ancestral(sigma, after)),
    },
)
def ancestral(answer):
    """The noise level that an ancestral step goes down to, and the fresh noise that it adds."""
    for sigma, after in [(2.0, 1.0), (14.6, 9.7), (0.5, 0.1)]:
        down, up = as_pair(
            call(answer, sigma, after),
            "Return two numbers: the noise level to step down to, and the amount of fresh noise to add.",
        )
        expected = _ancestral(sigma, after)
        if close((down, up), expected):
            continue
        if close((up, down), expected):
            raise Wrong("Both are right, but in the other order: first down, then up.")
        if close((down, up), [std**2 for std in expected]):
            raise Wrong("Those are the squares; return standard deviations.")
        if not close(down**2 + up**2, after**2):
            raise Wrong(
                f"From {sigma} to {after}: down^2 + up^2 is {down**2 + up**2:.3f} and must equal {after**2:.3f}; "
                "otherwise the noise level differs from the one that the network is conditioned on."
            )
        raise Wrong(
            f"From {sigma} to {after} they are {expected[0]:.3f} and {expected[1]:.3f}; you get {down:.3f} and "
            f"{up:.3f}. The fresh noise is that of the posterior: up = after sqrt(1 - (after / sigma)^2)."
        )
    return (
        "step down further than the target, then add the missing noise: the squares of the remaining and of the fresh "
        "noise sum to the square of the target."
    )
