"""Exercises of notebook 08: bits, k-means with a dead code, a straight-through switch, perplexity, FSQ."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "08.1",
    mistakes={
        "one bit more": 2048,
        "bits of an index": 20,
        "bits of the whole map": 5120,
        "Four times": 4096,
    },
)
def codebook_size(answer):
    """The codebook that takes twice the bits of 1,024 codes on the same grid: its square."""
    value = as_number(answer)
    if close(value, 2048.0):
        raise Wrong("Twice the codes are only one bit more for each index: 11 instead of 10. You may spend 20.")
    if close(value, 20.0):
        raise Wrong("Those are the bits of an index. How many codes can 20 bits tell apart?")
    if close(value, 5120.0):
        raise Wrong("Those are the bits of the whole map. What is left for each of its 256 indices?")
    if close(value, 4096.0):
        raise Wrong("Four times the codes are two bits more for each index: 12 instead of 10. You may spend 20.")
    if not close(value, 2.0**20):
        raise Wrong(f"{value:g} is not right: an index of 1,024 codes takes 10 bits. It may take 20 now.")
    return "1,048,576 codes. Two residual codebooks of 1,024 give the same bits with 2,048 vectors to learn."


def _k_means_step(points: torch.Tensor, codes: torch.Tensor, fallback: torch.Tensor | None = None) -> torch.Tensor:
    """One step of k-means; a code without points moves to `fallback`, by default to the worst quantised point."""
    distances, indices = torch.cdist(points, codes).min(1)
    fallback = points[distances.argmax()].expand_as(codes) if fallback is None else fallback
    chosen = [indices == k for k in range(len(codes))]
    return torch.stack([points[rows].mean(0) if rows.any() else fallback[k] for k, rows in enumerate(chosen)])


def _least_distant_fallback(points: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    distances = torch.cdist(points, codes).min(1).values
    return _k_means_step(points, codes, points[distances.argmin()].expand_as(codes))


@exercise(
    "08.2",
    mistakes={
        "`nan`": lambda points, codes: _k_means_step(points, codes, torch.full_like(codes, math.nan)),
        "where it was": lambda points, codes: _k_means_step(points, codes, codes),
        "not the mean": lambda points, codes: codes,
        "smallest distance": _least_distant_fallback,
        "at the origin": lambda points, codes: _k_means_step(points, codes, torch.zeros_like(codes)),
    },
)
def k_means_step(answer):
    """A step of k-means in which a code without points moves to the worst quantised point."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 2, generator=generator)
    codes = torch.cat([points[:5], torch.tensor([[9.0, 9.0]])])
    distances, indices = torch.cdist(points, codes).min(1)
    expected = _k_means_step(points, codes)
    result = as_tensor(call(answer, points, codes), expected)
    if result.isnan().any():
        raise Wrong("Your result contains `nan`: the last of our six codes has no points, and they have no mean.")
    if not close(result[:5], expected[:5]):
        k = int((result[:5] - expected[:5]).abs().sum(1).argmax())
        raise Wrong(f"Code {k} is chosen by {int((indices == k).sum())} points, but it is not the mean of them.")
    if close(result[5], codes[5]):
        raise Wrong("The code that no point chose stayed where it was, so it is still nobody's nearest code.")
    if close(result[5], torch.zeros(2)):
        raise Wrong("The code that no point chose is at the origin. It should move to a point of the data.")
    if close(result[5], points[distances.argmin()]):
        raise Wrong("You take the point with the smallest distance to its nearest code; the largest is needed.")
    if not close(result[5], expected[5]):
        raise Wrong(
            "The code that no point chose should move to the point whose distance to its *nearest* code is largest: "
            "first the minimum over codes, then the argmax over points."
        )
    return "the code moves to where it is needed most. EMAQuantizer resets to a random vector, which avoids outliers."


@exercise(
    "08.3",
    mistakes={
        "no gradient": lambda logits: (logits > 0).float(),
        "0 or 1": torch.sigmoid,
        "gradient of the logit itself": lambda logits: logits + ((logits > 0).float() - logits).detach(),
        "0 and not 1": lambda logits: logits.sigmoid() + ((logits >= 0).float() - logits.sigmoid()).detach(),
    },
)
def switch(answer):
    """A hard decision in the forward pass, with the gradient of a sigmoid."""
    logits = torch.tensor([[-3.0, -0.4, 0.2], [0.0, 1.0, 2.5]], requires_grad=True)
    slope = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.5, -1.0]])
    hard = (logits > 0).float()
    smooth = logits.sigmoid()
    result = as_tensor(call(answer, logits), logits)
    if close(result, smooth):
        raise Wrong("In the forward pass the result should be 0 or 1; yours is the sigmoid itself.")
    if close(result, (logits >= 0).float()):
        raise Wrong("Nearly: a logit of exactly 0 is not positive, so the decision is 0 and not 1.")
    if not close(result, hard):
        raise Wrong("In the forward pass the result should be 1.0 where the logit is positive, and 0.0 elsewhere.")
    if not result.requires_grad:
        raise Wrong(
            "A comparison has no gradient, so the network would not learn. Add what has one, and detach the rest."
        )
    (gradient,) = torch.autograd.grad((result * slope).sum(), logits, allow_unused=True)
    if gradient is None:
        raise Wrong("Your result does not depend on the logits, so the network would not learn when to switch.")
    if close(gradient, slope):
        raise Wrong("That is the gradient of the logit itself. Let it pass through the sigmoid of the logit instead.")
    if not close(gradient, slope * smooth * (1 - smooth)):
        raise Wrong("The gradient is not that of the sigmoid: detach only the difference between hard and smooth.")
    return "smooth + (hard - smooth).detach(). FSQ does the same with a tanh, and with more than two levels."


@exercise(
    "08.4",
    mistakes={
        "all codes were chosen equally often": 1024,
        "half of the codes": 512,
        "entropy itself": math.log(2 * math.sqrt(1023)),
        "entropy in bits": math.log2(2 * math.sqrt(1023)),
        "as if the others did not occur": 2,
    },
)
def perplexity(answer):
    """Perplexity of 1,024 codes, one of which is chosen half of the time: 2 sqrt(1023)."""
    value = as_number(answer)
    expected = 2 * math.sqrt(1023)
    if close(value, 1024.0, 2e-3):
        raise Wrong("That would be right if all codes were chosen equally often. One is chosen every second time.")
    if close(value, 512.0, 2e-3):
        raise Wrong("Half of the positions are not half of the codes. Add up the entropy first.")
    if close(value, 2.0):
        raise Wrong("That is as if the others did not occur one by one: each of the 1,023 has its own small frequency.")
    if close(value, math.log(expected), 1e-2):
        raise Wrong("That is the entropy itself. The perplexity is its exponential.")
    if close(value, math.log2(expected), 1e-2):
        raise Wrong("That is the entropy in bits. The perplexity is 2 to that power.")
    if not close(value, expected, 2e-3):
        raise Wrong(f"{value:g} is not right: p is 1/2 once and 1/2046 for 1,023 codes. Sum -p ln p, then take exp.")
    return "about 64, although all 1,024 codes are in use: 6 bits instead of 10. Utilisation alone would not show it."


def _fsq(z, levels):
    return torch.round(torch.tanh(z) * (levels - 1) / 2) / ((levels - 1) / 2)


@exercise(
    "08.5",
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
