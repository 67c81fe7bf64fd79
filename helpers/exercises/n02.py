"""Exercises of notebook 02: noise and image size, Heun's method, the score, two variances, shifted times, guidance."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_pair, as_tensor, call, close, exercise


def _data_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """x0 and eps, (5, 2) each."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)


@exercise(
    "02.1",
    mistakes={
        "standard deviation": -math.log(4),
        "sign": math.log(16),
        "logarithm of it": 1 / 16,
        "natural": -math.log10(16),
    },
)
def change_of_log_snr(answer):
    """How much noisier a larger image has to be, so that its means over blocks are as noisy as the small image was."""
    value = as_number(answer)
    expected = -math.log(16)
    if close(value, -math.log(4), 1e-3):
        raise Wrong(
            "4 is the factor of the *standard deviation* of the noise. The SNR compares variances, so square it before "
            "you take the logarithm."
        )
    if close(value, -expected, 1e-3):
        raise Wrong(
            "Check the sign: averaging removes noise, so the large image needs more of it, and more noise is a lower "
            "SNR."
        )
    if any(close(value, factor, 1e-3) for factor in (16.0, 1 / 16, -16.0, 4.0, 1 / 4)):
        raise Wrong("That is a factor of the SNR. The question is what to add to log SNR: take the logarithm of it.")
    if any(close(value, expected / math.log(base), 1e-3) for base in (2, 10)):
        raise Wrong("The logarithm in log SNR is the natural one: `math.log`.")
    if not close(value, expected, 1e-3):
        raise Wrong(
            f"{value:.4g} is not right. By which factor does a mean of 4 x 4 pixels divide the variance of the noise, "
            "and what does it do to the signal?"
        )
    return (
        "log SNR has to be 2.77 lower at every t. On the straight path a shift of the times by m divides the SNR by "
        "m^2, so m = 4 does the same: the factor by which the side of the image has grown."
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
    "02.2",
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
        "are so long that the trial ends far from the trajectory, it shows little, as with 5 evaluations in section 5."
    )


