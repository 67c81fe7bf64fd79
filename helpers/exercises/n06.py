"""Exercises of notebook 06: bits, nearest neighbours, the straight-through gradient, perplexity, FSQ."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "06.1",
    mistakes={
        "each index": 256,
        "bytes": 320,
        "which entry": 256 * 1024,
    },
)
def bits(answer):
    """The size of a map of 16 x 16 indices into a codebook of 1,024."""
    value = as_number(answer)
    if close(value, 256.0):
        raise Wrong("There are 256 indices, and each index takes more than a bit: how many for one of 1,024?")
    if close(value, 320.0):
        raise Wrong("Right, but in bytes. The answer should be in bits.")
    if close(value, 256.0 * 1024):
        raise Wrong(
            "Saying which entry of 1,024 it is does not take 1,024 bits: each yes-or-no question halves the codebook."
        )
    if not close(value, 2560.0):
        raise Wrong(f"{value:g} is not right: 16 times 16 positions, log2(1024) bits each.")
    return "320 bytes for an image of 12,288. If some indices are rare, a good prior needs even fewer."


@exercise(
    "06.2",
    mistakes={
        "farthest": lambda z, book: torch.cdist(z, book).argmax(1),
        "long code vector": lambda z, book: (z @ book.T).argmax(1),
        "return the indices": lambda z, book: book[torch.cdist(z, book).argmin(1)],
    },
)
def nearest(answer):
    """The index of the nearest codebook vector."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 3, generator=generator)
    codebook = torch.randn(8, 3, generator=generator)
    codebook[0] *= 6
    indices = call(answer, z, codebook)
    expected = torch.cdist(z, codebook).argmin(1)
    if getattr(indices, "shape", None) == z.shape:
        raise Wrong("You return the code vectors; return the indices, (N,), from which they can be looked up.")
    indices = as_tensor(indices, expected)
    if torch.equal(indices, torch.cdist(z, codebook).argmax(1)):
        raise Wrong("You return the farthest code vector: use argmin, not argmax.")
    if torch.equal(indices, (z @ codebook.T).argmax(1)):
        raise Wrong(
            "You take the largest inner product, which favours a long code vector even if it is far away. Use "
            "distances: |z - c|^2 also contains |c|^2."
        )
    if not torch.equal(indices, expected):
        raise Wrong(f"{int((indices != expected).sum())} of 40 vectors are not assigned to the nearest code vector.")
    return "an argmin is piecewise constant, so it has no gradient. That is the problem of section 2."


@exercise(
    "06.3",
    mistakes={
        "does not learn": lambda z, code: code,
        "not the code": lambda z, code: z,
        "gradient of the code": lambda z, code: z + code - z,
    },
)
def straight_through(answer):
    """The straight-through estimator: the code in the forward pass, the identity in the backward pass."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 3, generator=generator, requires_grad=True)
    code = torch.randn(5, 3, generator=generator, requires_grad=True)
    slope = torch.randn(5, 3, generator=generator)
    result = as_tensor(call(answer, z, code), z)
    if not close(result, code):
        raise Wrong("In the forward pass the decoder should get the code; your result is not the code.")
    if not result.requires_grad:
        raise Wrong("No gradient flows at all: detach only the difference, not the whole.")
    z_gradient, code_gradient = torch.autograd.grad((result * slope).sum(), [z, code], allow_unused=True)
    if z_gradient is None:
        raise Wrong("Your result does not depend on the encoder's z, so the encoder does not learn.")
    if not close(z_gradient, slope):
        raise Wrong(
            "In the backward pass z should get the decoder's gradient unchanged; yours gets another. In z + (code - z) "
            "the z cancel, and only the gradient of the code remains: detach the difference."
        )
    if code_gradient is not None and code_gradient.abs().max() > 0:
        raise Wrong("The code gets the decoder's gradient as well. The codebook has its own loss, so detach it here.")
    return "z + (code - z).detach(): the gradient is wrong, but only slightly as long as z is close to its code."


def _entropy(indices: torch.Tensor, K: int) -> torch.Tensor:
    p = torch.bincount(indices, minlength=K) / len(indices)
    return -torch.special.xlogy(p, p).sum()


@exercise(
    "06.4",
    mistakes={
        "in use": lambda indices, K: torch.tensor(float(len(indices.unique()))),
        "entropy itself": _entropy,
        "same base": lambda indices, K: 2 ** _entropy(indices, K),
    },
)
def perplexity(answer):
    """Perplexity: the number of equally frequent codes with the same entropy."""
    for indices, expected in [([0, 0, 1, 1], 2.0), ([0, 0, 0, 1], 1.7548), ([3] * 5, 1.0), (list(range(8)), 8.0)]:
        result = call(answer, torch.tensor(indices), 8)
        if not math.isfinite(as_number(result)):
            raise Wrong(
                "Unused codes have p = 0, and 0 log 0 counts as 0, not as infinity: `torch.special.xlogy(p, p)` "
                "handles that."
            )
        value = as_number(result)
        if expected == 1.7548 and close(value, 2.0):
            raise Wrong("Two codes are in use, but one of them is rare: fewer than two. Weight them by frequency.")
        if close(value, math.log(expected), 1e-3):
            raise Wrong("That is the entropy itself. The perplexity is its exponential.")
        if close(value, 2 ** math.log(expected), 1e-3) and expected != 1:
            raise Wrong("Entropy and exponential need the same base: exp with ln, 2** with log2.")
        if not close(value, expected, 1e-3):
            raise Wrong(f"For the indices {indices} it should be {expected:.2f}; yours is {value:.2f}.")
    return "exp of the entropy of the code frequencies: at most K, and 1 for a collapsed codebook."


def _fsq(z, levels):
    return torch.round(torch.tanh(z) * (levels - 1) / 2) / ((levels - 1) / 2)


@exercise(
    "06.5",
    mistakes={
        "outside": lambda z, levels: torch.round(z * (levels - 1) / 2) / ((levels - 1) / 2),
        "values": lambda z, levels: torch.round(torch.tanh(z) * levels) / levels,
        "from -1 to 1": lambda z, levels: torch.round(torch.tanh(z) * (levels - 1) / 2),
    },
)
def fsq(answer):
    """Finite scalar quantisation: bound, then round; no codebook has to be learned."""
    z = torch.linspace(-6, 6, 4001)[:, None]
    result = as_tensor(call(answer, z, 5), z)
    values = result.unique()
    if not close(call(answer, 10 * z[-1:], 5), result[-1:]):
        raise Wrong("Large inputs give values outside [-1, 1]: bound them first, with tanh.")
    if not close(values[[0, -1]], [-1.0, 1.0]):
        raise Wrong(
            f"Your values run from {values[0]:.2g} to {values[-1]:.2g}; they should run from -1 to 1. Multiply by "
            "(levels - 1) / 2, round, and divide by the same factor."
        )
    if len(values) != 5:
        raise Wrong(
            f"With 5 levels there should be 5 values; you have {len(values)}. There are five integers from -2 to 2: "
            "multiply by (levels - 1) / 2."
        )
    if not close(result, _fsq(z, 5)):
        raise Wrong(
            "Five values, but the boundaries differ: tanh, times (levels - 1) / 2, round, divide by the same factor."
        )
    if not close(call(answer, z, 7), _fsq(z, 7)):
        raise Wrong("It works for 5 levels but not for 7.")
    return "four dimensions of 5 levels are 625 codes, without a learned codebook, a codebook loss or a collapse."
