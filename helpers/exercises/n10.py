"""Exercises of notebook 10: the cost of guidance, Fréchet and kernel distance, how many images a comparison needs."""

import torch

from helpers.exercises.checking import Wrong, as_number, call, close, exercise


@exercise(
    "10.1",
    mistakes={
        "all steps": 24,
        "no guidance": 12,
        "once each": 14,
    },
)
def num_function_evaluations(answer):
    """The cost of twelve steps with guidance in an interval."""
    value = as_number(answer)
    if close(value, 24.0):
        raise Wrong("That is guidance in all steps. Outside the interval a step evaluates the network once.")
    if close(value, 12.0):
        raise Wrong("That is no guidance: inside the interval a step evaluates the network twice.")
    if close(value, 14.0):
        raise Wrong("Those are the seven guided steps. The other five evaluate the network once each.")
    if not close(value, 19.0):
        raise Wrong(
            f"{value:g} is not right. The steps begin at 12/12, 11/12, ..., 1/12: how many of them lie between 0.2 and "
            "0.8?"
        )
    return "seven steps with two evaluations and five with one: 19 instead of 24."


@exercise(
    "10.2",
    mistakes={
        "distance of the means": lambda a, b: (a.mean() - b.mean()) ** 2,
        "variances": lambda a, b: (a.mean() - b.mean()) ** 2 + (a.var() - b.var()) ** 2,
        "no root": lambda a, b: ((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2) ** 0.5,
    },
)
def frechet(answer):
    """The Fréchet distance of two sets of numbers."""
    line = torch.linspace(-1, 1, 2001)
    moved = as_number(call(answer, line, line + 2))
    if not close(moved, 4.0):
        hint = " It is a squared distance: no root at the end." if close(moved, 2.0) else ""
        raise Wrong(f"For a set that is shifted by 2, the distance should be 2^2; yours is {moved:.2f}.{hint}")
    stretched = as_number(call(answer, line, 3 * line))
    expected = (2 * line.std()) ** 2
    if close(stretched, 0.0):
        raise Wrong(
            "For a set that is stretched by 3, yours is 0: it is only the distance of the means. Standard deviations "
            "count as well."
        )
    if not close(stretched, expected, 1e-2):
        raise Wrong(
            f"For a set that is stretched by 3, the distance should be {expected:.2f}; yours is {stretched:.2f}. Do "
            "you compare variances? Subtract the standard deviations, their roots."
        )
    return (
        "(m - m')^2 + (s - s')^2. In several dimensions s becomes a covariance matrix: FID is this, on 2,048 features."
    )


def _mean_of_pairs(matrix):
    """The mean of a square matrix without its diagonal."""
    n = len(matrix)
    return (matrix.sum() - matrix.trace()) / (n * (n - 1))


def _kernel_distance(k_aa, k_bb, k_ab, across=2.0):
    return _mean_of_pairs(k_aa) + _mean_of_pairs(k_bb) - across * k_ab.mean()


@exercise(
    "10.3",
    mistakes={
        "with itself": lambda k_aa, k_bb, k_ab: k_aa.mean() + k_bb.mean() - 2 * k_ab.mean(),
        "not the number of pairs": lambda k_aa, k_bb, k_ab: (
            (k_aa.sum() - k_aa.trace()) / len(k_aa) ** 2
            + (k_bb.sum() - k_bb.trace()) / len(k_bb) ** 2
            - 2 * k_ab.mean()
        ),
        "only once": lambda k_aa, k_bb, k_ab: _kernel_distance(k_aa, k_bb, k_ab, across=1.0),
        "the wrong way round": lambda k_aa, k_bb, k_ab: -_kernel_distance(k_aa, k_bb, k_ab),
        "no root": lambda k_aa, k_bb, k_ab: _kernel_distance(k_aa, k_bb, k_ab).abs() ** 0.5,
    },
)
def kernel_distance_from_matrices(answer):
    """The unbiased kernel distance of two sets, from the kernel values of all pairs."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 3, generator=generator)
    b = torch.randn(8, 3, generator=generator) + 1
    k_aa, k_bb, k_ab = ((x @ y.T / 3 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    value = as_number(call(answer, k_aa, k_bb, k_ab))
    expected = _kernel_distance(k_aa, k_bb, k_ab)
    off_diagonal = (k_aa.sum() - k_aa.trace()) / 25 + (k_bb.sum() - k_bb.trace()) / 64
    if close(value, k_aa.mean() + k_bb.mean() - 2 * k_ab.mean()):
        raise Wrong("You compare every image with itself as well. Leave the diagonals of k_aa and k_bb out.")
    if close(value, off_diagonal - 2 * k_ab.mean()):
        raise Wrong("The diagonals are left out of the sum, but you divide by n^2, which is not the number of pairs.")
    if close(value, _kernel_distance(k_aa, k_bb, k_ab, across=1.0)):
        raise Wrong("You subtract the mean across the sets only once. It stands against two means within: twice.")
    if close(value, -expected):
        raise Wrong("The sign is the wrong way round: sets that differ are more alike within than across.")
    if close(value, expected.abs() ** 0.5):
        raise Wrong("The kernel distance is a squared distance: no root at the end. It may even be negative.")
    if not close(value, expected):
        raise Wrong(
            f"For a set of 5 and a set of 8 it should be {expected:.3f}; yours is {value:.3f}. There are n (n - 1) "
            "pairs of different images within a set of n, and n m pairs across."
        )
    return (
        "for two sets from one distribution it is zero on average, however few images there are. With the diagonals "
        "it would always be too large, and the more so the fewer images there are."
    )


def _images_needed(p, q, errors=2.0):
    return errors**2 * (p * (1 - p) + q * (1 - q)) / (p - q) ** 2


@exercise(
    "10.4",
    mistakes={
        "one standard error": lambda p, q: _images_needed(p, q, errors=1.0),
        "Square the 2": lambda p, q: _images_needed(p, q, errors=2.0**0.5),
        "Add variances": lambda p, q: 4 * ((p * (1 - p)) ** 0.5 + (q * (1 - q)) ** 0.5) ** 2 / (p - q) ** 2,
        "of one share alone": lambda p, q: 4 * p * (1 - p) / (p - q) ** 2,
        "squared in the denominator": lambda p, q: 4 * (p * (1 - p) + q * (1 - q)) / abs(p - q),
    },
)
def images_for_a_comparison(answer):
    """How many images make the difference of two shares twice its standard error."""
    p, q = 0.9, 0.8
    value = as_number(call(answer, p, q))
    expected = _images_needed(p, q)
    if close(value, _images_needed(p, q, errors=1.0)):
        raise Wrong("Then the difference is one standard error. It should be two.")
    if close(value, _images_needed(p, q, errors=2.0**0.5)):
        raise Wrong("Both sides of the equation are squared. Square the 2 in front of the standard error as well.")
    if close(value, 4 * ((p * (1 - p)) ** 0.5 + (q * (1 - q)) ** 0.5) ** 2 / (p - q) ** 2):
        raise Wrong("You add standard errors. Add variances, and take the root of the sum.")
    if any(close(value, 4 * x * (1 - x) / (p - q) ** 2) for x in (p, q)):
        raise Wrong("That is the variance of one share alone. Both are counted, and both can be off by luck.")
    if close(value, 4 * (p * (1 - p) + q * (1 - q)) / abs(p - q)):
        raise Wrong("The difference of the shares has to be squared in the denominator.")
    if not abs(value - expected) <= 1 + 1e-3 * expected:
        raise Wrong(
            f"For 0.9 and 0.8 it should be {expected:.0f} images; yours is {value:.4g}. The variance of the difference "
            "is p (1 - p) / n + q (1 - q) / n."
        )
    if not abs(as_number(call(answer, 0.94, 0.96)) - _images_needed(0.94, 0.96)) <= 2:
        raise Wrong("For 0.9 and 0.8 it is right, for 0.94 and 0.96 it is not. Is a number of the example left in it?")
    return (
        f"{expected:.0f} images each for 90 % against 80 %, but {_images_needed(0.96, 0.94):.0f} for 96 % against "
        "94 %. At equal variances, half the difference takes four times as many images."
    )