@exercise(
    "02.3",
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


def _standard_deviations(here, there):
    alpha, sigma = here
    alpha_next, sigma_next = there
    beta = 1 - (alpha / alpha_next) ** 2
    return math.sqrt(beta), math.sqrt(beta) * sigma_next / sigma


@exercise(
    "02.4",
    mistakes={
        "variance": lambda here, there: tuple(std**2 for std in _standard_deviations(here, there)),
        "other order": lambda here, there: _standard_deviations(here, there)[::-1],
        "not smaller": lambda here, there: (_standard_deviations(here, there)[0],) * 2,
    },
)
def two_widths(answer):
    """The two standard deviations that DDPM (section 3.2) offers for its reverse step."""
    for steps, step in [(10, 2), (1000, 500)]:
        angles = [k / steps * math.pi / 2 for k in (step, step - 1)]
        here, there = ((math.cos(angle), math.sin(angle)) for angle in angles)
        pair = as_pair(
            call(answer, here, there),
            "Return two numbers: the standard deviation from beta, and that of the posterior.",
        )
        expected = _standard_deviations(here, there)
        if close(pair, expected, 1e-6):
            continue
        if close(pair, [std**2 for std in expected]):
            raise Wrong("Those are the variances. Noise is multiplied by their square root.")
        if close(pair, expected[::-1]):
            raise Wrong("Both are right, but in the other order: first the one from beta, which is larger.")
        if close(pair[0], expected[0]) and pair[1] >= pair[0]:
            raise Wrong(
                "Your posterior's standard deviation is not smaller than the other: knowing x0 reduces the "
                "uncertainty. Its variance is beta times (sigma there / sigma here)^2."
            )
        raise Wrong(
            f"For a schedule of {steps} steps they are {expected[0]:.4f} and {expected[1]:.4f}; you get {pair[0]:.4f} "
            f"and {pair[1]:.4f}. The beta of a step is 1 - (alpha here / alpha there)^2."
        )
    return "of 1000 steps only the last few differ; of 10, most do: at step 2 the smaller is half the larger."


@exercise(
    "02.5",
    mistakes={
        "the same times": lambda t, by: by * t / (1 + (by - 1) * t),
        "stay": lambda t, by: t / by,
        "everywhere": lambda t, by: 1 - by * (1 - t) / (1 + by * (1 - t)),
    },
)
def unshift(answer):
    """The inverse of SD3's timestep shift."""
    t = torch.linspace(0, 1, 11)
    shifted = 3 * t / (1 + 2 * t)
    result = as_tensor(call(answer, shifted, 3.0), t)
    if close(result, 3 * shifted / (1 + 2 * shifted)):
        raise Wrong("That shifts the same times once more. Solve t' = m t / (1 + (m - 1) t) for t.")
    if not close(result[-1], 1.0) and close(result[0], 0.0):
        raise Wrong(f"The ends must stay: t = 1 is pure noise before and after, and yours becomes {result[-1]:.3g}.")
    if not close(result, t):
        raise Wrong(
            f"The middle, 0.5, became 0.75, so your function should return 0.5; it returns {result[5]:.3g}. The "
            "formula has to hold everywhere: multiply by the denominator and collect the terms with t."
        )
    if not close(call(answer, 5 * t / (1 + 4 * t), 5.0), t):
        raise Wrong("It works for a shift of 3 but not for 5: does your formula still contain a 3?")
    return "t = t' / (m - (m - 1) t'), a shift by 1/m. So two shifts by 3 are a single shift by 9, not by 6."


def _predictions() -> tuple[torch.Tensor, torch.Tensor]:
    """A conditional and an unconditional prediction for three images, (3, 4, 8, 8), each on a scale of its own."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([0.5, 1.0, 2.0])[:, None, None, None] * torch.tensor([1.0, 0.5, 2.0, 1.5])[:, None, None]
    conditional = scales * torch.randn(3, 4, 8, 8, generator=generator)
    return conditional, conditional + 0.3 * torch.randn(3, 4, 8, 8, generator=generator)


def _rescaled(conditional, unconditional, scale, *, over=(1, 2, 3), like=None, inverse=False):
    """Guidance, rescaled: over these dimensions, to the standard deviation of `like`, by default the conditional."""
    guided = unconditional + scale * (conditional - unconditional)
    target = conditional if like is None else like
    factor = target.std(dim=over, keepdim=True) / guided.std(dim=over, keepdim=True)
    return guided / factor if inverse else guided * factor


@exercise(
    "02.6",
    mistakes={
        "plain guidance": lambda with_label, without, scale: without + scale * (with_label - without),
        "whole batch": lambda *args: _rescaled(*args, over=(0, 1, 2, 3)),
        "each channel": lambda *args: _rescaled(*args, over=(2, 3)),
        "upside down": lambda *args: _rescaled(*args, inverse=True),
        "unconditional": lambda with_label, without, scale: _rescaled(with_label, without, scale, like=without),
    },
)
def rescaled_guidance(answer):
    """Classifier-free guidance that keeps the standard deviation of the conditional prediction (Lin et al. 2023)."""
    conditional, unconditional = _predictions()
    both = (conditional, unconditional)
    result = as_tensor(call(answer, conditional, unconditional, 7.5), conditional)
    if close(result, _rescaled(*both, 7.5)):
        return (
            "guidance still changes what an image shows, but no longer its contrast. Guidance rescaling in diffusers "
            "mixes this result with plain guidance, because alone it makes images a little too plain."
        )
    if close(result, unconditional + 7.5 * (conditional - unconditional)):
        raise Wrong("That is plain guidance. Multiply it by the factor that restores the standard deviation.")
    if close(result, _rescaled(*both, 7.5, over=(0, 1, 2, 3))):
        raise Wrong(
            "You use one standard deviation for the whole batch, so that an image depends on its neighbours in it. "
            "Compute one per image."
        )
    if close(result, _rescaled(*both, 7.5, over=(2, 3))):
        raise Wrong("You rescale each channel separately, which also changes colours. Compute one factor per image.")
    if close(result, _rescaled(*both, 7.5, inverse=True)):
        raise Wrong("The factor is upside down: it is the conditional std divided by the guided one, here below 1.")
    if close(result, _rescaled(*both, 7.5, like=unconditional)):
        raise Wrong("You restore the std of the unconditional prediction. The target is that of the conditional one.")
    if not close(result.std(dim=(1, 2, 3)), conditional.std(dim=(1, 2, 3))):
        raise Wrong("The std of each image in your result should be that of its conditional prediction, and is not.")
    raise Wrong("The std of each image is right, but something else is not: rescale the guided prediction, only that.")
