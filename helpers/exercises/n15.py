"""Exercises of notebook 15: image tokens, the resampler, confidence intervals of a share, overconfidence."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_pair, as_tensor, call, close, exercise


@exercise(
    "15.1",
    mistakes={
        "whole": 512,
        "queries": 9 * 1024,
        "Nine": 9,
    },
)
def tokens(answer):
    """The number of tokens of a photograph of 1920 x 1080 in MiniCPM-V 2.6."""
    value = as_number(answer)
    if close(value, 512.0):
        raise Wrong("You count the eight slices; the whole image, resized, is encoded as well.")
    if close(value, 9.0 * 1024):
        raise Wrong("A slice has 1,024 patches, but the resampler has 64 queries: only their outputs are passed on.")
    if close(value, 9.0):
        raise Wrong("Nine images are encoded. Each becomes as many tokens as the resampler has queries.")
    if not close(value, 576.0):
        raise Wrong(f"{value:g} is not right: eight slices and the whole image, 64 queries each.")
    return "576. PaliGemma at 896 pixels needs 4,096 tokens, and it sees the photograph distorted to a square."


@exercise(
    "15.2",
    mistakes={
        "each query": lambda queries, keys, values: (queries @ keys.T / keys.shape[1] ** 0.5).softmax(0) @ values,
        "root": lambda queries, keys, values: (queries @ keys.T).softmax(1) @ values,
        "as many outputs": lambda queries, keys, values: (keys @ queries.T / keys.shape[1] ** 0.5).softmax(1) @ queries,
    },
)
def resampled(answer):
    """As many outputs as queries, for any number of patches."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(n, 8, generator=generator) for n in (4, 30, 30))
    result = call(answer, queries, keys, values)
    if getattr(result, "shape", None) == (30, 8):
        raise Wrong(
            "You have a row for each patch. There should be as many outputs as queries: the queries attend to the keys."
        )
    result = as_tensor(result, queries)
    scores = queries @ keys.T
    if close(result, (scores / 8**0.5).softmax(0) @ values):
        raise Wrong("Your weights sum to 1 over the queries. For each query they should sum to 1 over the patches.")
    if close(result, scores.softmax(1) @ values):
        raise Wrong("Divide the scores by the root of the width first; otherwise a single patch gets all the weight.")
    if not close(result, (scores / 8**0.5).softmax(1) @ values):
        raise Wrong("softmax(queries keys^T / sqrt(d)), over the patches, times the values.")
    return "there are as many outputs as queries, whether for thirty patches or for three thousand."


def _interval(right, cases, z=2.0):
    p = right / cases
    middle = (p + z**2 / (2 * cases)) / (1 + z**2 / cases)
    half_width = z * math.sqrt(p * (1 - p) / cases + z**2 / (4 * cases**2)) / (1 + z**2 / cases)
    return middle - half_width, middle + half_width


def _normal_interval(right, cases):
    p = right / cases
    half_width = 2 * math.sqrt(p * (1 - p) / cases)
    return p - half_width, p + half_width


@exercise(
    "15.3",
    mistakes={
        "certain": _normal_interval,
        "too narrow": lambda right, cases: _interval(right, cases, z=1.0),
        "shares": lambda right, cases: tuple(cases * end for end in _interval(right, cases)),
    },
)
def interval(answer):
    """Wilson's 95 % confidence interval for a share."""
    message = "Return two numbers: the lower and the upper end."
    low, high = as_pair(call(answer, 20, 20), message)
    if high > 1.5:
        raise Wrong("Return shares, from 0 to 1; yours are counts.")
    if close((low, high), (1.0, 1.0), 1e-6):
        raise Wrong(
            "Twenty right out of twenty, and your interval says it is certain that the model is never wrong: for p = "
            "1, sqrt(p (1 - p)) is 0. Wilson's interval has another term, which remains."
        )
    for right, cases in [(20, 20), (5, 10), (90, 120)]:
        result = as_pair(call(answer, right, cases), message)
        expected = _interval(right, cases)
        if close(result, _interval(right, cases, z=1.0)):
            raise Wrong("That is one standard error, which is too narrow: a 95 % interval needs two. z = 2.")
        if not close(result, expected):
            raise Wrong(
                f"{right} of {cases}: from {expected[0]:.3f} to {expected[1]:.3f}; you get {result[0]:.3f} to "
                f"{result[1]:.3f}. (p + 2/n +- 2 sqrt(p (1 - p) / n + 1/n^2)) / (1 + 4/n)."
            )
    return "with 20 of 20 right, the accuracy may still be 83 %. Never report a share without the number of cases."


@exercise(
    "15.4",
    mistakes={
        "sign is inverted": lambda chances, right: right.float().mean() - chances.mean(),
        "wrong ones": lambda chances, right: chances[right].mean() - right.float().mean(),
        "absolute value": lambda chances, right: (chances.mean() - right.float().mean()).abs(),
    },
)
def over_confidence(answer):
    """Overconfidence: mean confidence minus accuracy."""
    confidence = torch.tensor([0.99, 0.95, 0.9, 0.9, 0.6])
    two_right = torch.tensor([True, True, False, False, False])
    all_right = torch.tensor([True] * 5)
    value = as_number(call(answer, confidence, two_right))
    expected = 0.868 - 0.4
    if close(value, -expected):
        raise Wrong("Your sign is inverted: overconfidence should be positive.")
    if close(value, confidence[two_right].mean() - 0.4):
        raise Wrong(
            "You average the probabilities of right answers only. Overconfidence is about wrong answers with a high "
            "probability: include the wrong ones."
        )
    if not close(value, expected):
        raise Wrong(
            f"Mean confidence {0.868:.3f}, accuracy 0.4: the difference is {expected:.3f}; you get {value:.3f}."
        )
    if not close(as_number(call(answer, confidence, all_right)), 0.868 - 1):
        raise Wrong(
            "A model that is more accurate than it is confident should get a negative number: do not take the absolute "
            "value."
        )
    return "it is 0 for a calibrated model. Measure it on many answers: a single one is right or wrong."
