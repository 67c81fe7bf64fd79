"""Noise levels by a formula or by hand, churn, and PLMS: against diffusers, and against the exact denoiser."""

import re

import pytest
import torch
from diffusers import PNDMScheduler

from benchmarks.sd1 import samplers
from helpers.diffusion import DDPMPath, FlowPath, sample
from helpers.diffusion.noise_levels import check_sigmas, exponential_levels, karras_levels, noise_levels
from helpers.diffusion.samplers import Interval, add_churn, num_function_evaluations
from helpers.sd1.schedule import Schedule
from tests.diffusion.test_samplers import MEAN, PATHS, STD, exact, normal


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_the_time_of_a_level_is_the_reverse_of_the_path(path):
    times = torch.linspace(0.001, 1, 700, dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(times)
    torch.testing.assert_close(path.time_of_level(sigma.double() / alpha), times, atol=1e-6, rtol=0)
    assert path.time_of_level(torch.tensor([0.0, torch.inf])).tolist() == [0, 1]


@pytest.mark.parametrize("formula", samplers.FORMULAS)
def test_levels_by_formula_are_diffusers(formula):
    assert samplers.levels_difference(formula) < 1e-3
    assert samplers.flow_levels_difference(formula) < 1e-3
    times = Schedule().times(12, formula)
    assert len(times) == 13 and times[0] == 1 and times[-1] == 0 and (times.diff() < 0).all()


def test_sampling_at_karras_levels_and_with_churn_is_diffusers():
    assert samplers.euler_difference(8) < 1e-3
    assert samplers.churn_difference() < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_plms_is_diffusers(steps):
    assert samplers.plms_difference(steps) < 1e-5
    scheduler = PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(steps)
    assert num_function_evaluations("plms", steps) == len(scheduler.timesteps)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_with_churn_a_gaussian_is_recovered_too(name, path):
    alpha, sigma = path.alpha_sigma(1.0)
    start = alpha * MEAN + (alpha**2 * STD**2 + sigma**2).sqrt() * normal(20_000)
    times = torch.linspace(1, 0, 301)
    generators = torch.Generator().manual_seed(1)
    x = sample(name, exact(path), start, times, path, generator=generators, churn=40)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert x.std().item() == pytest.approx(STD, abs=0.03)
    plain = sample(name, exact(path), start, times, path)
    assert torch.corrcoef(torch.stack([x, plain]))[0, 1] < 0.9, "the fresh noise has changed which sample it is"


@pytest.mark.parametrize("path", [DDPMPath.scaled_linear(), FlowPath()])
def test_churn_stops_at_the_most_noise_of_the_path(path):
    def interval(t: float, t_next: float) -> Interval:
        alpha, sigma = path.alpha_sigma(torch.tensor([t, t_next]))
        return Interval(t, alpha[0].item(), sigma[0].item(), t_next, alpha[1].item(), sigma[1].item())

    x = normal(8)
    unchanged, same = add_churn(x, interval(1.0, 0.5), path, 10.0, 2, None)
    assert unchanged is x and same == interval(1.0, 0.5)
    changed, noisier = add_churn(x, interval(0.5, 0.0), path, 10.0, 2, None)
    assert noisier.t > 0.5 and not torch.equal(changed, x)


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
