"""How far two distributions are apart: by formula where there is one, from samples where there is none.

Everything in nats. Alphabet: B samples, D width of a code, K categories.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian_kl(
    mean: Tensor, logvar: Tensor, prior_mean: Tensor | float = 0.0, prior_logvar: Tensor | float = 0.0
) -> Tensor:
    """KL between two Gaussians, number by number (Kingma & Welling 2013, appendix B, where the prior is N(0, 1))."""
    prior_logvar = torch.as_tensor(prior_logvar)
    spread = ((mean - prior_mean) ** 2 + logvar.exp()) * (-prior_logvar).exp()
    return 0.5 * (prior_logvar - logvar + spread - 1)


def log_gaussian(z: Tensor, mean: Tensor | float = 0.0, logvar: Tensor | float = 0.0) -> Tensor:
    """Log-density of a Gaussian, number by number."""
    logvar = torch.as_tensor(logvar)
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mean) ** 2 * (-logvar).exp())


def aggregate_posterior_log_density(z: Tensor, mean: Tensor, logvar: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Log-density of codes under the posterior of the whole data set, estimated from one batch.

    By stratified sampling (Chen et al. 2018, appendix C.2): a code's own picture counts for 1 / N, another one for
    all that are not in the batch.

    Args:
        z, mean, logvar: (B, D) codes, and the posteriors they were drawn from.
        count: N, pictures in the data set.

    Returns:
        log q(z) and log prod_d q(z_d), (B,) each: their difference is the total correlation.

    Raises:
        ValueError: for fewer than two codes, or a data set smaller than the batch.
    """
    B = len(z)
    if B < 2 or count < B:
        raise ValueError(f"the aggregate posterior needs 2 codes or more, of a larger data set: got {B} of {count}")
    weights = torch.full((B, B), 1 / (B - 1), device=z.device)
    weights.fill_diagonal_(1 / count)
    rows = torch.arange(B, device=z.device)
    weights[rows, (rows + 1) % B] = (count - B + 1) / (count * (B - 1))
    each = log_gaussian(z[:, None], mean[None], logvar[None])  # (B, B, D): code i under posterior j
    together = (weights.log() + each.sum(2)).logsumexp(1)
    return together, (weights.log()[:, :, None] + each).logsumexp(1).sum(1)


def permute_dims(z: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(B, D) with every column shuffled for itself: samples of prod_d q(z_d) (Kim & Mnih 2018, algorithm 1)."""
    order = torch.rand(z.shape, generator=generator).argsort(0).to(z.device)
    return z.gather(0, order)


def rbf(distance: Tensor, width: int) -> Tensor:
    """exp(-d / (2 D)) of squared distances: a bandwidth that grows with the number of dimensions."""
    return (-distance / (2 * width)).exp()


def inverse_multiquadratic(distance: Tensor, width: int) -> Tensor:
    """C / (C + d) with C = 2 D, as Tolstikhin et al. 2017, section 4: its tails still pull codes that are far off."""
    return 2 * width / (2 * width + distance)


def mmd(x: Tensor, y: Tensor, kernel=rbf) -> Tensor:
    """Squared maximum mean discrepancy of two sets (B, D) (Gretton et al. 2012, eq. 3): no bias, so it may be below 0.

    A mean over pairs already: dividing it by B (B - 1) once more, as published code does, makes it vanish.
    """

    def pairs(a: Tensor, b: Tensor) -> Tensor:
        return kernel(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") ** 2, x.shape[1])

    def among(a: Tensor) -> Tensor:
        return (pairs(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))  # kernel(0) is 1

    return among(x) + among(y) - 2 * pairs(x, y).mean()


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 50, generator: torch.Generator | None = None) -> Tensor:
    """Squared 2-Wasserstein distance of two sets (B, D), mean over random directions (Kolouri et al. 2018, eq. 8).

    In one dimension the best transport joins the smallest with the smallest, so sorting solves it.
    """
    directions = F.normalize(torch.randn(x.shape[1], projections, generator=generator), dim=0).to(x)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean()


def categorical_kl(logits: Tensor) -> Tensor:
    """KL of a softmax over the last axis, K wide, from the uniform distribution."""
    log_shares = logits.log_softmax(-1)
    return (log_shares.exp() * log_shares).sum(-1) + math.log(logits.shape[-1])


def gumbel_softmax(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    """A soft draw from a softmax that gradients pass through (Jang et al. 2016, eq. 2)."""
    noise = torch.rand(logits.shape, generator=generator).to(logits).clamp(1e-10, 1 - 1e-7)
    return ((logits - (-noise.log()).log()) / temperature).softmax(-1)


def gamma_kl(shape: Tensor, rate: Tensor, prior_shape: float, prior_rate: float) -> Tensor:
    """KL between two Gamma distributions, number by number."""
    prior = torch.tensor(prior_shape)
    return (
        (shape - prior) * shape.digamma()
        - shape.lgamma()
        + prior.lgamma()
        + prior * (rate.log() - math.log(prior_rate))
        + shape * (prior_rate - rate) / rate
    )


def log_cosh(x: Tensor, sharpness: float) -> Tensor:
    """log(cosh(a x)) / a: a parabola near 0, |x| far off; without the overflow of cosh."""
    return x.abs() + (F.softplus(-2 * sharpness * x.abs()) - math.log(2)) / sharpness
