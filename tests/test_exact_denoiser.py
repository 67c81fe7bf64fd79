"""The exact denoiser of a finite dataset, against Monte Carlo, the Gaussian's closed form and the data themselves."""

import pytest
import torch

from helpers.diffusion import DDPMPath, FlowPath, sample, time_grid
from helpers.toy_diffusion import exact_denoiser

PATHS = [FlowPath(), DDPMPath.cosine()]


@pytest.mark.parametrize("path", PATHS, ids=["flow", "cosine"])
def test_it_is_the_mean_of_the_data_that_fit(path):
    """Of many noisy copies of the data, those that fall near a place have this mean."""
    torch.manual_seed(0)
    data = torch.randn(5, 1)
    which = torch.randint(5, (2_000_000,))
    noisy = path.add_noise(data[which], torch.randn(len(which), 1), 0.4)
    place = torch.tensor([[0.3]])
    near = (noisy - place).abs().flatten() < 0.01
    expected = data[which][near].mean()
    error = data[which][near].std() / near.sum().sqrt()
    assert (exact_denoiser(data, path)(place, 0.4).x0.item() - expected).abs() < 4 * error


@pytest.mark.parametrize("path", PATHS, ids=["flow", "cosine"])
def test_many_gaussian_points_have_the_gaussians_denoiser(path):
    data = torch.erfinv(torch.linspace(-1, 1, 40_001)[1:-1]) * 2**0.5 * 0.7  # quantiles of N(0, 0.7^2)
    alpha, sigma = path.alpha_sigma(0.5)
    x = torch.linspace(-1.5, 1.5, 7)[:, None]
    expected = alpha * 0.7**2 / (alpha**2 * 0.7**2 + sigma**2) * x
    denoised = exact_denoiser(data[:, None], path)(x, 0.5)
    torch.testing.assert_close(denoised.x0, expected, atol=2e-3, rtol=0)
    torch.testing.assert_close(alpha * denoised.x0 + sigma * denoised.eps, x)


def test_sampling_with_it_returns_the_data():
    """A perfect denoiser has memorised its data: the reason why a network that generalises must not be perfect."""
    torch.manual_seed(0)
    data = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
    end = sample("heun", exact_denoiser(data, FlowPath()), torch.randn(64, 2), time_grid(40), FlowPath())
    distances = torch.cdist(end, data)
    assert distances.min(dim=1).values.max() < 1e-2
    assert distances.argmin(dim=1).unique().tolist() == [0, 1, 2]
