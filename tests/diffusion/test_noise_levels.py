"""Noise levels by a formula or by hand, churn, and PLMS: against diffusers, and against the exact denoiser."""

import re

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

from helpers.diffusion import DDPMPath, Denoised, FlowPath, sample
from helpers.diffusion.noise_levels import check_sigmas, exponential_levels, karras_levels, noise_levels
from helpers.diffusion.samplers import add_churn, num_function_evaluations
from helpers.sd1.schedule import Schedule

PATHS = {
    "flow": FlowPath(),
    "flow, shifted": FlowPath(3.0),
    "linear": DDPMPath.linear(),
    "cosine": DDPMPath.cosine(),
    "scaled linear": DDPMPath.scaled_linear(),
}
SD1 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MIXING = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) * 0.3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor) -> Tensor:
    """Some nonlinear prediction of the noise, in units of the data."""
    return torch.einsum("bchw,cd->bdhw", torch.tanh(x), MIXING)


def denoiser(path):
    def denoise(x: Tensor, t: float) -> Denoised:
        alpha, sigma = path.alpha_sigma(t)
        eps = network(x)
        return Denoised((x - sigma * eps) / alpha, eps)

    return denoise


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_the_time_of_a_level_is_the_reverse_of_the_path(path):
    times = torch.linspace(0.001, 1, 700, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(times)
    torch.testing.assert_close(path.time_of_level(sigma.double() / alpha), times, atol=1e-6, rtol=0)
    assert path.time_of_level(torch.tensor([0.0, torch.inf])).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_levels_by_formula_are_diffusers(name):
    scheduler = EulerDiscreteScheduler(**SD1, **{f"use_{name}_sigmas": True})
    scheduler.set_timesteps(12)
    alpha, sigma = DDPMPath.scaled_linear().alpha_sigma(torch.tensor([0.001, 1.0]))
    ours = noise_levels(name, 12, *(sigma / alpha).tolist())
    torch.testing.assert_close(ours.float(), scheduler.sigmas[:-1], atol=1e-4, rtol=1e-4)
    times = Schedule().times(12, name)
    assert len(times) == 13 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()
    alpha, sigma = DDPMPath.scaled_linear().alpha_sigma(times[:-1])
    torch.testing.assert_close(sigma / alpha, scheduler.sigmas[:-1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["karras", "exponential"])
def test_levels_by_formula_of_stable_diffusion_3_are_diffusers(name, tiny_sd3):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, **{f"use_{name}_sigmas": True})
    scheduler.set_timesteps(10)
    torch.testing.assert_close(tiny_sd3.times(10, 3.0, name), scheduler.sigmas, atol=2e-5, rtol=1e-3)


@pytest.fixture(scope="module")
def tiny_sd3():
    from helpers.sd3.pipeline import StableDiffusion3

    return StableDiffusion3.from_weights()


def test_sampling_at_karras_levels_is_diffusers():
    theirs = EulerDiscreteScheduler(**SD1, use_karras_sigmas=True)
    theirs.set_timesteps(8)
    alpha, sigma = DDPMPath.scaled_linear().alpha_sigma(1.0)
    x = normal(2, 4, 8, 8)
    latent = x / alpha  # their states are in units of the data
    for timestep in theirs.timesteps:
        model_input = theirs.scale_model_input(latent, timestep)
        latent = theirs.step(network(model_input), timestep, latent).prev_sample
    path = DDPMPath.scaled_linear()
    ours = sample("euler", denoiser(path), x, Schedule(path).times(8, "karras"), path)
    assert (ours - latent).abs().max() < 1e-3 * latent.abs().max()


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_plms_is_diffusers(steps):
    scheduler = PNDMScheduler(**SD1, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    x = normal(2, 4, 8, 8)
    latent = x
    for timestep in scheduler.timesteps:
        latent = scheduler.step(network(latent), timestep, latent).prev_sample
    path = DDPMPath.scaled_linear()
    ours = sample("plms", denoiser(path), x, Schedule().times(steps), path)
    assert (ours - latent).abs().max() < 1e-5 * latent.abs().max()
    assert num_function_evaluations("plms", steps) == len(scheduler.timesteps)


def test_churn_is_diffusers():
    scheduler = EulerDiscreteScheduler(**SD1, use_karras_sigmas=True)
    scheduler.set_timesteps(6)
    level, following = scheduler.sigmas[2:4].tolist()
    x = normal(1, 4, 8, 8)
    theirs = scheduler.step(
        torch.zeros_like(x),
        scheduler.timesteps[2],
        x,
        s_churn=1.5,
        generator=torch.Generator().manual_seed(7),
    ).prev_sample
    path = DDPMPath.scaled_linear()
    times = path.time_of_level(torch.tensor([level, following])).float()
    alpha, _ = path.alpha_sigma(times)

    def no_noise(x: Tensor, t: float) -> Denoised:
        return Denoised(x / path.alpha_sigma(t)[0], torch.zeros_like(x))

    ours = sample(
        "euler",
        no_noise,
        alpha[0] * x,
        times,
        path,
        generator=torch.Generator().manual_seed(7),
        churn=1.5 / 6,  # a step of six there, the only one here
    )
    torch.testing.assert_close(ours / alpha[1], theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_with_churn_a_gaussian_is_recovered_too(name, path):
    mean, std = 2.0, 0.5

    def exact(x: Tensor, t: float) -> Denoised:
        alpha, sigma = path.alpha_sigma(t)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return Denoised(x0, (x - alpha * x0) / sigma)

    alpha, sigma = path.alpha_sigma(1.0)
    start = alpha * mean + (alpha**2 * std**2 + sigma**2).sqrt() * normal(20_000)
    times = torch.linspace(1, 0, 301)
    generators = torch.Generator().manual_seed(1)
    x = sample(name, exact, start, times, path, generator=generators, churn=40)
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(std, abs=0.03)
    plain = sample(name, exact, start, times, path)
    assert torch.corrcoef(torch.stack([x, plain]))[0, 1] < 0.9, "the fresh noise has changed which sample it is"


def test_churn_stops_at_the_most_noise_of_the_path():
    from helpers.diffusion.samplers import _intervals

    path = DDPMPath.scaled_linear()
    times = torch.tensor([1.0, 0.5, 0.0])
    first, second = _intervals(times, path)
    x = normal(8)
    assert add_churn(x, first, path, 10.0, times, None)[1] == first
    assert add_churn(x, second, path, 10.0, times, None)[1].t > 0.5
    flow = FlowPath()
    first, _ = _intervals(times, flow)
    assert add_churn(x, first, flow, 10.0, times, None)[0] is x


def test_own_levels():
    assert check_sigmas("14.6, 5,1.5,0") == (14.6, 5, 1.5)
    assert check_sigmas(torch.tensor([3.0, 1.0]).tolist()) == (3, 1)
    assert check_sigmas(None) is None and check_sigmas("karras") == "karras"
    assert noise_levels((14.62, 1), 2, 0.03, 14.615).tolist() == [14.615, 1], "a rounded largest level is no error"
    times = Schedule().times(3, (14.6, 5, 1.5))
    alpha, sigma = DDPMPath.scaled_linear().alpha_sigma(times)
    torch.testing.assert_close(sigma / alpha, torch.tensor([14.6, 5, 1.5, 0]), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ("karas", "choose karras, exponential"),
        ([1, 2], "positive and decrease"),
        ([], "positive and decrease"),
        ([2, 1, -1], "positive and decrease"),
        ([float("nan"), 1], "positive and decrease"),
        ([float("inf"), 1], "positive and decrease"),
        ([1, "a"], "unknown sigmas"),
        (3, "unknown sigmas"),
    ],
)
def test_levels_that_cannot_be_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        check_sigmas(sigmas)


def test_more_noise_than_in_training_is_refused():
    with pytest.raises(ValueError, match=re.escape("at most 14.615")):
        Schedule().times(2, (20.0, 1.0))


def test_formulas_have_the_ends_they_are_given():
    for formula in (karras_levels, exponential_levels):
        levels = formula(5, 0.03, 14.6)
        torch.testing.assert_close(levels[[0, -1]], torch.tensor([14.6, 0.03]).double())
        assert formula(1, 0.03, 14.6).tolist() == pytest.approx([14.6])
