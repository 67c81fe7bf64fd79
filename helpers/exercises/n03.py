"""Exercises of notebook 03: the best prediction for two values, Heun's method, the score, steps in log SNR."""

import torch

from helpers.exercises.checking import Wrong, as_tensor, call, close, exercise


def _data_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """x0 and eps, (5, 2) each."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)


def _two_points(x, alpha, sigma):
    return torch.tanh(alpha * x / sigma**2)


@exercise(
    "03.1",
    mistakes={
        "nearer": lambda x, alpha, sigma: torch.sign(x),
        "undoes": lambda x, alpha, sigma: x / alpha,
        "probability": lambda x, alpha, sigma: torch.sigmoid(2 * alpha * x / sigma**2),
        "square": lambda x, alpha, sigma: torch.tanh(alpha * x / sigma),
        "half": lambda x, alpha, sigma: torch.tanh(2 * alpha * x / sigma**2),
        "centred": lambda x, alpha, sigma: torch.tanh(x / sigma**2),
        "Gaussian data": lambda x, alpha, sigma: alpha * x / (alpha**2 + sigma**2),
    },
)
def best_prediction(answer):
    """The posterior mean for data that are -1 or 1, derived by hand."""
    x = torch.linspace(-2, 2, 9)
    for alpha, sigma in ((0.8, 0.6), (0.5, 0.9)):
        result = as_tensor(call(answer, x, alpha, sigma), x)
        if close(result, _two_points(x, alpha, sigma)):
            continue
        wrong = {
            "That is the nearer of the two values. It is the most probable one, but the squared error asks for the "
            "average of both, weighted by their probabilities.": torch.sign(x),
            "That undoes the shrinking and leaves the noise in. Between -1 and 1 lies every average of the two.": x
            / alpha,
            "That is the probability that the value was 1. The prediction is an average: 1 times that probability, and "
            "-1 times the other.": torch.sigmoid(2 * alpha * x / sigma**2),
            "Almost: the exponent of a Gaussian contains the square of sigma.": torch.tanh(alpha * x / sigma),
            "Almost: your argument is twice as large as it should be. The exponent of a Gaussian has a half, "
            "-(x - mean)^2 / (2 sigma^2).": torch.tanh(2 * alpha * x / sigma**2),
            "The noisy values are centred at -alpha and alpha, not at -1 and 1.": torch.tanh(x / sigma**2),
            "That is right for Gaussian data of variance 1, a straight line. Here only two values are possible.": alpha
            * x
            / (alpha**2 + sigma**2),
        }
        for message, other in wrong.items():
            if close(result, other):
                raise Wrong(message)
        raise Wrong(
            "The likelihoods of x are exp(-(x - alpha)^2 / (2 sigma^2)) if the value was 1, and the same with + alpha "
            f"if it was -1. At x = 0 the average must be 0, and yours is {float(result[4]):.3g}."
        )
    return (
        "tanh(alpha x / sigma^2): nearly a straight line through 0 at high noise, where it predicts the mean, and "
        "nearly a step at low noise, where it decides. Every denoiser makes this transition, point by point."
    )


def _step(velocity, x, t, s, *, second_at=None, from_trial=False, half=False):
    """Heun's step, or one of its variants that are not Heun's."""
    first = velocity(x, t)
    if half:
        return x + (s - t) * velocity(x + (s - t) / 2 * first, (t + s) / 2)
    trial = x + (s - t) * first
    second = velocity(trial, s) if second_at is None else velocity(*second_at(x, trial, t, s))
    return (trial if from_trial else x) + (s - t) * (first + second) / 2


@exercise(
    "03.2",
    mistakes={
        "Euler": lambda velocity, x, t, s: x + (s - t) * velocity(x, t),
        "the old time": lambda *args: _step(*args, second_at=lambda x, trial, t, s: (trial, t)),
        "the old place": lambda *args: _step(*args, second_at=lambda x, trial, t, s: (x, s)),
        "from the start": lambda *args: _step(*args, from_trial=True),
        "midpoint": lambda *args: _step(*args, half=True),
        "only the second": lambda velocity, x, t, s: x + (s - t) * velocity(x + (s - t) * velocity(x, t), s),
    },
)
def heun_step(answer):
    """A step of Heun's method on the straight path."""
    x, _ = _data_and_noise()
    t = 0.8
    s = 0.5

    def velocity(x, t):
        return t * x

    result = as_tensor(call(answer, velocity, x, t, s), x)
    wrong = {
        "That is a step of Euler's method, with one evaluation. Use it as a trial, and evaluate the velocity once more "
        "where it ends.": x + (s - t) * velocity(x, t),
        "You evaluate the second velocity at the old time t. The trial step ends at time s.": _step(
            velocity, x, t, s, second_at=lambda x, trial, t, s: (trial, t)
        ),
        "You evaluate the second velocity at the old place x. Evaluate it where the trial step ends.": _step(
            velocity, x, t, s, second_at=lambda x, trial, t, s: (x, s)
        ),
        "The trial step is only a trial: with the mean velocity, step from the start x again.": _step(
            velocity, x, t, s, from_trial=True
        ),
        "That is the midpoint method, which evaluates the velocity halfway. It has order 2 as well, but Heun's method "
        "takes the mean of the velocities at both ends.": _step(velocity, x, t, s, half=True),
        "You use only the second velocity. Step along the mean of both.": x
        + (s - t) * velocity(x + (s - t) * velocity(x, t), s),
    }
    for message, other in wrong.items():
        if close(result, other):
            raise Wrong(message)
    if not close(result, _step(velocity, x, t, s)):
        raise Wrong(
            "First trial = x + (s - t) * velocity(x, t). Then the mean of velocity(x, t) and velocity(trial, s), and "
            "one step along it from x. Mind the sign of the step: s - t is negative."
        )
    return (
        "two evaluations per step, and order 2: the trial shows how the velocity changes during the step. If the steps "
        "are so long that the trial ends far from the trajectory, it shows little, as with 5 evaluations in section 6."
    )


