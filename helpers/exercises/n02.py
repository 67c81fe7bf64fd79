"""Exercises of notebook 02: the end of a schedule, steps of samplers, forms of an answer, times and guidance."""

import math

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


def _points() -> tuple[torch.Tensor, torch.Tensor]:
    """Some data and some noise, (5, 2) each."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)


@exercise(
    "02.1",
    mistakes={
        "square root": 4.0358e-05,
        "noise's": 0.99998,
        "Stable Diffusion": 0.0683,
    },
)
def left_at_the_end(answer):
    """How much of the data is left at the end of DDPM's own schedule."""
    given = number(answer)
    if close(given, 4.0358e-05, 1e-2 * 4e-5):
        raise Wrong(
            "That is abar, by which the *variance* of the data is multiplied. The data themselves are "
            "multiplied by alpha, its square root."
        )
    if abs(given - 1) < 1e-3:
        raise Wrong("That is sigma, the noise's share. The data's is alpha.")
    if abs(given - 0.0683) < 1e-3:
        raise Wrong(
            "That is the end of Stable Diffusion's schedule, `DDPMPath.scaled_linear()`. DDPM's own is `linear`."
        )
    if not abs(given - 0.00635) <= 5e-5:
        raise Wrong(f"{given:.4g} is not it: alpha, _ = DDPMPath.linear().alpha_sigma(1.0).")
    return (
        "0.6 % of the data is left: an average brightness leaks through, but hardly. Stable Diffusion's schedule "
        "leaves 7 %."
    )


def _ddim(x, eps, here, there):
    (alpha, sigma) = here
    (alpha_next, sigma_next) = there
    return alpha_next * (x - sigma * eps) / alpha + sigma_next * eps


@exercise(
    "02.2",
    mistakes={
        "divide": lambda x, eps, here, there: there[0] * (x - here[1] * eps) + there[1] * eps,
        "fresh noise": lambda x, eps, here, there: (
            there[0] * (x - here[1] * eps) / here[0]
            + there[1] * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
        ),
        "where you are going": lambda x, eps, here, there: here[0] * (x - here[1] * eps) / here[0] + here[1] * eps,
    },
)
def ddim_step(answer):
    """One step of DDIM, from the network's noise."""
    x0, eps = _points()
    here = (0.6, 0.8)
    there = (0.8, 0.6)
    x = here[0] * x0 + here[1] * eps
    given = tensor(ask(answer, x, eps, here, there), x)
    wanted = there[0] * x0 + there[1] * eps
    if close(given, x):
        raise Wrong("Your step stays where it was: mix data and noise with the coefficients of where you are going.")
    if close(given, there[0] * (x - here[1] * eps) + there[1] * eps):
        raise Wrong("x - sigma eps is alpha x0, not x0: divide by alpha before you mix again.")
    if not close(ask(answer, here[0] * x0, 0 * eps, here, there), there[0] * x0):
        raise Wrong(
            "Where the network sees no noise, your step makes some. DDIM puts the *same* eps back; fresh "
            "noise is what DDPM adds."
        )
    if not close(given, wanted):
        raise Wrong(
            "First the clean estimate, (x - sigma eps) / alpha with the coefficients of here; then alpha x0 + "
            "sigma eps with those of there."
        )
    return (
        "estimate the data, then mix again with the same noise. Even a perfect network only tells the mean of all "
        "noises that may be meant: so one asks again, nearer by."
    )


@exercise(
    "02.3",
    mistakes={
        "sign": lambda x, v, alpha, sigma: alpha * x + sigma * v,
        "exchanged": lambda x, v, alpha, sigma: sigma * x - alpha * v,
        "is the noise": lambda x, v, alpha, sigma: sigma * x + alpha * v,
    },
)
def data_from_v(answer):
    """From v back to the data, derived by hand."""
    x0, eps = _points()
    alpha = 0.6
    sigma = 0.8
    x = alpha * x0 + sigma * eps
    v = alpha * eps - sigma * x0
    given = tensor(ask(answer, x, v, alpha, sigma), x0)
    if close(given, eps):
        raise Wrong("What you found is the noise: sigma x + alpha v. The data stand at a right angle to it.")
    if close(given, alpha * x + sigma * v):
        raise Wrong(
            "Almost: check the sign. Put x = alpha x0 + sigma eps and v = alpha eps - sigma x0 into your "
            "formula; eps has to cancel."
        )
    if close(given, sigma * x - alpha * v):
        raise Wrong("The two coefficients are exchanged: x0's share in x is alpha, in v it is -sigma.")
    if not close(given, x0):
        raise Wrong(
            "Multiply x by alpha and v by sigma, and combine them so that eps cancels; alpha^2 + sigma^2 = 1 "
            "does the rest."
        )
    return "(x, v) is (x0, eps) turned by an angle; turning back needs no division, so v is nowhere fragile."


