"""Exercises of notebook 03: small pictures, pieces of words, a text's attention, mixed noise, ancestral steps."""

import math

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "03.1",
    mistakes={
        "channels": 64,
        "each side": 8,
        "other way round": 1 / 48,
    },
)
def compression(answer):
    """How many times fewer numbers the U-Net sees."""
    given = number(answer)
    if close(given, 64.0):
        raise Wrong("64 times fewer places, but a place holds more: count the channels, 3 and 4.")
    if close(given, 8.0):
        raise Wrong("8 times fewer along each side. A picture has two sides, and channels.")
    if close(given, 1 / 48):
        raise Wrong("That is the other way round: how many numbers of the picture come on one of the latent?")
    if not close(given, 48.0):
        raise Wrong(
            f"Not {given:g}. The picture has 3 x 512 x 768 numbers; the latent has 4 channels, and an eighth "
            "of each side."
        )
    return "48 times fewer, for pictures of any size: nothing in the ratio depends on it."


def _merged(pieces, pair, every=True):
    out = []
    for piece in pieces:
        if out and (out[-1], piece) == pair and (every or "".join(pair) not in out):
            out[-1] += piece
        else:
            out.append(piece)
    return out


@exercise(
    "03.2",
    mistakes={
        "every place": lambda pieces, pair: _merged(pieces, pair, every=False),
        "whole pieces": lambda pieces, pair: " ".join(pieces).replace(" ".join(pair), "".join(pair)).split(),
        "order of the two": lambda pieces, pair: _merged(_merged(pieces, pair), pair[::-1]),
        "used up": lambda pieces, pair: (
            [a + b for a, b in zip(pieces, pieces[1:]) if (a, b) == pair] + [p for p in pieces if p not in pair]
        ),
    },
)
def merge(answer):
    """One merge of byte-pair encoding."""
    given = ask(answer, ["b", "a", "n", "a", "n", "a"], ("a", "n"))
    if not isinstance(given, list | tuple):
        raise Wrong(f"A list of pieces is wanted, not a {type(given).__name__}.")
    if list(given) == ["b", "an", "a", "n", "a"]:
        raise Wrong("`banana` became b an a n a: the pair is to be merged in every place, not the first only.")
    if "na" in ask(answer, ["n", "a", "t"], ("a", "n")):
        raise Wrong("You merged n a as well: the order of the two matters.")
    if "".join(map(str, given)) != "banana":
        raise Wrong(
            f"banana became {' '.join(map(str, given))}: nothing may be lost or moved; each piece is used up "
            "once, and pieces outside the pair stay where they are."
        )
    for pieces, wanted in [("banana", ["b", "an", "an", "a"]), ("cat", list("cat")), ("an", ["an"])]:
        if (got := list(ask(answer, list(pieces), ("a", "n")))) != wanted:
            raise Wrong(f"{pieces} should become {' '.join(wanted)}; you have {' '.join(map(str, got))}.")
    for pieces, pair in [(["ba", "n", "a", "nd"], ("a", "n")), (["an", "d"], ("a", "nd"))]:
        if (got := list(ask(answer, pieces, pair))) != pieces:
            raise Wrong(
                f"In {' '.join(pieces)} there is no pair {' '.join(pair)}, only the same letters; you made it "
                f"{' '.join(map(str, got))}. Compare whole pieces."
            )
    if list(ask(answer, list("aaa"), ("a", "a"))) != ["aa", "a"]:
        raise Wrong("aaa holds the pair a a once: a piece that has been used up cannot be used again.")
    return "48,894 such merges, in the order in which they were learned, are CLIP's tokenizer."


