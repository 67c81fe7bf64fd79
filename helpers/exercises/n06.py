"""Exercises of notebook 06: bits, nearest codes, a gradient through a choice, perplexity, a book without a book."""

import math

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "06.1",
    mistakes={
        "each code": 256,
        "bytes": 320,
        "which one": 256 * 1024,
    },
)
def bits(answer):
    """What a map of 16 x 16 codes out of 1,024 costs."""
    given = number(answer)
    if close(given, 256.0):
        raise Wrong("There are 256 codes, and each code takes more than one bit to name: how many for one of 1,024?")
    if close(given, 320.0):
        raise Wrong("Right, in bytes. Bits were asked for.")
    if close(given, 256.0 * 1024):
        raise Wrong(
            "Naming which one of 1,024 it is does not take 1,024 bits: yes-or-no questions halve the book each."
        )
    if not close(given, 2560.0):
        raise Wrong(f"Not {given:g}: 16 times 16 places, log2(1024) bits each.")
    return "320 bytes for a picture of 12,288. If some codes are rare, a good prior needs fewer still."


@exercise(
    "06.2",
    mistakes={
        "farthest": lambda z, book: torch.cdist(z, book).argmax(1),
        "long code": lambda z, book: (z @ book.T).argmax(1),
        "numbers of the codes": lambda z, book: book[torch.cdist(z, book).argmin(1)],
    },
)
def nearest(answer):
    """The number of the nearest code."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 3, generator=generator)
    book = torch.randn(8, 3, generator=generator)
    book[0] *= 6
    given = ask(answer, z, book)
    wanted = torch.cdist(z, book).argmin(1)
    if getattr(given, "shape", None) == z.shape:
        raise Wrong(
            "You give the codes themselves. Asked for are the numbers of the codes, (N,), from which one can "
            "look them up."
        )
    given = tensor(given, wanted)
    if torch.equal(given, torch.cdist(z, book).argmax(1)):
        raise Wrong("You found the farthest code: argmin, not argmax.")
    if torch.equal(given, (z @ book.T).argmax(1)):
        raise Wrong(
            "You take the largest product, in which a long code wins though it lies far away. Distances: |z - "
            "c|^2 has |c|^2 in it."
        )
    if not torch.equal(given, wanted):
        raise Wrong(f"{int((given != wanted).sum())} of 40 vectors got another code than the nearest.")
    return "an argmin: its answer jumps, and has no gradient. That is the problem of section 2."


@exercise(
    "06.3",
    mistakes={
        "does not learn": lambda z, code: code,
        "not the code": lambda z, code: z,
        "gradient of the code": lambda z, code: z + code - z,
    },
)
def straight_through(answer):
    """Forward the code, backward as if nothing had happened."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 3, generator=generator, requires_grad=True)
    code = torch.randn(5, 3, generator=generator, requires_grad=True)
    slope = torch.randn(5, 3, generator=generator)
    given = tensor(ask(answer, z, code), z)
    if not close(given, code):
        raise Wrong("Forward, the decoder should get the code; what you give is not the code.")
    if not given.requires_grad:
        raise Wrong("No gradient passes at all: detach only the difference, not the whole.")
    of_z, of_code = torch.autograd.grad((given * slope).sum(), [z, code], allow_unused=True)
    if of_z is None:
        raise Wrong("The encoder's z is not in your answer, so it does not learn.")
    if not close(of_z, slope):
        raise Wrong(
            "Backward, z should get the decoder's gradient unchanged; yours gets another. In z + (code - z) "
            "the z cancel, and the gradient of the code is what is left: detach the difference."
        )
    if of_code is not None and of_code.abs().max() > 0:
        raise Wrong("The code gets the decoder's gradient as well. It learns from a term of its own: detach it here.")
    return "z + (code - z).detach(): a lie about the slope, small as long as z lies near its code."


@exercise(
    "06.4",
    mistakes={
        "in use": lambda indices, K: torch.tensor(float(len(indices.unique()))),
        "entropy itself": lambda indices, K: (
            -torch.special.xlogy(p := torch.bincount(indices, minlength=K) / len(indices), p).sum()
        ),
        "same base": lambda indices, K: (
            2 ** -torch.special.xlogy(p := torch.bincount(indices, minlength=K) / len(indices), p).sum()
        ),
    },
)
def perplexity(answer):
    """How many equally frequent codes would be as hard to guess."""
    for indices, wanted in [([0, 0, 1, 1], 2.0), ([0, 0, 0, 1], 1.7548), ([3] * 5, 1.0), (list(range(8)), 8.0)]:
        given = ask(answer, torch.tensor(indices), 8)
        if not math.isfinite(number(given)):
            raise Wrong(
                "Codes that nobody chose have p = 0, and 0 log 0 is 0, not infinite: `torch.special.xlogy(p, "
                "p)` knows that."
            )
        given = number(given)
        if wanted == 1.7548 and close(given, 2.0):
            raise Wrong(
                "Two codes are in use, one of them seldom: so fewer than two. Weigh them by how often they occur."
            )
        if close(given, math.log(wanted), 1e-3):
            raise Wrong("That is the entropy itself. Its exponential counts codes.")
        if close(given, 2 ** math.log(wanted), 1e-3) and wanted != 1:
            raise Wrong("Entropy and exponential need the same base: exp with ln, 2** with log2.")
        if not close(given, wanted, 1e-3):
            raise Wrong(f"For the codes {indices} it should be {wanted:.2f}; yours is {given:.2f}.")
    return "exp of the entropy of how often each code is chosen: K at best, 1 for a collapsed book."


def _fsq(z, levels):
    return torch.round(torch.tanh(z) * (levels - 1) / 2) / ((levels - 1) / 2)


@exercise(
    "06.5",
    mistakes={
        "beyond": lambda z, levels: torch.round(z * (levels - 1) / 2) / ((levels - 1) / 2),
        "values": lambda z, levels: torch.round(torch.tanh(z) * levels) / levels,
        "from -1 to 1": lambda z, levels: torch.round(torch.tanh(z) * (levels - 1) / 2),
    },
)
def fsq(answer):
    """A book that nobody has to write: bounded, then rounded."""
    z = torch.linspace(-6, 6, 4001)[:, None]
    given = tensor(ask(answer, z, 5), z)
    values = given.unique()
    if not close(ask(answer, 10 * z[-1:], 5), given[-1:]):
        raise Wrong("Large numbers give values beyond 1: bound them first, with tanh.")
    if not close(values[[0, -1]], [-1.0, 1.0]):
        raise Wrong(
            f"Your values run from {values[0]:.2g} to {values[-1]:.2g}; they should run from -1 to 1. Stretch "
            "by (levels - 1) / 2, round, and divide by the same again."
        )
    if len(values) != 5:
        raise Wrong(
            f"With 5 levels there should be 5 values; you have {len(values)}. From -2 to 2 there are five "
            "whole numbers: stretch by (levels - 1) / 2."
        )
    if not close(given, _fsq(z, 5)):
        raise Wrong("Five values, and the borders are elsewhere: tanh, times (levels - 1) / 2, round, divide again.")
    if not close(ask(answer, z, 7), _fsq(z, 7)):
        raise Wrong("It holds for 5 levels and not for 7.")
    return "four numbers of 5 levels are a book of 625 codes, without a book, a loss or a collapse."
