"""Exercises of notebook 09: a step with a predicted image, loss weights, EMA with warm-up, padding masks."""

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "09.1",
    mistakes={
        "away from the image": lambda x_t, x0_hat, t, s: x_t + (t - s) * (x_t - x0_hat) / t,
        "The velocity divides by t": lambda x_t, x0_hat, t, s: x_t + (s - t) * (x_t - x0_hat),
        "as if it were the velocity": lambda x_t, x0_hat, t, s: x_t + (s - t) * x0_hat,
        "whatever s is": lambda x_t, x0_hat, t, s: x0_hat,
    },
)
def step_with_predicted_image(answer):
    """Euler's step on the straight path, from a prediction of the clean image."""
    generator = torch.Generator().manual_seed(0)
    x_t, x0_hat = torch.randn(2, 2, 3, 4, 4, generator=generator)
    t, s = 0.8, 0.6
    velocity = (x_t - x0_hat) / t
    result = as_tensor(call(answer, x_t, x0_hat, t, s), x_t)
    if close(result, x_t + (t - s) * velocity):
        raise Wrong("Your step leads away from the image, towards more noise. s is smaller than t: check the sign.")
    if close(result, x_t + (s - t) * t * velocity):
        raise Wrong("x_t - x0_hat is not the velocity yet. The velocity divides by t: on the path, x_t = x0 + t u.")
    if close(result, x_t + (s - t) * x0_hat):
        raise Wrong("You use the predicted image as if it were the velocity. Turn it into one first.")
    if close(result, x0_hat):
        raise Wrong("Yours is the predicted image, whatever s is. A step to s > 0 must leave a part of the noise.")
    if not close(result, x_t + (s - t) * velocity):
        raise Wrong("For t = 0.8 and s = 0.6 it should be x_t - 0.2 u, with the velocity u = (x_t - x0_hat) / 0.8.")
    if not close(as_tensor(call(answer, x_t, x0_hat, t, 0.0), x_t), x0_hat):
        raise Wrong("At s = 0 no noise is left: the step should end at the predicted image.")
    return "(s / t) x_t + (1 - s / t) x0_hat, a mixture of both. At s = 0 it is the predicted image itself."


@exercise(
    "09.2",
    mistakes={
        "velocity": lambda t: 1 / t**2,
        "not squared": lambda t: (1 - t) / t,
        "upside down": lambda t: (t / (1 - t)) ** 2,
    },
)
def noise_loss_weight(answer):
    """The weight that the loss of the noise puts on an error of the predicted image."""
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.95])
    result = as_tensor(call(answer, t), t)
    expected = ((1 - t) / t) ** 2
    if close(result, 1 / t**2):
        raise Wrong("That is the weight of the velocity loss. The noise is not the velocity: solve the path for it.")
    if close(result, expected.sqrt()):
        raise Wrong("That is the factor of the error itself, not squared. The loss is a squared error.")
    if close(result, 1 / expected):
        raise Wrong(
            "Yours is upside down: it is 0 at the image and unlimited at pure noise. Which error of the image belongs "
            "to a given error of the noise, and which one the other way round?"
        )
    if not close(result, expected):
        raise Wrong(
            "From x_t = (1 - t) x0 + t eps follows eps = (x_t - (1 - t) x0) / t. At fixed x_t, how much does eps "
            "change when x0 does?"
        )
    return (
        "((1 - t) / t)^2, the signal-to-noise ratio. At t = 1 it is 0: there the loss of the noise hardly counts an "
        "error of the image, although sampling starts there. The velocity loss still has weight 1."
    )


def _initial_share(steps, decay):
    share = 1.0
    for step in range(steps):
        share *= decay(step)
    return share


@exercise(
    "09.3",
    mistakes={
        "fixed decay": lambda n: 0.999**n,
        "other share": lambda n: 1 - _initial_share(n, lambda k: min(0.999, (1 + k) / (10 + k))),
        "counted from 0": lambda n: _initial_share(n, lambda k: min(0.999, (2 + k) / (11 + k))),
        "last step alone": lambda n: min(0.999, n / (9 + n)) if n else 1.0,
    },
)
def initial_share(answer):
    """How much of an EMA with warm-up is still the initial weights."""
    expected = {n: _initial_share(n, lambda k: min(0.999, (1 + k) / (10 + k))) for n in (0, 1, 2, 10)}
    values = {n: as_number(call(answer, n)) for n in expected}
    if all(close(values[n], 0.999**n) for n in values):
        raise Wrong("That is the share with a fixed decay of 0.999. With the warm-up, d is much smaller at first.")
    if all(close(values[n], 1 - expected[n]) for n in values):
        raise Wrong("That is the other share: what the steps have contributed. What is left of the initial weights?")
    if close(values[1], 2 / 11):
        raise Wrong("After one step the share should be 1/10: steps are counted from 0, so the first d is 1/10.")
    if close(values[1], 0.1) and close(values[2], 2 / 11):
        raise Wrong("After two steps yours is the d of the last step alone. Every step multiplies the share by its d.")
    for n, share in expected.items():
        if abs(values[n] - share) > 1e-3 * share:
            raise Wrong(f"After {n} steps the share should be {share:.3g}; yours is {values[n]:.3g}.")
    return (
        f"a product of all d. With the warm-up, {expected[10]:.0e} of the initial weights is left after ten steps; "
        "with a fixed d of 0.999 it would be 99 %."
    )


def _attention(q, k, v, mask, padding_score=-torch.inf):
    scores = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(~mask[:, None], padding_score)
    return scores.softmax(-1) @ v


@exercise(
    "09.4",
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
