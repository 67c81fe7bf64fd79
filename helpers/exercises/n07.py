"""Exercises of notebook 07: the KL term, the reparameterisation trick, the IWAE bound, the KL of a discrete latent."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


def _gaussians() -> tuple[torch.Tensor, torch.Tensor]:
    """Means and log variances of six latents with four dimensions."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)


@exercise(
    "07.1",
    mistakes={
        "half": 9.0,
        "bits": 6.492,
        "But the mean": 0.0,
    },
)
def a_shifted_mean(answer):
    """The rate of a latent dimension with mean 3 and the standard deviation of the prior."""
    value = as_number(answer)
    if close(value, 9.0):
        raise Wrong("That is the squared mean. The rate is half of it: a Gaussian has a half in its exponent.")
    if close(value, 6.492, 1e-3):
        raise Wrong("Right, but in bits. Nats use the natural logarithm: 1 nat is 1.44 bits.")
    if close(value, 0.0):
        raise Wrong("The variance is the prior's, and that part of the rate is 0. But the mean is not.")
    if not close(value, 4.5):
        raise Wrong(
            f"{value:g} is not right: insert mean 3 and variance 1 into (mean^2 + variance - log variance - 1) / 2."
        )
    return (
        "3^2 / 2. The rate of an image grows with the distance of its latent from the prior's mean, and with the "
        "precision at which it is encoded."
    )


def _kl(mean, logvar):
    return ((mean**2 + logvar.exp() - logvar - 1) / 2).sum(1)


@exercise(
    "07.2",
    mistakes={
        "never": lambda mean, logvar: -_kl(mean, logvar),
        "averaged": lambda mean, logvar: ((mean**2 + logvar.exp() - logvar - 1) / 2).mean(1),
        "already": lambda mean, logvar: _kl(mean, 2 * logvar),
    },
)
def rate(answer):
    """The KL divergence of a Gaussian posterior from the prior."""
    mean, logvar = _gaussians()
    kl = as_tensor(call(answer, mean, logvar), torch.zeros(6))
    if not close(call(answer, torch.zeros(1, 4), torch.zeros(1, 4)), torch.zeros(1)):
        raise Wrong("A posterior that equals the prior has rate 0; yours has not. Is the -1 there?")
    if (kl < 0).any():
        raise Wrong(
            f"Yours is {kl.min():.2f} for some image, but a rate is never negative: check the overall sign, and the "
            "sign of the logarithm."
        )
    if close(kl, ((mean**2 + logvar.exp() - logvar - 1) / 2).mean(1)):
        raise Wrong("You averaged over the latent dimensions. All of them have to be sent: sum over them.")
    if close(kl, _kl(mean, 2 * logvar)):
        raise Wrong(
            "You treat the second argument as the logarithm of a standard deviation; it is that of a variance already."
        )
    if not close(kl, _kl(mean, logvar)):
        raise Wrong("For each dimension: (mean^2 + variance - log variance - 1) / 2; then sum over the dimensions.")
    return "exact, and cheaper than sampling. Where a posterior has no such formula, the KL has to be estimated."


@exercise(
    "07.3",
    mistakes={
        "variance": lambda mean, logvar, noise: mean + logvar.exp() * noise,
        "no gradient": lambda mean, logvar, noise: (mean + (logvar / 2).exp() * noise).detach(),
        "noise itself": lambda mean, logvar, noise: mean + noise,
    },
)
def reparameterized_sample(answer):
    """The reparameterisation trick: a sample through which gradients can flow."""
    mean, logvar = (part.requires_grad_() for part in _gaussians())
    noise = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    sample = as_tensor(call(answer, mean, logvar, noise), mean)
    if close(sample, mean + logvar.exp() * noise):
        raise Wrong(
            "You multiply the noise by the variance. The standard deviation is its square root, exp(logvar / 2)."
        )
    if close(sample, mean + noise):
        raise Wrong("You add the noise itself: every latent would have the standard deviation of the prior.")
    if not close(sample, mean + (logvar / 2).exp() * noise):
        raise Wrong("The sample is mean + std * noise, with the standard deviation std = exp(logvar / 2).")
    if not sample.requires_grad:
        raise Wrong(
            "The values are right, but no gradient can flow, so the encoder would never learn. Do not detach anything."
        )
    sample.sum().backward()
    if mean.grad is None or logvar.grad is None:
        raise Wrong("The gradient reaches only one of mean and log variance; both come from the encoder.")
    return "the randomness is in the noise, which is fixed; mean and std are computed, so the encoder gets gradients."


