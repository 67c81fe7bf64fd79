"""Exercises of notebook 07: the cost of guidance, velocities, EMA with warm-up, padding masks, Fréchet distance."""

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "07.1",
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
    "07.2",
    mistakes={
        "opposite direction": lambda x, x0, t: (x0 - x) / t[:, None],
        "far off": lambda x, x0, t: (x - x0) / (1 - t[:, None]),
        "noise": lambda x, x0, t: (x - (1 - t[:, None]) * x0) / t[:, None],
    },
)
def velocity(answer):
    """The velocity that follows from a predicted image."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=generator)
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0])
    x = (1 - t[:, None]) * x0 + t[:, None] * eps
    result = as_tensor(call(answer, x, x0, t), x)
    expected = eps - x0
    if close(result, -expected):
        raise Wrong("Yours points in the opposite direction. Velocity is noise minus data: noise grows with t.")
    if close(result, eps):
        raise Wrong("That is the noise. The velocity is the noise minus the image.")
    if not torch.isfinite(result).all() or (result - expected)[-1].abs().max() > 1e-3:
        raise Wrong(
            "At t = 1, pure noise, yours is far off. The path starts at the image and reaches x_t after a time of t: "
            "divide by t, not by 1 - t."
        )
    if not close(result, expected):
        raise Wrong("x_t = x0 + t u: the path is straight and begins at the image.")
    return "u = (x_t - x0) / t. So an error of the predicted image is weighted by 1 / t^2 in the velocity loss."


def _mix(average, weights, decay):
    return decay * average + (1 - decay) * weights


@exercise(
    "07.3",
    mistakes={
        "swapped": lambda average, weights, step: _mix(weights, average, min(0.999, (1 + step) / (10 + step))),
        "random initial": lambda average, weights, step: _mix(average, weights, 0.999),
        "without a limit": lambda average, weights, step: _mix(average, weights, (1 + step) / (10 + step)),
    },
)
def averaged(answer):
    """An EMA update with warm-up of the decay."""
    average = torch.zeros(3)
    weights = torch.ones(3)
    first = as_tensor(call(answer, average, weights, 0), average)[0].item()
    if close(first, 0.1) and not close(first, 0.9):
        raise Wrong("The two are swapped: in step 0, d = 1/10 is the factor of the old average, 9/10 of the weights.")
    if close(first, 0.001):
        raise Wrong(
            "In step 0 your average hardly changes, so hundreds of steps later it still contains the random initial "
            "weights. The warm-up (1 + k) / (10 + k) begins at 1/10."
        )
    if not close(first, 0.9):
        raise Wrong(f"From average 0 and weights 1, step 0 should give 0.9; you get {first:.3f}.")
    if not close(call(answer, average, weights, 20_000)[0].item(), 0.001, 1e-6):
        raise Wrong(
            "After 20,000 steps your d is above 0.999: without a limit the average becomes ever slower. Take the "
            "smaller of the warm-up and 0.999."
        )
    if not close(call(answer, 2 * weights, weights, 8)[0].item(), 1.5):
        raise Wrong("In step 8, d is 9/18: the result is the mean of average and weights.")
    return "a short memory at first, so that the initial weights are forgotten; later one of about a thousand steps."


def _attention(q, k, v, mask, padding_score=-torch.inf):
    scores = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(~mask[:, None], padding_score)
    return scores.softmax(-1) @ v


@exercise(
    "07.4",
    mistakes={
        "Padding has an effect": lambda q, k, v, real: (q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) @ v,
        "sum to 1": lambda q, k, v, real: ((q @ k.mT / k.shape[-1] ** 0.5).softmax(-1) * real[:, None]) @ v,
        "not a weight of 0": lambda q, k, v, real: _attention(q, k, v, real, padding_score=0.0),
    },
)
def masked_cross_attention(answer):
    """Cross-attention to the tokens of a caption, without its padding."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, generator=generator) for n in (6, 5, 5))
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    result = as_tensor(call(answer, q, k, v, mask), q)
    if not close(result[0], _attention(q, k, v, mask)[0]):
        raise Wrong(
            "For a caption without padding it should be the usual attention: softmax of q k^T / sqrt(d), times v."
        )
    changed = torch.where(mask[..., None], v, v + 1000)
    if not close(call(answer, q, k, changed, mask), result, 1e-2):
        if close(result, _attention(q, k, v, mask, padding_score=0.0)):
            reason = "A score of 0 is not a weight of 0, since exp(0) is 1. Fill with minus infinity."
        else:
            reason = "Its scores should be minus infinity before the softmax."
        raise Wrong(f"Padding has an effect: its values change the result. {reason}")
    if not close(result, _attention(q, k, v, mask)):
        raise Wrong("Padding has weight 0 now, but the other weights no longer sum to 1: mask *before* the softmax.")
    return "minus infinity before the softmax: padding has weight 0, and the weights of the real tokens sum to 1."


@exercise(
    "07.5",
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
