"""Exercises of notebook 07: what guidance costs, velocities, averages, padded captions, a distance of clouds."""

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "07.1",
    mistakes={
        "all the way": 24,
        "at all": 12,
        "once as well": 14,
    },
)
def num_function_evaluations(answer):
    """What twelve steps cost that are guided in the middle."""
    given = number(answer)
    if close(given, 24.0):
        raise Wrong("That is guidance all the way. Outside the interval the network is asked once a step.")
    if close(given, 12.0):
        raise Wrong("That is no guidance at all: inside the interval the network is asked twice a step.")
    if close(given, 14.0):
        raise Wrong("Those are the seven guided steps. The other five ask once as well.")
    if not close(given, 19.0):
        raise Wrong(f"Not {given:g}. The steps begin at 12/12, 11/12, ..., 1/12: how many of them lie from 0.2 to 0.8?")
    return "seven steps with two questions, five with one: 19 in place of 24."


@exercise(
    "07.2",
    mistakes={
        "other way": lambda x, x0, t: (x0 - x) / t[:, None],
        "far off": lambda x, x0, t: (x - x0) / (1 - t[:, None]),
        "noise": lambda x, x0, t: (x - (1 - t[:, None]) * x0) / t[:, None],
    },
)
def velocity(answer):
    """The velocity that a predicted picture implies."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=generator)
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0])
    x = (1 - t[:, None]) * x0 + t[:, None] * eps
    given = tensor(ask(answer, x, x0, t), x)
    wanted = eps - x0
    if close(given, -wanted):
        raise Wrong("Yours points the other way. Velocity is noise minus data: with t the noise grows.")
    if close(given, eps):
        raise Wrong("That is the noise. The velocity is the noise minus the picture.")
    if not torch.isfinite(given).all() or (given - wanted)[-1].abs().max() > 1e-3:
        raise Wrong(
            "At t = 1, pure noise, yours is far off. From the picture to x_t the path has gone for a time of "
            "t: divide by t, not by 1 - t."
        )
    if not close(given, wanted):
        raise Wrong("x_t = x0 + t u: the path is straight and begins at the picture.")
    return "u = (x_t - x0) / t. So an error of the picture counts 1 / t^2 in the velocity's loss."


def _mixed(average, weights, d):
    return d * average + (1 - d) * weights


@exercise(
    "07.3",
    mistakes={
        "exchanged": lambda average, weights, step: _mixed(weights, average, min(0.999, (1 + step) / (10 + step))),
        "random start": lambda average, weights, step: _mixed(average, weights, 0.999),
        "without end": lambda average, weights, step: _mixed(average, weights, (1 + step) / (10 + step)),
    },
)
def averaged(answer):
    """One update of an average of weights that starts short and lengthens."""
    average = torch.zeros(3)
    weights = torch.ones(3)
    first = tensor(ask(answer, average, weights, 0), average)[0].item()
    if close(first, 0.1) and not close(first, 0.9):
        raise Wrong("The two are exchanged: in step 0, d = 1/10 belongs to the old average, 9/10 to the weights.")
    if close(first, 0.001):
        raise Wrong(
            "In step 0 your average stays where it was, and hundreds of steps later it still holds the random "
            "start. The ramp (1 + k) / (10 + k) begins at 1/10."
        )
    if not close(first, 0.9):
        raise Wrong(f"From average 0 and weights 1, step 0 should make 0.9; you have {first:.3f}.")
    if not close(ask(answer, average, weights, 20_000)[0].item(), 0.001, 1e-6):
        raise Wrong(
            "After 20,000 steps d is beyond 0.999: without end the average grows stiffer, until it learns "
            "nothing. Take the smaller of ramp and 0.999."
        )
    if not close(ask(answer, 2 * weights, weights, 8)[0].item(), 1.5):
        raise Wrong("In step 8 d is 9/18: the mean of average and weights.")
    return "short at first, so that the random start is forgotten; then about a thousand steps long."


def _attention(q, k, v, real, padding=-torch.inf):
    scores = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(~real[:, None], padding)
    return scores.softmax(-1) @ v


@exercise(
    "07.4",
    mistakes={
        "is heard": lambda q, k, v, real: (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) @ v,
        "sum to 1": lambda q, k, v, real: ((q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) * real[:, None]) @ v,
        "not a zero": lambda q, k, v, real: _attention(q, k, v, real, padding=0.0),
    },
)
def ask_words(answer):
    """Places that ask the words of a caption, and not what fills it up."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, generator=generator) for n in (6, 5, 5))
    real = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    given = tensor(ask(answer, q, k, v, real), q)
    if not close(given[0], _attention(q, k, v, real)[0]):
        raise Wrong("A caption without padding should be asked as ever: softmax of q k^T / sqrt(d), times v.")
    loud = torch.where(real[..., None], v, v + 1000)
    if not close(ask(answer, q, k, loud, real), given, 1e-2):
        zeroed = _attention(q, k, v, real, padding=0.0)
        raise Wrong(
            "Padding is heard: its values change the answer. "
            + (
                "A score of 0 is not a zero weight: exp(0) is 1. Fill with minus infinity."
                if close(given, zeroed)
                else "Its scores should be minus infinity before the softmax."
            )
        )
    if not close(given, _attention(q, k, v, real)):
        raise Wrong(
            "Padding is silent now, and the weights of the real words no longer sum to 1: mask *before* the softmax."
        )
    return "minus infinity before the softmax: weight 0 for padding, and the words share all of it."


@exercise(
    "07.5",
    mistakes={
        "distance of the means": lambda a, b: (a.mean() - b.mean()) ** 2,
        "variances": lambda a, b: (a.mean() - b.mean()) ** 2 + (a.var() - b.var()) ** 2,
        "no root": lambda a, b: ((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2) ** 0.5,
    },
)
def frechet(answer):
    """The Frechet distance of two clouds of single numbers."""
    line = torch.linspace(-1, 1, 2001)
    if not close(number(ask(answer, line, line + 2)), 4.0):
        given = number(ask(answer, line, line + 2))
        raise Wrong(
            f"Moved by 2, the distance should be 2^2; yours is {given:.2f}. "
            + ("It is a squared distance: no root at the end." if close(given, 2.0) else "")
        )
    given = number(ask(answer, line, 3 * line))
    wanted = (2 * line.std()) ** 2
    if close(given, 0.0):
        raise Wrong(
            "Stretched three times, and yours sees no difference: that is only the distance of the means. "
            "Spreads count as well."
        )
    if not close(given, wanted, 1e-2):
        raise Wrong(
            f"Stretched three times the distance should be {wanted:.2f}; yours is {given:.2f}. Do you compare "
            "variances? The spreads, their roots, are what is subtracted."
        )
    return "(m - m')^2 + (s - s')^2. With many numbers a matrix takes the place of s: FID is this, on 2,048 features."