@exercise(
    "03.3",
    mistakes={
        "root": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0),
        "later words": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        "itself": lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(6, 6).tril(-1).bool() | (torch.arange(6) == 0)
        ),
    },
)
def causal_attention(answer):
    """What CLIP's text tower does: every word asks those before it, and itself."""
    q, k, v = torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    given = tensor(ask(answer, q, k, v), q)
    scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    if not torch.isfinite(given).all():
        raise Wrong(
            "Yours holds what is not a number: a softmax of minus infinities only. Does every word see "
            "itself, or is your mask strict? And does the softmax run over the last axis?"
        )
    if close(given, scores.softmax(1) @ v):
        raise Wrong(
            "The mask is right, and the softmax runs over another axis: it belongs over the words that are "
            "asked, the last one."
        )
    if close(given, (q @ k.mT / 8**0.5).softmax(-1).tril() @ v):
        raise Wrong(
            "Later words have no weight, and those that are left no longer sum to 1: mask *before* the "
            "softmax, with minus infinity."
        )
    if not close(given[:, 0], v[:, 0]):
        raise Wrong(
            "The first word has nobody to ask but itself, so it should get its own value, whole. Does yours "
            "see later words too?"
        )
    if close(given, F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)):
        raise Wrong("The mask is right. The products are too large: divide by the root of the width of a head.")
    if not close(given[:, 1], F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 1]):
        raise Wrong(
            "The second word should mix the first value and its own, by a softmax of q k^T / sqrt(d). A word "
            "may see itself: is your mask strict?"
        )
    if not close(given, F.scaled_dot_product_attention(q, k, v, is_causal=True)):
        raise Wrong("Beginning is right, end is not: softmax runs over the words that are asked, the last axis.")
    return "no word sees a later one. So the state of the end token, which sees all, can stand for the sentence."


@exercise(
    "03.4",
    mistakes={
        "too quiet": lambda a, b, share: (1 - share) * a + share * b,
        "ends": lambda a, b, share: (a + b) / math.sqrt(2),
        "exchanged": lambda a, b, share: math.sqrt(share) * a + math.sqrt(1 - share) * b,
    },
)
def mixed_noise(answer):
    """Between two noises, still noise."""
    a, b = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0))
    first, last = (tensor(ask(answer, a, b, share), a) for share in (0.0, 1.0))
    if close(first, b) and close(last, a):
        raise Wrong("The two are exchanged: share 0 is all a, share 1 is all b.")
    if not close(first, a) or not close(last, b):
        raise Wrong("At its ends the mixture should be a (share 0) and b (share 1), exactly.")
    for share in (0.25, 0.5, 0.9):
        spread = tensor(ask(answer, a, b, share), a).std().item()
        if spread < 0.97:
            raise Wrong(
                f"At share {share} the mixture's standard deviation is {spread:.2f}: too quiet for noise. "
                "Variances of independent noises add up: the squares of the weights must make 1."
            )
        if not spread <= 1.03:
            raise Wrong(f"At share {share} the mixture's standard deviation is {spread:.2f}: too loud for noise.")
    return (
        "the network only knows noise of variance 1: mixed linearly, it would take the half-way noise for half a "
        "picture."
    )


def _ancestral(sigma, after):
    up = after * math.sqrt(1 - (after / sigma) ** 2)
    return math.sqrt(after**2 - up**2), up


@exercise(
    "03.5",
    mistakes={
        "must add up": lambda sigma, after: (after, after * math.sqrt(1 - (after / sigma) ** 2)),
        "other order": lambda sigma, after: _ancestral(sigma, after)[::-1],
        "squares": lambda sigma, after: tuple(width**2 for width in _ancestral(sigma, after)),
    },
)
def ancestral(answer):
    """How far down an ancestral step walks, and how much fresh noise it adds."""
    for sigma, after in [(2.0, 1.0), (14.6, 9.7), (0.5, 0.1)]:
        given = ask(answer, sigma, after)
        wanted = _ancestral(sigma, after)
        given = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise Wrong("Two numbers are wanted: down to which noise to walk, and how much fresh noise to add.")
        down, up = map(number, given)
        if close((down, up), wanted):
            continue
        if close((up, down), wanted):
            raise Wrong("Both are right, in the other order: first down, then up.")
        if close((down, up), [width**2 for width in wanted]):
            raise Wrong("Those are the squares; standard deviations are wanted.")
        if not close(down**2 + up**2, after**2):
            raise Wrong(
                f"From {sigma} to {after}: down^2 + up^2 is {down**2 + up**2:.3f} and must add up to "
                f"{after**2:.3f}, or there is more or less noise than the network is told."
            )
        raise Wrong(
            f"From {sigma} to {after} they are {wanted[0]:.3f} and {wanted[1]:.3f}; you have {down:.3f} and "
            f"{up:.3f}. Fresh is the posterior's part: up = after sqrt(1 - (after / sigma)^2)."
        )
    return (
        "walk further down than asked, then add what is missing: the squares of what is left and of what is fresh "
        "make the square of the noise asked for."
    )
