"""Diffusion and flow matching on one convention: x_t = alpha_t x0 + sigma_t eps, data at t = 0, noise at t = 1."""

from helpers.diffusion.guidance import apply_guidance, guided_denoiser
from helpers.diffusion.objectives import (
    PREDICTION_TYPES,
    Denoised,
    Objective,
    convert_prediction,
    min_snr_weight,
    training_target,
)
from helpers.diffusion.samplers import SAMPLERS, Denoiser, Step, initial_noise, run_sampler, sample, time_grid
from helpers.diffusion.schedules import DDPMPath, FlowPath, NoisePath

__all__ = [
    "PREDICTION_TYPES",
    "SAMPLERS",
    "DDPMPath",
    "Denoised",
    "Denoiser",
    "FlowPath",
    "NoisePath",
    "Objective",
    "Step",
    "apply_guidance",
    "convert_prediction",
    "guided_denoiser",
    "initial_noise",
    "min_snr_weight",
    "run_sampler",
    "sample",
    "time_grid",
    "training_target",
]
