"""Exercises of notebook 02: the end of a schedule, sampler steps, v-prediction, shifted times, guidance."""

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
        "square root": 4.0358e-05,
        "of the noise": 0.99998,
        "Stable Diffusion": 0.0683,
    },
)
def left_at_the_end(answer):
    """The share of the data that is left at the end of DDPM's schedule."""
    value = as_number(answer)
    if close(value, 4.0358e-05, 1e-2 * 4e-5):
        raise Wrong(
            "That is abar, the factor of the *variance* of the data. The data themselves are multiplied by alpha, its "
            "square root."
        )
    if abs(value - 1) < 1e-3:
        raise Wrong("That is sigma, the coefficient of the noise. The one of the data is alpha.")
    if abs(value - 0.0683) < 1e-3:
        raise Wrong(
            "That is the end of Stable Diffusion's schedule, `DDPMPath.scaled_linear()`. DDPM's schedule is `linear`."
        )
    if not abs(value - 0.00635) <= 5e-5:
        raise Wrong(f"{value:.4g} is not right: alpha, _ = DDPMPath.linear().alpha_sigma(1.0).")
    return (
        "0.6 % of the data is left, so hardly any of the average brightness leaks through. In Stable Diffusion's "
        "schedule it is 7 %."
    )


@exercise(
    "02.2",
    mistakes={
        "divide": lambda x, eps, here, there: there[0] * (x - here[1] * eps) + there[1] * eps,
        "fresh noise": lambda x, eps, here, there: (
            there[0] * (x - here[1] * eps) / here[0]
            + there[1] * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        ),
        "next noise level": lambda x, eps, here, there: here[0] * (x - here[1] * eps) / here[0] + here[1] * eps,
    },
)
def ddim_step(answer):
    """A step of DDIM, from the predicted noise."""
    x0, eps = _data_and_noise()
    here = (0.6, 0.8)
    there = (0.8, 0.6)
    x = here[0] * x0 + here[1] * eps
    result = as_tensor(call(answer, x, eps, here, there), x)
    expected = there[0] * x0 + there[1] * eps
    if close(result, x):
        raise Wrong("Your step does not move: mix data and noise with the coefficients of the next noise level.")
    if close(result, there[0] * (x - here[1] * eps) + there[1] * eps):
        raise Wrong("x - sigma eps is alpha x0, not x0: divide by alpha before you add noise.")
    if not close(call(answer, here[0] * x0, 0 * eps, here, there), there[0] * x0):
        raise Wrong(
            "Where the predicted noise is zero, your step adds some. DDIM adds the *same* eps; fresh noise is what "
            "DDPM adds."
        )
    if not close(result, expected):
        raise Wrong(
            "First compute the clean estimate, (x - sigma eps) / alpha with the coefficients of here; then alpha x0 + "
            "sigma eps with those of there."
        )
    return (
        "estimate the data, then mix them with the same noise at the next level. Even a perfect network predicts only "
        "the mean of all possible noises, so the sampler evaluates it again after each small step."
    )


@exercise(
    "02.3",
    mistakes={
        "sign": lambda x, v, alpha, sigma: alpha * x + sigma * v,
        "swapped": lambda x, v, alpha, sigma: sigma * x - alpha * v,
        "is the noise": lambda x, v, alpha, sigma: sigma * x + alpha * v,
    },
)
def data_from_v(answer):
    """From v to the data, derived by hand."""
    x0, eps = _data_and_noise()
    alpha = 0.6
    sigma = 0.8
    x = alpha * x0 + sigma * eps
    v = alpha * eps - sigma * x0
    result = as_tensor(call(answer, x, v, alpha, sigma), x0)
    if close(result, eps):
        raise Wrong("Your result is the noise: sigma x + alpha v. The data are the other, orthogonal combination.")
    if close(result, alpha * x + sigma * v):
        raise Wrong(
            "Almost: check the sign. Insert x = alpha x0 + sigma eps and v = alpha eps - sigma x0 into your formula; "
            "eps has to cancel."
        )
    if close(result, sigma * x - alpha * v):
        raise Wrong("The two coefficients are swapped: the coefficient of x0 is alpha in x, and -sigma in v.")
    if not close(result, x0):
        raise Wrong(
            "Multiply x by alpha and v by sigma, and combine them so that eps cancels; alpha^2 + sigma^2 = 1 does the "
            "rest."
        )
    return "(x, v) is a rotation of (x0, eps). Rotating back needs no division, so v is numerically stable at every t."


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


@exercise(
    "02.6",
    mistakes={
        "twice": lambda with_label, without, w: without + w * (with_label - without),
        "towards": lambda with_label, without, w: with_label - w * (with_label - without),
        "w = 0": lambda with_label, without, w: without + (2 + w) * (with_label - without),
    },
)
def guidance_of_the_paper(answer):
    """Classifier-free guidance in the convention of its paper, where w = 0 means no guidance."""
    with_label, without = _data_and_noise()
    result = as_tensor(call(answer, with_label, without, 0.0), with_label)
    if close(result, without):
        raise Wrong(
            "With w = 0 you ignore the label. In the paper's convention, 0 is the plain conditional prediction, and 1 "
            "is what others call a scale of 2: it goes twice as far from the unconditional prediction."
        )
    if not close(result, with_label):
        raise Wrong("With w = 0 the result should be the plain conditional prediction.")
    result = call(answer, with_label, without, 1.0)
    if close(result, without):
        raise Wrong(
            "With w = 1 you get the unconditional prediction: you move towards it. Guidance moves away from it."
        )
    if not close(result, 2 * with_label - without):
        raise Wrong("With w = 1 the result should lie twice as far from `without` as `with_label` does.")
    return "scale = 1 + w. Before you copy a guidance scale from elsewhere, check which convention it uses."
