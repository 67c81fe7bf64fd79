"""Diffusion and flow matching on one convention: x_t = alpha_t x0 + sigma_t eps, data at t = 0, noise at t = 1."""

from helpers.diffusion.guidance import guide, guided
from helpers.diffusion.objectives import PREDICTIONS, Denoised, Objective, denoised, min_snr_weight, target
from helpers.diffusion.samplers import SAMPLERS, Step, sample, timesteps
from helpers.diffusion.schedules import DDPMPath, FlowPath, Path

__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "DDPMPath",
    "Denoised",
    "FlowPath",
    "Objective",
    "Path",
    "Step",
    "denoised",
    "guide",
    "guided",
    "min_snr_weight",
    "sample",
    "target",
    "timesteps",
]
