"""The best possible denoiser of a finite data set: no network, a weighted mean of the data.

Alphabet: B points to denoise, N data points, D dimensions.
"""

import torch
from torch import Tensor

from helpers.diffusion.objectives import Denoised
from helpers.diffusion.samplers import Denoiser
from helpers.diffusion.schedules import NoisePath

SMALLEST_SIGMA = 1e-4  # at t = 0 the mean is the nearest data point


def exact_denoiser(data: Tensor, path: NoisePath) -> Denoiser:
    r"""Build the denoiser that minimises the training loss on these data: E[x0 | x_t] of their empirical distribution.

    Given x_t, the data point x_i has the probability $w_i \propto \exp(-|x_t - \alpha_t x_i|^2 / 2 \sigma_t^2)$, and
    the mean is $\sum_i w_i x_i$ (Karras et al. 2022, eq. 57).

    Args:
        data: (N, D).
        path: which gives alpha and sigma.

    Returns:
        A function of x (B, D) and a time t; it evaluates to (x0, eps), each (B, D).

    Raises:
        ValueError: for data that are no list of points.
    """
    if data.ndim != 2 or not len(data):
        raise ValueError(f"data must be points (N, D), got shape {tuple(data.shape)}")

    def denoise(x: Tensor, t: float) -> Denoised:
        alpha, sigma = path.alpha_sigma(t)
        sigma = sigma.clamp(min=SMALLEST_SIGMA)
        distances = torch.cdist(x.double(), (alpha * data).double())  # (B, N)
        weights = (-distances.square() / (2 * sigma**2)).softmax(dim=1)
        x0 = (weights @ data.double()).to(x)
        return Denoised(x0, (x - alpha * x0) / sigma)

    return denoise
