"""Divergences between distributions: in closed form where there is one, else estimated from samples.

All are in nats. Alphabet: B samples, D latent dimensions, K categories.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Kernel = Callable[[Tensor, int], Tensor]  # of squared distances and the number of dimensions


def gaussian_kl(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | float = 0.0, prior_logvar: Tensor | float = 0.0
) -> Tensor:
    """KL between two Gaussians, elementwise (Kingma & Welling 2013, appendix B, where the prior is N(0, 1))."""
    prior_logvar = torch.as_tensor(prior_logvar)
    second_moment = ((mean - prior_mean) ** 2 + logvar.exp()) * (
        -prior_logvar
    ).exp()  # in units of the prior's variance
    return 0.5 * (prior_logvar - logvar + second_moment - 1)


def log_gaussian(z: Tensor, mean: Tensor | float = 0.0, logvar: Tensor | float = 0.0) -> Tensor:
    """Log-density of a Gaussian, elementwise."""
    logvar = torch.as_tensor(logvar)
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mean) ** 2 * (-logvar).exp())


def aggregate_posterior_log_density(
    z: Tensor, mean: Tensor, logvar: Tensor, dataset_size: int
) -> tuple[Tensor, Tensor]:
    """Log-density of latents under the aggregate posterior of the dataset, estimated from one batch.

    By stratified sampling (Chen et al. 2018, appendix C.2): a latent's own image has weight 1 / N, and another image of
    the batch represents all that are not in the batch.

    Args:
        z: (B, D) latents.
        mean: (B, D) of the posteriors from which they were sampled.
        logvar: (B, D) of the same.
        dataset_size: N, images in the dataset.

    Returns:
        log q(z) and log prod_d q(z_d), (B,) each: their difference is the total correlation.

    Raises:
        ValueError: for fewer than two latents, or a dataset smaller than the batch.
    """
    B = len(z)
    if B < 2 or dataset_size < B:
        raise ValueError(
            f"the aggregate posterior needs 2 codes or more, of a larger dataset: got {B} of {dataset_size}"
        )
    weights = torch.full((B, B), 1 / (B - 1), device=z.device)
    weights.fill_diagonal_(1 / dataset_size)
    rows = torch.arange(B, device=z.device)
    weights[rows, (rows + 1) % B] = (dataset_size - B + 1) / (dataset_size * (B - 1))
    log_densities = log_gaussian(z[:, None], mean[None], logvar[None])  # (B, B, D): latent i under posterior j
    joint = (weights.log() + log_densities.sum(2)).logsumexp(1)
    factorised = (weights.log()[:, :, None] + log_densities).logsumexp(1).sum(1)
    return joint, factorised


def permute_dims(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Shuffle every column of (B, D) independently: samples of prod_d q(z_d) (Kim & Mnih 2018, algorithm 1)."""
    order = torch.rand(z.shape, generator=generator).argsort(0).to(z.device)
    return z.gather(0, order)


def rbf(distance: Tensor, width: int) -> Tensor:
    """RBF kernel exp(-d / (2 D)) of squared distances d: its bandwidth grows with the number of dimensions D."""
    return (-distance / (2 * width)).exp()


def inverse_multiquadratic(distance: Tensor, width: int) -> Tensor:
    """Kernel C / (C + d), C = 2 D, of squared distances d (Tolstikhin et al. 2017, section 4); it has heavy tails."""
    return 2 * width / (2 * width + distance)


def mmd(x: Tensor, y: Tensor, kernel: Kernel = rbf) -> Tensor:
    """Squared maximum mean discrepancy of two sets (B, D) (Gretton et al. 2012, eq. 3); unbiased, so possibly negative.

    It is a mean over pairs already: dividing it by B (B - 1) once more, as published code does, makes it vanish.
    """

    def similarities(a: Tensor, b: Tensor) -> Tensor:
        return kernel(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2, x.shape[1])

    def mean_within(a: Tensor) -> Tensor:
        return (similarities(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))  # kernel(0) is 1

    return mean_within(x) + mean_within(y) - 2 * similarities(x, y).mean()


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 50, generator: torch.Generator | None = None) -> Tensor:
    """Squared 2-Wasserstein distance of two sets (B, D), mean over random directions (Kolouri et al. 2018, eq. 8).

    In one dimension the optimal transport matches the sorted values, so sorting solves it.
    """
    directions = F.normalize(torch.randn(x.shape[1], projections, generator=generator), dim=0).to(x)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean()


def categorical_kl(logits: Tensor) -> Tensor:
    """KL of softmax(logits) from the uniform distribution: (..., K) -> (...)."""
    log_probabilities = logits.log_softmax(-1)
    return (log_probabilities.exp() * log_probabilities).sum(-1) + math.log(logits.shape[-1])


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """Sample a relaxed one-hot vector from softmax(logits), differentiably (Jang et al. 2016, eq. 2)."""
    noise = torch.rand(logits.shape, generator=generator).to(logits).clamp(1e-10, 1 - 1e-7)
    return ((logits - (-noise.log()).log()) / temperature).softmax(-1)


def gamma_kl(shape: Tensor, rate: Tensor, prior_shape: float, prior_rate: float) -> Tensor:
    """KL between two Gamma distributions, elementwise."""
    prior = torch.tensor(prior_shape)
    return (
        (shape - prior) * shape.digamma()
        - shape.lgamma()
        + prior.lgamma()
        + prior * (rate.log() - math.log(prior_rate))
        + shape * (prior_rate - rate) / rate
    )


def log_cosh(x: Tensor, sharpness: float) -> Tensor:
    """log(cosh(a x)) / a with a = sharpness: quadratic near 0, |x| far off; without the overflow of cosh."""
    return x.abs() + (F.softplus(-2 * sharpness * x.abs()) - math.log(2)) / sharpness
