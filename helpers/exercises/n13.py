"""Exercises of notebook 13: precision, the unbiased kernel distance, comparing scores, the memory of training."""

import torch

from helpers.exercises.checking import Wrong, as_number, call, close, exercise


def _sets() -> tuple[torch.Tensor, torch.Tensor]:
    """60 generated and 40 real points, (., 2); some of the generated ones are outliers."""
    generator = torch.Generator().manual_seed(0)
    close_points = torch.randn(45, 2, generator=generator)
    outliers = 3 * torch.randn(15, 2, generator=generator) + 4
    return torch.cat([close_points, outliers]), torch.randn(40, 2, generator=generator)


def _precision(generated, real, k, skip_self=1):
    radius = torch.cdist(real, real).sort(1).values[:, k - 1 + skip_self]
    return (torch.cdist(generated, real) <= radius).any(1).float().mean()


@exercise(
    "13.1",
    mistakes={
        "itself": lambda generated, real, k: _precision(generated, real, k, skip_self=0),
        "recall": lambda generated, real, k: _precision(real, generated, k),
        "any ball": lambda generated, real, k: (
            (torch.cdist(generated, real) <= torch.cdist(real, real).sort(1).values[:, k]).float().mean()
        ),
    },
)
def precision(answer):
    """The share of generated points that lie in a ball around some real point."""
    generated, real = _sets()
    value = as_number(call(answer, generated, real, 3))
    expected = _precision(generated, real, 3)
    if not close(as_number(call(answer, real, real, 3)), 1.0):
        raise Wrong(
            "If the generated points are the real ones, the precision should be 1: it is enough to lie in any ball, "
            "not in all of them."
        )
    if all(
        close(as_number(call(answer, generated, real, k)), _precision(generated, real, k, skip_self=0)) for k in (1, 3)
    ):
        raise Wrong(
            "The nearest neighbour of a real point is the point itself, at distance 0: the third neighbour is the "
            "fourth in the sorted order."
        )
    if close(value, _precision(real, generated, 3)):
        raise Wrong("That is the recall: balls around the generated points, and the share of real points in them.")
    if not close(value, expected):
        raise Wrong(
            f"It should be {float(expected):.3f}; yours is {value:.3f}. Every real point has a different radius: the "
            "distance to its k-th real neighbour."
        )
    if not close(as_number(call(answer, generated, real, 1)), _precision(generated, real, 1)):
        raise Wrong("It works for k = 3 but not for k = 1.")
    return "how many generated faces look real. It does not say how much of the variety of real faces is generated."


def _kernel(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def _kid(a, b):
    within = sum((k.sum() - k.diag().sum()) / (len(k) * (len(k) - 1)) for k in (_kernel(a, a), _kernel(b, b)))
    return within - 2 * _kernel(a, b).mean()


@exercise(
    "13.2",
    mistakes={
        "with itself": lambda a, b: _kernel(a, a).mean() + _kernel(b, b).mean() - 2 * _kernel(a, b).mean(),
        "twice": lambda a, b: _kid(a, b) + _kernel(a, b).mean(),
        "may be negative": lambda a, b: _kid(a, b).abs().sqrt(),
    },
)
def kernel_distance(answer):
    """The unbiased estimate of the kernel distance."""
    generator = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(n, 4, generator=generator) + shift for n, shift in [(30, 0), (20, 0), (20, 1)])
    value = as_number(call(answer, a, c))
    expected = _kid(a, c)
    if close(value, _kernel(a, a).mean() + _kernel(c, c).mean() - 2 * _kernel(a, c).mean()):
        raise Wrong(
            "You also compare every image with itself, which makes the sets look more similar within than they are. "
            "Leave out the diagonals."
        )
    if close(value, expected + _kernel(a, c).mean()):
        raise Wrong("The term across the two sets counts twice: (a - b)^2 contains 2ab.")
    if close(value, expected.abs().sqrt()):
        raise Wrong("Take no root and no absolute value: the estimate may be negative, otherwise it would be biased.")
    if not close(value, expected):
        raise Wrong(
            f"It should be {float(expected):.3f}; yours is {value:.3f}: the mean within a, plus the mean within b, "
            "both without the diagonal, minus twice the mean across; the kernel is (x.y / D + 1)^3."
        )
    if not close(as_number(call(answer, a, b)), _kid(a, b)):
        raise Wrong("For two sets from the same distribution it should be about 0, and it may be negative.")
    return "zero on average for two sets from the same distribution, whatever their size. The Fréchet distance is not."


@exercise(
    "13.3",
    mistakes={
        "both": lambda a, error_a, b, error_b: abs(a - b) > error_a,
        "whichever": lambda a, error_a, b, error_b: a - b > error_a + error_b,
        "enough": lambda a, error_a, b, error_b: abs(a - b) > 0,
        "10.4": lambda a, error_a, b, error_b: abs(a - b) > (error_a**2 + error_b**2) ** 0.5,
    },
)
def differ(answer):
    """The course's rule for two scores: they differ by more than the sum of their standard errors."""
    cases = [
        ((5.0, 0.1, 5.2, 0.05), True),
        ((7.7, 1.7, 10.1, 1.9), False),
        ((10.0, 1.0, 5.0, 1.0), True),
        ((5.0, 1.0, 5.2, 1.0), False),
        ((5.0, 1.0, 10.0, 1.0), True),
        ((1.0, 0.0, 1.0, 0.0), False),
        ((7.7, 1.7, 10.4, 1.9), False),
    ]
    results = []
    for case, _ in cases:
        result = call(answer, *case)
        results.append(result.item() if hasattr(result, "item") else result)
    if not all(isinstance(result, bool) for result in results):
        raise Wrong("Return True or False: is the difference larger than the standard errors can explain?")
    if results[1] and results[3]:
        raise Wrong(
            "7.7 +- 1.7 and 10.1 +- 1.9: it is not enough that they differ. Other samples would give other scores."
        )
    if results[1]:
        raise Wrong("7.7 +- 1.7 and 10.1 +- 1.9 are 2.4 apart, less than 3.6. Do you add both standard errors?")
    if results[2] != results[4]:
        raise Wrong("The order of the two must not matter: take the absolute difference, whichever is larger.")
    for (case, expected), result in zip(cases, results, strict=True):
        if result != expected:
            a, error_a, b, error_b = case
            raise Wrong(
                f"{a} +- {error_a} and {b} +- {error_b}: your result is {not expected}. Compare the absolute "
                "difference with the sum of both standard errors."
            )
    return "a strict rule for a single comparison. With many comparisons some difference will be large by chance."


@exercise(
    "13.4",
    mistakes={
        "weights alone": 40.0,
        "average": 160.0,
        "two": 120.0,
    },
)
def kept_in_training(answer):
    """The memory that training needs for ten million parameters, in megabytes."""
    value = as_number(answer)
    if close(value, 40.0):
        raise Wrong(
            "Those are the weights alone. Training also stores for each a gradient, two moments of AdamW, and the EMA."
        )
    if close(value, 160.0):
        raise Wrong(
            "Weights, gradients, two moments of AdamW, and the moving average, which is as large as the weights."
        )
    if close(value, 120.0):
        raise Wrong("AdamW stores two moments for each weight: means of its gradients and of their squares.")
    if not close(value, 200.0):
        raise Wrong(f"{value:g} is not right: five values of four bytes for each of ten million weights.")
    return "200 MB, for any batch size. The activations, which are most of the memory, grow with the batch."
