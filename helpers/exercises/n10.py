"""Exercises of notebook 10: precision, an unbiased distance, differences and their spreads, what training keeps."""

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number


def _sets() -> tuple[torch.Tensor, torch.Tensor]:
    """60 drawn and 40 real points, (., 2): some of the drawn lie far out."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([torch.randn(45, 2, generator=generator), 3 * torch.randn(15, 2, generator=generator) + 4])
    return drawn, torch.randn(40, 2, generator=generator)


def _precision(drawn, real, k, itself=1):
    radius = torch.cdist(real, real).sort(1).values[:, k - 1 + itself]
    return (torch.cdist(drawn, real) <= radius).any(1).float().mean()


@exercise(
    "10.1",
    mistakes={
        "itself": lambda drawn, real, k: _precision(drawn, real, k, itself=0),
        "recall": lambda drawn, real, k: _precision(real, drawn, k),
        "some ball": lambda drawn, real, k: (
            (torch.cdist(drawn, real) <= torch.cdist(real, real).sort(1).values[:, k]).float().mean()
        ),
    },
)
def precision(answer):
    """The share of drawn points that lie in a ball around some real one."""
    drawn, real = _sets()
    given = number(ask(answer, drawn, real, 3))
    wanted = _precision(drawn, real, 3)
    if not close(number(ask(answer, real, real, 3)), 1.0):
        raise Wrong(
            "Real points, taken for drawn ones, should all be good: it is enough to lie in some ball, not in all."
        )
    if all(close(number(ask(answer, drawn, real, k)), _precision(drawn, real, k, itself=0)) for k in (1, 3)):
        raise Wrong(
            "The nearest point to a real point is itself, at distance 0: the third neighbour is the fourth in order."
        )
    if close(given, _precision(real, drawn, 3)):
        raise Wrong("That is the recall: balls around the drawn points, and the share of real points in them.")
    if not close(given, wanted):
        raise Wrong(
            f"It should be {float(wanted):.3f}; yours is {given:.3f}. Every real point has a radius of its "
            "own, the distance to its k-th real neighbour."
        )
    if not close(number(ask(answer, drawn, real, 1)), _precision(drawn, real, 1)):
        raise Wrong("It holds for k = 3 and not for k = 1.")
    return "how many drawn faces could be real ones. It says nothing about how many kinds of real ones are drawn."


def _kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def _kid(a, b):
    within = sum((k.sum() - k.diag().sum()) / (len(k) * (len(k) - 1)) for k in (_kernel(a, a), _kernel(b, b)))
    return within - 2 * _kernel(a, b).mean()


@exercise(
    "10.2",
    mistakes={
        "with itself": lambda a, b: _kernel(a, a).mean() + _kernel(b, b).mean() - 2 * _kernel(a, b).mean(),
        "twice": lambda a, b: _kid(a, b) + _kernel(a, b).mean(),
        "may be negative": lambda a, b: _kid(a, b).abs().sqrt(),
    },
)
def kernel_distance(answer):
    """The kernel distance without its bias."""
    generator = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(n, 4, generator=generator) + shift for n, shift in [(30, 0), (20, 0), (20, 1)])
    given = number(ask(answer, a, c))
    wanted = _kid(a, c)
    if close(given, _kernel(a, a).mean() + _kernel(c, c).mean() - 2 * _kernel(a, c).mean()):
        raise Wrong(
            "You compare every picture with itself, too: that makes the sets look more alike within than they "
            "are. Leave the diagonals out."
        )
    if close(given, wanted + _kernel(a, c).mean()):
        raise Wrong("The part across the two sets counts twice: (a - b)^2 has 2ab in it.")
    if close(given, wanted.abs().sqrt()):
        raise Wrong("No root and no absolute value: the estimate may be negative, or its mean would not be right.")
    if not close(given, wanted):
        raise Wrong(
            f"It should be {float(wanted):.3f}; yours is {given:.3f}: the mean within a, plus the mean within "
            "b, both without diagonals, less twice the mean across; kernel (x.y / D + 1)^3."
        )
    if not close(number(ask(answer, a, b)), _kid(a, b)):
        raise Wrong("For two sets of one kind it should be about 0, and may be negative.")
    return "zero on average for two sets of one kind, whatever their size. The Frechet distance cannot say that."


@exercise(
    "10.3",
    mistakes={
        "both": lambda a, spread_a, b, spread_b: abs(a - b) > spread_a,
        "whichever": lambda a, spread_a, b, spread_b: a - b > spread_a + spread_b,
        "enough": lambda a, spread_a, b, spread_b: abs(a - b) > 0,
        "10.4": lambda a, spread_a, b, spread_b: abs(a - b) > (spread_a**2 + spread_b**2) ** 0.5,
    },
)
def differ(answer):
    """The course's rule: farther apart than the two spreads together."""
    cases = [
        ((5.0, 0.1, 5.2, 0.05), True),
        ((7.7, 1.7, 10.1, 1.9), False),
        ((10.0, 1.0, 5.0, 1.0), True),
        ((5.0, 1.0, 5.2, 1.0), False),
        ((5.0, 1.0, 10.0, 1.0), True),
        ((1.0, 0.0, 1.0, 0.0), False),
        ((7.7, 1.7, 10.4, 1.9), False),
    ]
    said = [one.item() if hasattr(one, "item") else one for one in (ask(answer, *case) for case, _ in cases)]
    if not all(isinstance(one, bool) for one in said):
        raise Wrong("True or False is wanted: is the difference larger than the spreads can explain?")
    if said[1]:
        raise Wrong(
            "7.7 with a spread of 1.7 and 10.1 with 1.9: that they differ is not enough. Others would come "
            "out of "
            "other pictures."
            if said[3]
            else "7.7 +- 1.7 and 10.1 +- 1.9 are 2.4 apart, less than 3.6. Do you add both spreads?"
        )
    if said[2] != said[4]:
        raise Wrong("Which of the two is named first must not matter: the distance counts, whichever is larger.")
    wrong = [case for (case, wanted), one in zip(cases, said, strict=True) if wanted != one]
    if wrong:
        a, spread_a, b, spread_b = wrong[0]
        raise Wrong(
            f"{a} +- {spread_a} and {b} +- {spread_b}: you say {not (abs(a - b) > spread_a + spread_b)}. "
            "Compare the distance with the sum of both spreads."
        )
    return "a rule for one look, and a strict one. With many comparisons some difference will be large by chance."


@exercise(
    "10.4",
    mistakes={
        "weights alone": 40.0,
        "average": 160.0,
        "two": 120.0,
    },
)
def kept_in_training(answer):
    """What a training keeps for ten million parameters, in megabytes."""
    given = number(answer)
    if close(given, 40.0):
        raise Wrong(
            "Those are the weights alone. Training keeps a gradient for each, two numbers of AdamW, and the average."
        )
    if close(given, 160.0):
        raise Wrong("Weights, gradients, AdamW's two: and the moving average of the weights, which is as large again.")
    if close(given, 120.0):
        raise Wrong("AdamW keeps two numbers for each weight: a mean of its gradients, and one of their squares.")
    if not close(given, 200.0):
        raise Wrong(f"Not {given:g}: five numbers of four bytes for each of ten million weights.")
    return "200 MB, for any batch. What grows with the batch are the activations, and they are most of it."
