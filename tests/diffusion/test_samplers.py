"""Samplers, given the exact denoiser of a Gaussian, must recover that Gaussian; and the identities between them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.diffusion import SAMPLERS, DDPMPath, Denoised, FlowPath, guided_denoiser, sample, time_grid
from helpers.diffusion.samplers import num_function_evaluations, posterior

MEAN = 2.0
STD = 0.5
PATHS = {
    "flow": FlowPath(),
    "flow, shifted": FlowPath(3.0),
    "linear": DDPMPath.linear(),
    "cosine": DDPMPath.cosine(),
    "scaled linear": DDPMPath.scaled_linear(),
    "sigmoid": DDPMPath.sigmoid(),
}


def exact(path, mean=MEAN, std=STD):
    """The best possible answer when the data are N(mean, std^2): E[x0 | x] is linear in x."""

    def denoise(x: Tensor, t: float) -> Denoised:
        alpha, sigma = path.alpha_sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        x0 = mean + gain * (x - alpha * mean)
        return Denoised(x0, (x - alpha * x0) / sigma)

    return denoise


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_recovers_a_gaussian_on_every_path(name, path):
    steps = 400 if name in ("ddpm", "euler_ancestral", "ddim", "euler") else 100
    alpha, sigma = path.alpha_sigma(1.0)  # not every schedule ends in pure noise: start where it really ends
    start = alpha * MEAN + (alpha**2 * STD**2 + sigma**2).sqrt() * normal(20_000)
    x = sample(name, exact(path), start, time_grid(steps), path, generator=torch.Generator().manual_seed(1))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(mean=st.floats(-3, 3), std=st.floats(0.1, 2), name=st.sampled_from(sorted(SAMPLERS)), shift=st.floats(0.5, 4))
def test_any_gaussian_is_recovered_on_any_flow_path(mean, std, name, shift):
    path = FlowPath(shift)
    x = sample(
        name, exact(path, mean, std), normal(4_000), time_grid(200), path, generator=torch.Generator().manual_seed(1)
    )
    assert x.mean().item() == pytest.approx(mean, abs=0.05 * (1 + std))
    assert x.std().item() == pytest.approx(std, rel=0.08, abs=0.02)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_euler_is_ddim(path):
    noise = normal(64)
    times = time_grid(30)
    euler, ddim = (sample(name, exact(path), noise, times, path) for name in ("euler", "ddim"))
    torch.testing.assert_close(euler, ddim, atol=2e-4, rtol=0)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_euler_ancestral_is_ddpm_is_ddim_with_eta_one(path):
    def run(sampler, **options):
        *_, last = sampler(
            exact(path), normal(64), time_grid(30), path, generator=torch.Generator().manual_seed(3), **options
        )
        return last.x

    ddpm = run(SAMPLERS["ddpm"])
    ancestral = run(SAMPLERS["euler_ancestral"])
    torch.testing.assert_close(ancestral, ddpm, atol=1e-3, rtol=0)
    torch.testing.assert_close(run(SAMPLERS["ddim"], eta=1.0), ddpm, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name,wanted", [("euler", 1), ("heun", 2), ("dpm_solver_pp_2m", 2), ("lms", 2)])
@pytest.mark.parametrize("path", [FlowPath(), DDPMPath.cosine(10_000)], ids=["flow", "cosine"])
def test_order_of_convergence(name, wanted, path):
    """Halving the steps must multiply the error by 2^order; measured away from the ends, where all paths are smooth."""
    times = lambda steps: torch.linspace(0.8, 0.3, steps + 1)  # noqa: E731
    noise = normal(256).double()
    errors = []
    truth = sample("heun", exact(path), noise, times(800), path)
    for steps in (12, 24):
        errors.append((sample(name, exact(path), noise, times(steps), path) - truth).abs().mean().item())
    order = torch.tensor(errors[0] / errors[1]).log2().item()
    assert order > wanted - 0.35, f"{name}: errors {errors}, order {order:.2f}"


def test_posterior_agrees_with_bayes_by_counting():
    """q(x_s | x_t, x0): regress simulated x_s on x_t, and compare mean and spread."""
    path = DDPMPath.linear()
    x0 = torch.full((200_000,), 0.7)
    (t, s) = (0.5, 0.45)
    (alpha_t, sigma_t) = path.alpha_sigma(t)
    (alpha_s, sigma_s) = path.alpha_sigma(s)
    x_s = alpha_s * x0 + sigma_s * normal(200_000)
    step = alpha_t / alpha_s
    x_t = step * x_s + (sigma_t**2 - step**2 * sigma_s**2).sqrt() * normal(200_000, seed=1)
    mean, std = posterior(x_t, x0, (alpha_t.item(), sigma_t.item()), (alpha_s.item(), sigma_s.item()))
    residual = x_s - mean
    assert residual.mean().item() == pytest.approx(0, abs=0.003)
    assert torch.corrcoef(torch.stack([residual, x_t]))[0, 1].item() == pytest.approx(0, abs=0.01)
    assert residual.std().item() == pytest.approx(std, rel=0.01)


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_counted_right(name):
    path = FlowPath()
    calls = []

    def counting(x, t):
        calls.append(t)
        return exact(path)(x, t)

    sample(name, counting, normal(8), time_grid(7), path)
    assert len(calls) == num_function_evaluations(name, 7)


def test_a_seed_repeats_the_picture_and_another_does_not():
    path = FlowPath()
    first, again, other = (
        sample("ddpm", exact(path), normal(8), time_grid(9), path, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_guidance_moves_along_the_difference_and_only_inside_its_interval():
    asked = []

    def say(value):
        def denoise(x, t):
            asked.append(value)
            return Denoised(torch.full_like(x, value), torch.full_like(x, -value))

        return denoise

    denoise = guided_denoiser(say(3.0), say(1.0), 2.0, guidance_interval=(0.2, 0.8))
    assert denoise(torch.zeros(2), 0.5).x0.tolist() == [5.0, 5.0]
    assert denoise(torch.zeros(2), 0.5).eps.tolist() == [-5.0, -5.0]
    assert denoise(torch.zeros(2), 0.9).x0.tolist() == [3.0, 3.0]
    assert asked == [3.0, 1.0, 3.0, 1.0, 3.0]


def test_bad_input_says_what_was_wrong():
    path = FlowPath()
    with pytest.raises(ValueError, match="decrease"):
        sample("euler", exact(path), normal(4), torch.linspace(0, 1, 5), path)
    with pytest.raises(ValueError, match="unknown sampler 'plms'.*ddim"):
        sample("plms", exact(path), normal(4), time_grid(4), path)
    with pytest.raises(ValueError, match="at least 1"):
        time_grid(0)
