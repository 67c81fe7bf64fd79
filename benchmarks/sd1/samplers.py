"""Samplers and noise levels beside diffusers' schedulers: the same steps from the same noise, and equal predictions.

A small nonlinear function stands for the network: what is compared is the schedulers' arithmetic.
"""

from collections.abc import Callable

import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

from benchmarks.parity import difference
from benchmarks.report import Row, at_most
from helpers.diffusion import DDPMPath, Denoised, sample
from helpers.sd1.schedule import Schedule
from helpers.sd3.pipeline import StableDiffusion3

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}  # of Stable Diffusion 1
PATH = DDPMPath.scaled_linear()
MIXING = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) * 0.3
CHURN = 1.5
FORMULAS = ("karras", "exponential")


def rows() -> list[Row]:
    """Rows of `python -m benchmarks check sd1`."""
    compared = [at_most("PLMS beside diffusers' PNDM, 20 steps", plms_difference(20), 1e-5)]
    for formula in FORMULAS:
        compared.append(at_most(f"{formula} noise levels beside diffusers'", levels_difference(formula), 1e-3))
        name = f"{formula} noise levels of Stable Diffusion 3 beside diffusers'"
        compared.append(at_most(name, flow_levels_difference(formula), 1e-3))
    compared.append(at_most("Euler at Karras noise levels beside diffusers', 8 steps", euler_difference(8), 1e-3))
    compared.append(at_most("a step with churn beside diffusers'", churn_difference(), 1e-3))
    return compared


def network(x: Tensor) -> Tensor:
    """Some prediction of the noise, (B, 4, h, w)."""
    return torch.einsum("bchw,cd->bdhw", torch.tanh(x), MIXING)


def denoiser(prediction: Callable[[Tensor], Tensor]) -> Callable[[Tensor, float], Denoised]:
    """A denoiser on PATH that predicts the noise with this function."""

    def denoise(x: Tensor, t: float) -> Denoised:
        alpha, sigma = PATH.alpha_sigma(t)
        eps = prediction(x)
        return Denoised((x - sigma * eps) / alpha, eps)

    return denoise


def noise() -> Tensor:
    """What every comparison starts from."""
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def plms_difference(steps: int) -> float:
    """Largest relative difference of the samples."""
    scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    latent = noise()
    for timestep in scheduler.timesteps:
        latent = scheduler.step(network(latent), timestep, latent).prev_sample
    return difference(sample("plms", denoiser(network), noise(), Schedule().times(steps), PATH), latent)


def levels_difference(formula: str, steps: int = 12) -> float:
    """Largest relative difference of one level, both in units of the data."""
    scheduler = EulerDiscreteScheduler(**NOISE, **{f"use_{formula}_sigmas": True})
    scheduler.set_timesteps(steps)
    alpha, sigma = PATH.alpha_sigma(Schedule().times(steps, formula)[:-1])
    return ((sigma / alpha) / scheduler.sigmas[:-1] - 1).abs().max().item()


def flow_levels_difference(formula: str, steps: int = 10) -> float:
    """The same for Stable Diffusion 3 with a shift of 3."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, **{f"use_{formula}_sigmas": True})
    scheduler.set_timesteps(steps)
    ours = StableDiffusion3.from_weights().times(steps, 3.0, formula)
    return (ours[:-1] / scheduler.sigmas[:-1] - 1).abs().max().item()


def euler_difference(steps: int) -> float:
    """Largest relative difference of the samples; diffusers' states are in units of the data."""
    scheduler = EulerDiscreteScheduler(**NOISE, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    latent = noise() / PATH.alpha_sigma(1.0)[0]
    for timestep in scheduler.timesteps:
        prediction = network(scheduler.scale_model_input(latent, timestep))
        latent = scheduler.step(prediction, timestep, latent).prev_sample
    return difference(sample("euler", denoiser(network), noise(), Schedule().times(steps, "karras"), PATH), latent)


def churn_difference() -> float:
    """Largest relative difference after one step in the middle, where the network predicts no noise at all."""
    scheduler = EulerDiscreteScheduler(**NOISE, use_karras_sigmas=True)
    scheduler.set_timesteps(6)
    latent = noise()[:1]
    timestep = scheduler.timesteps[2]
    scheduler.scale_model_input(latent, timestep)  # it wants to be called before a step
    step = scheduler.step(
        torch.zeros_like(latent),
        timestep,
        latent,
        s_churn=CHURN,
        generator=torch.Generator().manual_seed(7),
    )
    times = PATH.time_of_level(scheduler.sigmas[2:4]).float()
    alpha = PATH.alpha_sigma(times)[0]
    ours = sample(
        "euler",
        denoiser(torch.zeros_like),
        alpha[0] * latent,
        times,
        PATH,
        generator=torch.Generator().manual_seed(7),
        churn=CHURN / 6,  # one step of six there, the only one here
    )
    return difference(ours / alpha[1], step.prev_sample)