@exercise(
    "03.3",
    mistakes={
        "the noise itself": lambda x, u, t: x + (1 - t) * u,
        "sign": lambda x, u, t: (x + (1 - t) * u) / t,
        "clean data": lambda x, u, t: -(x - t * u) / t,
        "by t once": lambda x, u, t: -(x + (1 - t) * u) / t**2,
        "whole velocity": lambda x, u, t: -(x + u) / t,
    },
)
def score_from_velocity(answer):
    """From the velocity to the score function, derived by hand."""
    x0, eps = _data_and_noise()
    for t in (0.7, 0.2):
        x = (1 - t) * x0 + t * eps
        u = eps - x0
        result = as_tensor(call(answer, x, u, t), x0)
        if close(result, -eps / t):
            continue
        if close(result, eps) or close(result, -eps):
            raise Wrong("That is the noise itself, up to its sign. The score is minus the noise, divided by sigma = t.")
        if close(result, eps / t):
            raise Wrong("Almost: check the sign. The score points towards the data, and the noise away from them.")
        if close(result, -x0 / t):
            raise Wrong("x - t u is the clean data. You need the noise: x0 + u, because u = eps - x0.")
        if close(result, -eps / t**2):
            raise Wrong("Divide by t once only: sigma, not its square, stands in the denominator.")
        if close(result, -(x + u) / t):
            raise Wrong("You add the whole velocity, which goes too far: from time t to the noise it is 1 - t away.")
        raise Wrong(
            "First find the noise: from x follow the straight line with velocity u for the remaining time 1 - t. Then "
            "the score is -eps / t."
        )
    return (
        "-(x + (1 - t) u) / t. A velocity network, an eps network and a score network are one thing in three "
        "notations, but near t = 0 the division by t magnifies the errors of the score."
    )


def _log_snr_times(count, first, last):
    """Times of the straight path from log SNR `first` to `last`."""
    return torch.sigmoid(-torch.linspace(first, last, count) / 2)


@exercise(
    "03.4",
    mistakes={
        "half of it": lambda count, first, last: torch.sigmoid(-torch.linspace(first, last, count)),
        "sign": lambda count, first, last: torch.sigmoid(torch.linspace(first, last, count) / 2),
        "evenly in time": lambda count, first, last: torch.linspace(
            float(_log_snr_times(1, first, last)), float(_log_snr_times(1, last, first)), count
        ),
        "are log SNR": lambda count, first, last: torch.linspace(first, last, count),
        "one value more": lambda count, first, last: _log_snr_times(count + 1, first, last),
    },
)
def times_even_in_log_snr(answer):
    """A grid of times whose log SNR grows by the same amount in every step."""
    for count, first, last in ((9, -6.0, 6.0), (5, -4.0, 8.0)):
        expected = _log_snr_times(count, first, last)
        result = call(answer, count, first, last)
        if isinstance(result, torch.Tensor) and result.ndim == 1 and len(result) == count + 1:
            raise Wrong(f"You return one value more than asked for: {count + 1}. The {count} times include both ends.")
        result = as_tensor(result, expected)
        if close(result, expected):
            continue
        values = torch.linspace(first, last, count)
        if close(result, values):
            raise Wrong("Those values are log SNR. Solve log SNR = 2 log((1 - t) / t) for t, and return the times.")
        if close(result, torch.sigmoid(-values)):
            raise Wrong("You forgot the 2 in log SNR = 2 log((1 - t) / t): log((1 - t) / t) is only half of it.")
        if close(result, torch.sigmoid(values / 2)):
            raise Wrong(
                "Check the sign: much noise is a low SNR and a time near 1, so your first time must be the largest."
            )
        if close(result, torch.linspace(float(expected[0]), float(expected[-1]), count)):
            raise Wrong("Both ends are right, but your times lie evenly in time. It is log SNR that must grow evenly.")
        raise Wrong(
            f"For log SNR 0 the time is one half, and for {first:g} it is {float(expected[0]):.3f}; your first time is "
            f"{float(result[0]):.3f}. Solve log SNR = 2 log((1 - t) / t) for t."
        )
    return (
        "t = sigmoid(-log SNR / 2). Such steps are short at both ends of the path. DPM-Solver++ was designed for them, "
        "and k-diffusion's exponential schedule is the same in another variable."
    )