@exercise(
    "07.4",
    mistakes={
        "bound of a VAE": lambda logw: logw.mean(1),
        "published": lambda logw: (logw.softmax(1) * logw).sum(1),
        "log K": lambda logw: logw.logsumexp(1),
    },
)
def tighter_bound(answer):
    """IWAE's bound on log p(x) from K importance weights."""
    logw = 5 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) - 1000
    bound = as_tensor(call(answer, logw), torch.zeros(4))
    expected = logw.logsumexp(1) - math.log(8)
    if not torch.isfinite(bound).all():
        raise Wrong(
            "exp(-1000) underflows to 0, and its logarithm is infinite. `torch.logsumexp` subtracts the maximum first."
        )
    if close(bound, logw.mean(1)):
        raise Wrong(
            "That is the mean of the logarithms, the bound of a VAE with K samples. IWAE takes the logarithm of the "
            "mean, which is larger."
        )
    if close(bound, (logw.softmax(1) * logw).sum(1)):
        raise Wrong(
            "You average the logarithms with softmax weights. This has been published, but it is not a bound: it can "
            "exceed log p(x)."
        )
    if close(bound, logw.logsumexp(1)):
        raise Wrong("That is the logarithm of the sum. For the mean over K, divide by K: subtract log K.")
    if not close(bound, expected):
        raise Wrong("It is the log of the mean of exp(logw): logsumexp over the K samples, minus log K.")
    return "the best of the K samples dominates. For K = 1 it is the VAE's bound, and it grows with K towards log p(x)."


@exercise(
    "07.5",
    mistakes={
        "uniform choice costs": lambda logits: -(logits.softmax(1) * logits.log_softmax(1)).sum(1),
        "negative": lambda logits: (logits.softmax(1) * logits.log_softmax(1)).sum(1),
        "probabilities": lambda logits: math.log(logits.shape[1]) + (logits * logits.exp().log()).sum(1),
    },
)
def rate_of_a_choice(answer):
    """The KL divergence of a categorical distribution over K choices from the uniform prior."""
    logits = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    kl = as_tensor(call(answer, logits), torch.zeros(5))
    expected = math.log(6) + (logits.softmax(1) * logits.log_softmax(1)).sum(1)
    if (kl < -1e-4).any() and close(kl, expected - math.log(6)):
        raise Wrong(
            "Yours is negative: it is minus the entropy. Add the constant that makes the rate of a uniform choice 0."
        )
    if close(kl, math.log(6) - expected):
        raise Wrong(
            "That is the entropy, which is largest for a uniform distribution. A uniform choice costs nothing, a "
            "certain one log K."
        )
    if close(kl, expected / math.log(2)):
        raise Wrong("Right, but in bits. Nats use the natural logarithm.")
    if close(kl, -math.log(6) - logits.log_softmax(1).mean(1)):
        raise Wrong(
            "That is the KL of the uniform distribution from the categorical one. It should be that of the categorical "
            "from the uniform one: weight with p."
        )
    if not close(kl, expected):
        raise Wrong(
            "Convert the logits to probabilities first (softmax, and log_softmax for their logarithms): the KL is the "
            "sum of p log(p K)."
        )
    return "between 0 for a uniform choice and log K for a certain one. Sixteen choices among 8 carry at most 48 bits."
