"""Exercises of notebook 12: tokens of a picture, questions to patches, how sure a share is, and how sure a model."""

import math

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "12.1",
    mistakes={
        "whole": 512,
        "answers": 9 * 1024,
        "Nine": 9,
    },
)
def tokens(answer):
    """What a photograph of 1920 x 1080 costs in MiniCPM-V 2.6."""
    given = number(answer)
    if close(given, 512.0):
        raise Wrong("The eight slices are counted; the whole picture, shrunk, is read as well.")
    if close(given, 9.0 * 1024):
        raise Wrong("A slice has 1,024 patches, and 64 questions are put to them: only the answers are handed on.")
    if close(given, 9.0):
        raise Wrong("Nine pictures are read. Each becomes as many tokens as there are questions.")
    if not close(given, 576.0):
        raise Wrong(f"Not {given:g}: eight slices and the whole, 64 questions each.")
    return "576. PaliGemma at 896 pixels takes 4,096 tokens, and shows the photograph squeezed to a square."


@exercise(
    "12.2",
    mistakes={
        "each question": lambda queries, keys, values: (queries @ keys.T / keys.shape[1] ** 0.5).softmax(0) @ values,
        "root": lambda queries, keys, values: (queries @ keys.T).softmax(1) @ values,
        "as many answers": lambda queries, keys, values: (keys @ queries.T / keys.shape[1] ** 0.5).softmax(1) @ queries,
    },
)
def resampled(answer):
    """As many answers as questions, for any number of patches."""
    generator = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(n, 8, generator=generator) for n in (4, 30, 30))
    given = ask(answer, queries, keys, values)
    if getattr(given, "shape", None) == (30, 8):
        raise Wrong(
            "You have one row for each patch. There should be as many answers as questions: queries ask, keys "
            "are asked."
        )
    given = tensor(given, queries)
    scores = queries @ keys.T
    if close(given, (scores / 8**0.5).softmax(0) @ values):
        raise Wrong(
            "Your weights sum to 1 over the questions. For each question they should sum to 1 over the patches."
        )
    if close(given, scores.softmax(1) @ values):
        raise Wrong("Divide the products by the root of their width first, or one patch takes all.")
    if not close(given, (scores / 8**0.5).softmax(1) @ values):
        raise Wrong("softmax(queries keys^T / sqrt(d)), over the patches, times the values.")
    return "four answers for thirty patches, or for three thousand: the questions are what is learned."


def _interval(right, cases, z=2.0):
    p = right / cases
    middle = (p + z**2 / (2 * cases)) / (1 + z**2 / cases)
    reach = z * math.sqrt(p * (1 - p) / cases + z**2 / (4 * cases**2)) / (1 + z**2 / cases)
    return middle - reach, middle + reach


@exercise(
    "12.3",
    mistakes={
        "sure": lambda right, cases: ((p := right / cases) - (r := 2 * math.sqrt(p * (1 - p) / cases)), p + r),
        "narrower": lambda right, cases: _interval(right, cases, z=1.0),
        "Shares": lambda right, cases: tuple(cases * end for end in _interval(right, cases)),
    },
)
def interval(answer):
    """Wilson's interval: where the true share lies, nineteen times of twenty."""
    given = ask(answer, 20, 20)
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise Wrong("Two numbers are wanted: from, to.")
    low, high = map(number, given)
    if high > 1.5:
        raise Wrong("Shares are wanted, from 0 to 1; yours are counts.")
    if close((low, high), (1.0, 1.0), 1e-6):
        raise Wrong(
            "Twenty right of twenty, and you are sure that it can never be wrong: where p is 1, sqrt(p (1 - "
            "p)) is 0. Wilson's interval has a term that is left."
        )
    for right, cases in [(20, 20), (5, 10), (90, 120)]:
        given = [number(one) for one in ask(answer, right, cases)]
        wanted = _interval(right, cases)
        if close(given, _interval(right, cases, z=1.0)):
            raise Wrong(
                "That is one standard error, narrower than was wanted: two hold nineteen times of twenty. z = 2."
            )
        if not close(given, wanted):
            raise Wrong(
                f"{right} of {cases}: from {wanted[0]:.3f} to {wanted[1]:.3f}; you have {given[0]:.3f} to "
                f"{given[1]:.3f}. (p + 2/n +- 2 sqrt(p (1 - p) / n + 1/n^2)) / (1 + 4/n)."
            )
    return "20 of 20 may be 83 %. Never report a share without how many cases it rests on."


@exercise(
    "12.4",
    mistakes={
        "other way": lambda chances, right: right.float().mean() - chances.mean(),
        "wrong ones": lambda chances, right: chances[right].mean() - right.float().mean(),
        "size": lambda chances, right: (chances.mean() - right.float().mean()).abs(),
    },
)
def over_confidence(answer):
    """How much surer a model is than it is right."""
    chances = torch.tensor([0.99, 0.95, 0.9, 0.9, 0.6])
    bold = torch.tensor([True, True, False, False, False])
    shy = torch.tensor([True] * 5)
    given = number(ask(answer, chances, bold))
    wanted = 0.868 - 0.4
    if close(given, -wanted):
        raise Wrong("Yours is the other way round: surer than right should be positive.")
    if close(given, chances[bold].mean() - 0.4):
        raise Wrong(
            "You count the probabilities of right answers only. Sure and wrong is what we look for: take the "
            "wrong ones in."
        )
    if not close(given, wanted):
        raise Wrong(
            f"Mean probability {0.868:.3f}, share right 0.4: the difference is {wanted:.3f}; you have {given:.3f}."
        )
    if not close(number(ask(answer, chances, shy)), 0.868 - 1):
        raise Wrong(
            "A model that is right more often than it is sure should get a negative number: keep the sign, "
            "not the size alone."
        )
    return "0 for a calibrated model. It takes many answers: a single one is right or not, whatever its probability."
