"""Exercises of notebook 05: what a code costs, how it is drawn, tighter bounds, choices, prescribed rates."""

import math

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


def _gaussians() -> tuple[torch.Tensor, torch.Tensor]:
    """Means and log variances of six codes of four numbers."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)


@exercise(
    "05.1",
    mistakes={
        "half": 9.0,
        "bits": 6.492,
        "But the mean": 0.0,
    },
)
def a_shifted_mean(answer):
    """The rate of one number whose mean is 3 and whose spread is the prior's."""
    given = number(answer)
    if close(given, 9.0):
        raise Wrong("That is the squared mean. The rate is half of it: the Gaussian has a half in its exponent.")
    if close(given, 6.492, 1e-3):
        raise Wrong("Right, in bits. Nats were asked for, of the natural logarithm: 1 nat is 1.44 bits.")
    if close(given, 0.0):
        raise Wrong("The spread is the prior's, and that part of the rate is 0. But the mean is not.")
    if not close(given, 4.5):
        raise Wrong(f"Not {given:g}: put mean 3 and variance 1 into (mean^2 + variance - log variance - 1) / 2.")
    return (
        "3^2 / 2. A picture pays for how far its code lies from the middle, and for how exactly it wants to be known."
    )


def _kl(mean, logvar):
    return ((mean**2 + logvar.exp() - logvar - 1) / 2).sum(1)


@exercise(
    "05.2",
    mistakes={
        "never": lambda mean, logvar: -_kl(mean, logvar),
        "averaged": lambda mean, logvar: ((mean**2 + logvar.exp() - logvar - 1) / 2).mean(1),
        "already": lambda mean, logvar: _kl(mean, 2 * logvar),
    },
)
def rate(answer):
    """The KL of a Gaussian from the prior."""
    mean, logvar = _gaussians()
    given = tensor(ask(answer, mean, logvar), torch.zeros(6))
    if not close(ask(answer, torch.zeros(1, 4), torch.zeros(1, 4)), torch.zeros(1)):
        raise Wrong("A code that is the prior itself costs nothing; yours does. Is the -1 there?")
    if (given < 0).any():
        raise Wrong(
            f"Yours is {given.min():.2f} for some picture, and a rate is never negative: turn the sign, or "
            "look at the sign of the logarithm."
        )
    if close(given, ((mean**2 + logvar.exp() - logvar - 1) / 2).mean(1)):
        raise Wrong("You averaged over the numbers of a code. Each has to be sent: add them up.")
    if close(given, _kl(mean, 2 * logvar)):
        raise Wrong("You take the second argument for the logarithm of a spread; it is that of a variance already.")
    if not close(given, _kl(mean, logvar)):
        raise Wrong("For each number: (mean^2 + variance - log variance - 1) / 2; then the sum over a code.")
    return "exact, and cheaper than any sampling. Where a posterior has no such formula, one has to sample."


@exercise(
    "05.3",
    mistakes={
        "variance": lambda mean, logvar, noise: mean + logvar.exp() * noise,
        "no gradient": lambda mean, logvar, noise: (mean + (logvar / 2).exp() * noise).detach(),
        "noise itself": lambda mean, logvar, noise: mean + noise,
    },
)
def drawn(answer):
    """A draw through which a gradient can pass."""
    mean, logvar = (part.requires_grad_() for part in _gaussians())
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    given = tensor(ask(answer, mean, logvar, noise), mean)
    if close(given, mean + logvar.exp() * noise):
        raise Wrong("You multiply the noise by the variance. Its root, the spread, is exp(logvar / 2).")
    if close(given, mean + noise):
        raise Wrong("You add the noise itself: every code would have the prior's spread.")
    if not close(given, mean + (logvar / 2).exp() * noise):
        raise Wrong("Noise of the code's spread around its mean: mean + spread * noise, spread = exp(logvar / 2).")
    if not given.requires_grad:
        raise Wrong(
            "The numbers are right, and no gradient can pass: the encoder would never learn. Leave the graph whole."
        )
    given.sum().backward()
    if mean.grad is None or logvar.grad is None:
        raise Wrong("The gradient reaches only one of mean and log variance; both come from the encoder.")
    return "the draw is made of fixed noise and two numbers that can be moved: so the encoder can learn through it."


@exercise(
    "05.4",
    mistakes={
        "bound of a VAE": lambda logw: logw.mean(1),
        "published": lambda logw: (logw.softmax(1) * logw).sum(1),
        "log K": lambda logw: logw.logsumexp(1),
    },
)
def tighter_bound(answer):
    """IWAE's bound on log p(x) from K weights."""
    logw = 5 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) - 1000
    given = tensor(ask(answer, logw), torch.zeros(4))
    wanted = logw.logsumexp(1) - math.log(8)
    if not torch.isfinite(given).all():
        raise Wrong(
            "exp(-1000) is 0 in a computer, and its logarithm infinite. `torch.logsumexp` takes the largest out first."
        )
    if close(given, logw.mean(1)):
        raise Wrong(
            "That is the mean of the logarithms: the bound of a VAE, with K codes. IWAE takes the logarithm "
            "of the mean, which is larger."
        )
    if close(given, (logw.softmax(1) * logw).sum(1)):
        raise Wrong(
            "You average logarithms with softmax weights. It has been published like that, and it is no "
            "bound: it can exceed log p(x)."
        )
    if close(given, logw.logsumexp(1)):
        raise Wrong("The sum is right; a mean over K is it divided by K: subtract log K.")
    if not close(given, wanted):
        raise Wrong("log of the mean of exp(logw): logsumexp over the K codes, less log K.")
    return "the best of K codes counts most. With K = 1 it is the VAE's bound, and it grows with K towards log p(x)."


@exercise(
    "05.5",
    mistakes={
        "uniform choice costs": lambda logits: -(logits.softmax(1) * logits.log_softmax(1)).sum(1),
        "negative": lambda logits: (logits.softmax(1) * logits.log_softmax(1)).sum(1),
        "probabilities": lambda logits: math.log(logits.shape[1]) + (logits * logits.exp().log()).sum(1),
    },
)
def rate_of_a_choice(answer):
    """What a choice among K costs beside a uniform prior."""
    logits = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    given = tensor(ask(answer, logits), torch.zeros(5))
    wanted = math.log(6) + (logits.softmax(1) * logits.log_softmax(1)).sum(1)
    if (given < -1e-4).any() and close(given, wanted - math.log(6)):
        raise Wrong(
            "Yours is negative: that is minus the entropy. Add what is missing to make a uniform choice cost 0."
        )
    if close(given, math.log(6) - wanted):
        raise Wrong(
            "That is the entropy: largest where nothing is chosen. A uniform choice costs nothing, a sure one log K."
        )
    if close(given, wanted / math.log(2)):
        raise Wrong("Right, in bits. Nats were asked for, of the natural logarithm.")
    if close(given, -math.log(6) - logits.log_softmax(1).mean(1)):
        raise Wrong(
            "That is the KL of the uniform distribution from the choice. Wanted is that of the choice from the "
            "uniform one: weigh with p."
        )
    if not close(given, wanted):
        raise Wrong(
            "Turn logits into probabilities first (softmax; log_softmax for their logarithms): the sum of p log(p K)."
        )
    return "between 0, nothing chosen, and log K, a sure choice. Sixteen choices among 8 carry at most 48 bits."
