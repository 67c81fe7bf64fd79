"""Every divergence against a closed form, a limit, or many samples."""

import math

import pytest
import torch
from torch.distributions import Gamma, Normal, kl_divergence

from helpers.autoencoders.zoo import divergences as d


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_gaussian_kl(generator):
    mean, logvar, prior_mean, prior_logvar = torch.randn(4, 5, 3, generator=generator)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(prior_mean, (0.5 * prior_logvar).exp()))
    torch.testing.assert_close(d.gaussian_kl(mean, logvar, prior_mean, prior_logvar), expected)
    z = mean + (0.5 * logvar).exp() * torch.randn(200_000, 5, 3, generator=generator)
    sampled = (d.log_gaussian(z, mean, logvar) - d.log_gaussian(z)).mean(0)
    torch.testing.assert_close(d.gaussian_kl(mean, logvar), sampled, atol=0.05, rtol=0.02)


def test_total_correlation_of_independent_codes_is_nothing(generator):
    z = torch.randn(256, 6, generator=generator)
    together, apart = d.aggregate_posterior_log_density(z, torch.zeros(256, 6), torch.zeros(256, 6), dataset_size=5000)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, d.log_gaussian(z).sum(1), atol=1e-4, rtol=1e-4)


def test_total_correlation_of_correlated_codes(generator):
    """Of a Gaussian with correlation r it is -log(1 - r^2) / 2; the batch is the dataset here."""
    r = 0.9
    N = 2000
    centres = torch.randn(N, 2, generator=generator) @ torch.linalg.cholesky(torch.tensor([[1, r], [r, 1]])).T
    narrow = torch.full((N, 2), 2 * math.log(0.3))
    z = centres + 0.3 * torch.randn(N, 2, generator=generator)
    together, apart = d.aggregate_posterior_log_density(z, centres, narrow, dataset_size=N)
    rho = r / (1 + 0.3**2)
    assert (together - apart).mean().item() == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.06)


def test_weights_of_the_aggregate_sum_to_one():
    """With equal posteriors every weighting gives the density itself, whatever the dataset's size."""
    z = torch.zeros(8, 1)
    zero = torch.zeros(8, 1)
    for count in (8, 100, 10**6):
        assert d.aggregate_posterior_log_density(z, zero, zero, count)[0].tolist() == pytest.approx(
            [-0.5 * math.log(2 * math.pi)] * 8
        )
    with pytest.raises(ValueError, match="2 codes or more, of a larger dataset: got 8 of 7"):
        d.aggregate_posterior_log_density(z, zero, zero, 7)


def test_permute_dims_keeps_columns_and_breaks_rows(generator):
    z = torch.arange(100.0)[:, None].expand(100, 2)
    shuffled = d.permute_dims(z, generator)
    assert (shuffled.sort(0).values == z).all() and (shuffled[:, 0] != shuffled[:, 1]).any()


def test_mmd_against_its_closed_form(generator):
    """RBF of two normal clouds, one moved: 2 (s / (s + 2))^(D/2) (1 - exp(-|m|^2 / 2(s + 2))), with s = D."""
    D = 3
    moved = torch.tensor([1.0, 0.5, 0.0])
    x, y = torch.randn(2, 3000, D, generator=generator)
    expected = 2 * (D / (D + 2)) ** (D / 2) * (1 - math.exp(-moved.square().sum().item() / (2 * (D + 2))))
    assert d.mmd(x, y + moved).item() == pytest.approx(expected, rel=0.1)
    assert abs(d.mmd(x, y).item()) < 2e-3
    assert d.mmd(x, y + moved, d.inverse_multiquadratic).item() > 0.05
    assert abs(d.mmd(x, y, d.inverse_multiquadratic).item()) < 2e-3


def test_mmd_has_no_bias(generator):
    draws = [d.mmd(*torch.randn(2, 8, 2, generator=generator)).item() for _ in range(2000)]
    assert abs(sum(draws) / len(draws)) < 0.01 and min(draws) < 0


def test_sliced_wasserstein_of_a_moved_set_is_the_way(generator):
    """|m|^2 / D: the mean squared projection of the shift on a random direction."""
    x = torch.randn(500, 4, generator=generator)
    moved = torch.tensor([3.0, 0, 0, 4.0])
    assert d.sliced_wasserstein(x, x, generator=generator).item() == 0
    assert d.sliced_wasserstein(x, x + moved, 20_000, generator).item() == pytest.approx(25 / 4, rel=0.03)


def test_categorical_kl():
    logits = torch.tensor([[0.0, 0, 0, 0], [50.0, 0, 0, 0], [math.log(3), 0, 0, 0]])
    mixed = 0.5 * math.log(0.5) + 0.5 * math.log(1 / 6) + math.log(4)
    assert d.categorical_kl(logits).tolist() == pytest.approx([0, math.log(4), mixed], abs=1e-5)


def test_gumbel_softmax_chooses_as_often_as_it_should(generator):
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(50_000, 3)
    soft = d.gumbel_softmax(logits, 0.5, generator)
    often = torch.bincount(soft.argmax(1)) / len(soft)
    assert often.tolist() == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert d.gumbel_softmax(logits, 0.01, generator).max(1).values.mean() > 0.98


def test_gamma_kl(generator):
    shape, rate = torch.rand(2, 10, generator=generator) * 5 + 0.1
    expected = kl_divergence(Gamma(shape, rate), Gamma(torch.tensor(2.0), torch.tensor(1.0)))
    torch.testing.assert_close(d.gamma_kl(shape, rate, 2.0, 1.0), expected, atol=1e-4, rtol=1e-4)


def test_log_cosh():
    x = torch.linspace(-3, 3, 101)
    torch.testing.assert_close(d.log_cosh(x, 2.0), (2 * x).cosh().log() / 2, atol=1e-6, rtol=1e-5)
    assert d.log_cosh(torch.tensor([1e6, -1e6]), 10.0).tolist() == pytest.approx([1e6, 1e6])
