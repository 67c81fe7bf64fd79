"""Exercises of notebook 02: noise and image size, fewer steps, two variances, a weight for the velocity."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_pair, as_tensor, call, close, exercise


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


def _respaced(betas, every, first=None):
    """Keep the steps first, first + every, ..., counted from 0; by default every - 1 is the first."""
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)[every - 1 if first is None else first :: every]
    before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


@exercise(
    "02.2",
    mistakes={
        "old variances": lambda betas, every: betas[every - 1 :: every],
        "add up": lambda betas, every: betas.reshape(-1, every).sum(1),
        "up to here": lambda betas, every: 1 - torch.cumprod(1 - betas, dim=0)[every - 1 :: every],
        "begins one step": lambda betas, every: _respaced(betas, every, first=0),
    },
)
def respaced_betas(answer):
    """The betas of a forward process that takes several steps of another one at a time (Improved DDPM, section 4)."""
    betas = torch.linspace(1e-3, 0.2, 100)
    for every in (10, 4):
        expected = _respaced(betas, every)
        result = call(answer, betas, every)
        if isinstance(result, torch.Tensor) and result.shape == betas.shape:
            raise Wrong(
                f"{len(betas)} steps, {every} at a time, leave {len(expected)}; you return {len(result)} values."
            )
        result = as_tensor(result, expected)
        if close(result, expected):
            continue
        if close(result, betas[every - 1 :: every]):
            raise Wrong(
                "Those are the old variances of the steps that remain. A long step adds the noise of all the short "
                "ones that it replaces."
            )
        if close(result, betas.reshape(-1, every).sum(1)):
            raise Wrong(
                "The variances do not simply add up: what an early step added is shrunk by the later ones. What "
                "multiplies is 1 - beta."
            )
        if close(result, 1 - torch.cumprod(1 - betas, dim=0)[every - 1 :: every]):
            raise Wrong(
                "That is the variance of all the noise from the data up to here. A step adds only what came since the "
                "step before: divide by its alpha-bar."
            )
        if close(result, _respaced(betas, every, first=0)):
            raise Wrong(
                f"Your chain begins one step after the data and ends {every - 1} steps before the noise. The last step "
                f"must remain, so keep the indices {every - 1}, {2 * every - 1} and so on."
            )
        raise Wrong(
            f"The product of your 1 - beta is {float((1 - result).prod()):.4g}; the original ends at "
            f"{float((1 - betas).prod()):.4g}. Compute alpha-bar at the steps that remain, and the ratio of neighbours."
        )
    return (
        "the shorter chain passes through the same noise levels, so a network that was trained on 1000 steps can be "
        "used with 50. Improved DDPM calls this respacing; samplers that work with times do it by themselves."
    )


def _standard_deviations(here, there):
    alpha, sigma = here
    alpha_next, sigma_next = there
    beta = 1 - (alpha / alpha_next) ** 2
    return math.sqrt(beta), math.sqrt(beta) * sigma_next / sigma


@exercise(
    "02.3",
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
    "02.4",
    mistakes={
        "for v": lambda t, gamma: ((1 - t) / t).square().clamp(max=gamma) / (((1 - t) / t).square() + 1),
        "for eps": lambda t, gamma: ((1 - t) / t).square().clamp(max=gamma) / ((1 - t) / t).square(),
        "in x0 space": lambda t, gamma: ((1 - t) / t).square().clamp(max=gamma),
        "square": lambda t, gamma: ((1 - t) / t).square().clamp(max=gamma) * t,
        "upside down": lambda t, gamma: ((1 - t) / t).square().clamp(max=gamma) / t.square(),
        "SNR is a ratio of variances": lambda t, gamma: ((1 - t) / t).clamp(max=gamma) * t.square(),
    },
)
def velocity_weight(answer):
    """The Min-SNR weight of the velocity loss on the straight path."""
    t = torch.linspace(0.05, 0.95, 10)
    snr = ((1 - t) / t).square()
    for gamma in (5.0, 1.0):
        capped = snr.clamp(max=gamma)
        result = as_tensor(call(answer, t, gamma), t)
        if close(result, capped * t**2):
            continue
        wrong = {
            "That is the weight for v. Its cost is SNR + 1 only where alpha^2 + sigma^2 = 1, and on the straight path "
            "that sum is not 1.": capped / (snr + 1),
            "That is the weight for eps. An error of x0 is multiplied by alpha/sigma there, and by 1/t here.": capped
            / snr,
            "That is the weight in x0 space. The velocity loss already multiplies an error of x0 by something: divide "
            "by that.": capped,
            "Almost: the loss is the square of the error, so the factor between the two losses is a square too.": capped
            * t,
            "The conversion is upside down: an error of 1 in x0 is an error of 1/t in the velocity, which makes the "
            "loss larger, so the weight has to be smaller.": capped / t**2,
            "SNR is a ratio of variances: square (1 - t)/t before you take the minimum.": ((1 - t) / t).clamp(max=gamma)
            * t**2,
        }
        for message, other in wrong.items():
            if close(result, other):
                raise Wrong(message)
        if gamma != 5.0:
            raise Wrong(f"It works for gamma = 5 but not for gamma = {gamma:g}: does your formula contain a 5?")
        raise Wrong(
            "Multiply your weight by the cost of an error of 1 in x0, which is 1/t^2 in the velocity loss: the result "
            "should be min(SNR, gamma), with SNR = ((1 - t)/t)^2."
        )
    return (
        "min((1 - t)^2, gamma t^2). It vanishes at both ends and is largest between them: like logit-normal times, "
        "which notebook 04 explains, it favours the middle of the path."
    )
