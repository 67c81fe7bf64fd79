"""Samplers, given the exact denoiser of a Gaussian, must recover that Gaussian; and the identities between them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.diffusion import (
    SAMPLERS,
    DDPMPath,
    Denoised,
    FlowPath,
    guided_denoiser,
    initial_noise,
    run_sampler,
    sample,
    samplers,
    time_grid,
)
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
    """The best possible denoiser when the data are N(mean, std^2): E[x0 | x] is linear in x."""

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
    if name == "plms" and path.alpha_sigma(1.0)[0] < 0.01:
        with pytest.raises(ValueError, match="plms is for paths that end before pure noise"):
            sample(name, exact(path), normal(4), time_grid(4), path)
        return
    steps = 400 if name in ("ddpm", "euler_ancestral", "ddim", "euler") else 100
    alpha, sigma = path.alpha_sigma(1.0)  # not every schedule ends in pure noise: start where it really ends
    start = alpha * MEAN + (alpha**2 * STD**2 + sigma**2).sqrt() * normal(20_000)
    x = sample(name, exact(path), start, time_grid(steps), path, generator=torch.Generator().manual_seed(1))
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, abs=0.03)


@settings(max_examples=20, deadline=None)
@given(
    mean=st.floats(-3, 3),
    std=st.floats(0.1, 2),
    name=st.sampled_from(sorted(set(SAMPLERS) - {"plms"})),
    shift=st.floats(0.5, 4),
)
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


@pytest.mark.parametrize("name,order", [("euler", 1), ("heun", 2), ("dpm_solver_pp_2m", 2), ("lms", 2)])
@pytest.mark.parametrize("path", [FlowPath(), DDPMPath.cosine(10_000)], ids=["flow", "cosine"])
def test_order_of_convergence(name, order, path):
    """Halving the steps must multiply the error by 2^order; measured away from the ends, where all paths are smooth."""
    times = lambda steps: torch.linspace(0.8, 0.3, steps + 1)  # noqa: E731
    noise = normal(256).double()
    errors = []
    truth = sample("heun", exact(path), noise, times(800), path)
    for steps in (12, 24):
        errors.append((sample(name, exact(path), noise, times(steps), path) - truth).abs().mean().item())
    measured = torch.tensor(errors[0] / errors[1]).log2().item()
    assert measured > order - 0.35, f"{name}: errors {errors}, order {measured:.2f}"


def test_posterior_agrees_with_bayes_by_counting():
    """q(x_s | x_t, x0): regress simulated x_s on x_t, and compare mean and standard deviation."""
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
def test_function_evaluations_are_counted_right(name):
    path = DDPMPath.scaled_linear()
    calls = []

    def counting(x, t):
        calls.append(t)
        return exact(path)(x, t)

    sample(name, counting, normal(8), time_grid(7), path)
    assert len(calls) == num_function_evaluations(name, 7)


def test_a_seed_repeats_the_sample_and_another_does_not():
    path = FlowPath()
    first, repeated, other = (
        sample("ddpm", exact(path), normal(8), time_grid(9), path, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, repeated) and not torch.equal(first, other)


def test_initial_noise_depends_on_its_own_seed_only():
    noise, _ = initial_noise([4, 5], (3, 2, 2))
    alone, _ = initial_noise([5], (3, 2, 2))
    assert noise.shape == (2, 3, 2, 2) and torch.equal(noise[1:], alone)
    assert torch.equal(noise[0], normal(3, 2, 2, seed=4))


def test_later_noise_does_not_repeat_the_initial_noise():
    noise, (generator,) = initial_noise([4], (1024,))  # a multiple of 16: PyTorch draws the last 16 of other sizes anew
    later = torch.randn(1024, generator=generator)
    assert torch.corrcoef(torch.stack([noise[0], later]))[0, 1].abs() < 0.15
    assert torch.equal(later, normal(2048, seed=4)[1024:]), "the generator goes on where the noise ended"


def test_run_sampler_records_no_gradients_and_leaves_the_mode_alone():
    path = FlowPath()
    weight = torch.ones(1, requires_grad=True)

    def denoise(x, t):
        assert not torch.is_grad_enabled()
        return exact(path)(x * weight, t)

    for step in run_sampler("heun", denoise, normal(4), time_grid(3), path):
        assert torch.is_grad_enabled() and not step.x.requires_grad


def test_an_unknown_sampler_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="unknown sampler 'unipc'.*ddim"):
        run_sampler("unipc", exact(FlowPath()), normal(4), time_grid(4), FlowPath())


@pytest.mark.parametrize("name", ["ddpm", "euler_ancestral"])
def test_fresh_noise_is_sampled_on_the_generators_device(name, monkeypatch):
    """A CUDA generator cannot fill a CPU tensor; this shows on any machine which device is asked for."""
    devices = []
    randn = torch.randn

    def recorded(*shape, generator=None, device=None, **options):
        devices.append(device)
        return randn(*shape, generator=generator, **options)

    monkeypatch.setattr(samplers.torch, "randn", recorded)
    generator = torch.Generator()
    sample(name, exact(FlowPath()), torch.ones(4), time_grid(3), FlowPath(), generator=generator)
    assert devices and set(devices) == {generator.device}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_generator_on_a_gpu():
    generator = torch.Generator("cuda").manual_seed(0)
    x = sample("ddpm", exact(FlowPath()), normal(20_000), time_grid(400), FlowPath(), generator=generator)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)


def test_guidance_moves_along_the_difference_and_only_inside_its_interval():
    calls = []

    def constant(value):
        def denoise(x, t):
            calls.append(value)
            return Denoised(torch.full_like(x, value), torch.full_like(x, -value))

        return denoise

    denoise = guided_denoiser(constant(3.0), constant(1.0), 2.0, guidance_interval=(0.2, 0.8))
    assert denoise(torch.zeros(2), 0.5).x0.tolist() == [5.0, 5.0]
    assert denoise(torch.zeros(2), 0.5).eps.tolist() == [-5.0, -5.0]
    assert denoise(torch.zeros(2), 0.9).x0.tolist() == [3.0, 3.0]
    assert calls == [3.0, 1.0, 3.0, 1.0, 3.0]


def test_bad_input_says_what_was_wrong():
    path = FlowPath()
    with pytest.raises(ValueError, match="decrease"):
        sample("euler", exact(path), normal(4), torch.linspace(0, 1, 5), path)
    with pytest.raises(ValueError, match="unknown sampler 'unipc'.*ddim"):
        sample("unipc", exact(path), normal(4), time_grid(4), path)
    with pytest.raises(ValueError, match="at least 1"):
        time_grid(0)