def _widths(here, there):
    (alpha, sigma) = here
    (alpha_next, sigma_next) = there
    beta = 1 - (alpha / alpha_next) ** 2
    return math.sqrt(beta), math.sqrt(beta) * sigma_next / sigma


@exercise(
    "02.4",
    mistakes={
        "variance": lambda here, there: tuple(width**2 for width in _widths(here, there)),
        "other order": lambda here, there: _widths(here, there)[::-1],
        "is not smaller": lambda here, there: (_widths(here, there)[0],) * 2,
    },
)
def two_widths(answer):
    """The two standard deviations that DDPM (section 3.2) offers for its backward step."""
    for steps, step in [(10, 2), (1000, 500)]:
        angle = [k / steps * math.pi / 2 for k in (step, step - 1)]
        here, there = ((math.cos(a), math.sin(a)) for a in angle)
        given = ask(answer, here, there)
        given = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise Wrong("Two numbers are wanted: the standard deviation from beta, and the posterior's.")
        given = tuple(map(number, given))
        wanted = _widths(here, there)
        if close(given, wanted, 1e-6):
            continue
        if close(given, [width**2 for width in wanted]):
            raise Wrong("Those are the variances. Noise is multiplied by their square root.")
        if close(given, wanted[::-1]):
            raise Wrong("Both are right, in the other order: first the one from beta, which is larger.")
        if close(given[0], wanted[0]) and given[1] >= given[0]:
            raise Wrong(
                "The posterior's is not smaller in yours: knowing x0 leaves less to chance. Its variance is "
                "beta times (sigma there / sigma here)^2."
            )
        raise Wrong(
            f"For a step of {steps} they are {wanted[0]:.4f} and {wanted[1]:.4f}; you have {given[0]:.4f} and "
            f"{given[1]:.4f}. One step's beta is 1 - (alpha here / alpha there)^2."
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
    """The inverse of SD3's shift of times."""
    t = torch.linspace(0, 1, 11)
    shifted = 3 * t / (1 + 2 * t)
    given = tensor(ask(answer, shifted, 3.0), t)
    if close(given, 3 * shifted / (1 + 2 * shifted)):
        raise Wrong("That shifts the same times once more. Solve t' = s t / (1 + (s - 1) t) for t.")
    if not close(given[-1], 1.0) and close(given[0], 0.0):
        raise Wrong(f"The ends must stay: 1 is pure noise before and after, and yours becomes {given[-1]:.3g}.")
    if not close(given, t):
        raise Wrong(
            f"The middle, 0.5, became 0.75 and should come back; yours is {given[5]:.3g}. The formula has to "
            "hold everywhere: multiply by the denominator, collect what holds t."
        )
    if not close(ask(answer, 5 * t / (1 + 4 * t), 5.0), t):
        raise Wrong("It holds for a shift of 3 and not for 5: is a 3 left in the formula?")
    return "t = t' / (s - (s - 1) t'): a shift by 1/s. So shifting twice by 3 is one shift by 9, not by 6."


@exercise(
    "02.6",
    mistakes={
        "twice": lambda with_label, without, w: without + w * (with_label - without),
        "towards": lambda with_label, without, w: with_label - w * (with_label - without),
        "w = 0": lambda with_label, without, w: without + (2 + w) * (with_label - without),
    },
)
def guidance_of_the_paper(answer):
    """Guidance in the convention of its paper, where 0 means none."""
    with_label, without = _points()
    given = tensor(ask(answer, with_label, without, 0.0), with_label)
    if close(given, without):
        raise Wrong(
            "With w = 0 you ignore the label. In the paper's convention 0 is the plain answer with the label, "
            "and 1 is what others call a scale of 2: it walks twice the way."
        )
    if not close(given, with_label):
        raise Wrong("With w = 0 the plain answer with the label should come out.")
    given = ask(answer, with_label, without, 1.0)
    if close(given, without):
        raise Wrong("With w = 1 you arrive at the answer without the label: you walk towards it. Guidance walks away.")
    if not close(given, 2 * with_label - without):
        raise Wrong("With w = 1 the way from `without` to `with_label` should be walked twice.")
    return "scale = 1 + w. Before you copy a guidance scale from elsewhere, ask which convention it is in."
