"""Stable Diffusion 1's noise schedule and timesteps, read from the scheduler_config.json that comes with weights."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.diffusion.noise_levels import noise_levels
from helpers.diffusion.schedules import DDPMPath
from helpers.weights.configs import PublishedConfig

PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}  # diffusers' name -> the course's
STEPS = 1000  # of the training's noise, in every published model
SMALLEST_ABAR = 2.0**-24  # of zero terminal SNR: log(alpha / sigma) stays finite, as in diffusers' solvers

SPACINGS = ("leading", "trailing", "linspace")  # of timesteps, as diffusers names them
# diffusers' samplers of such models -> the spacing of timesteps where the file names none
SPACING_OF_CLASS = {
    "DDIMScheduler": "leading",
    "DDPMScheduler": "leading",
    "PNDMScheduler": "leading",
    "DPMSolverMultistepScheduler": "linspace",
    "DPMSolverSinglestepScheduler": "linspace",
    "DEISMultistepScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "HeunDiscreteScheduler": "linspace",
    "KDPM2AncestralDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
    "UniPCMultistepScheduler": "linspace",
}
# Choices of one sampler that a course's sampler does not have, and the value that asks for nothing
OFF = {
    "thresholding": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "interpolation_type": "linear",
    "shift_terminal": None,
}


@dataclass(frozen=True)
class Schedule:
    """The noise of the training, and which of its timesteps a sampler visits; the defaults are Stable Diffusion 1's."""

    path: DDPMPath = field(default_factory=DDPMPath.scaled_linear)
    spacing: str = "leading"  # diffusers' names: leading, trailing, linspace
    ends_clean: bool = False  # at t = 0; the original ends at timestep 0, where a last trace of noise is left
    prediction: str = "epsilon"  # what the U-Net predicts: "epsilon" or "v"

    def times(self, steps: int, sigmas: str | Sequence[float] | None = None) -> Tensor:
        """(steps + 1,) decreasing times on the path.

        The U-Net's timestep n is the state after n + 1 steps of noise, so t = (n + 1) / T.

        Args:
            sigmas: noise levels as for `noise_levels`; the formulas go from the most to the least noise of the
                training, and the last time is 0. None: by `spacing`.
        """
        T = len(self.path)
        if sigmas is not None:
            alpha, sigma = self.path.alpha_sigma(torch.tensor([1 / T, 1], dtype=torch.float64))
            levels = noise_levels(sigmas, steps, *(sigma.double() / alpha.double()).tolist())
            return torch.cat([self.path.time_of_level(levels), torch.zeros(1)]).float()
        if self.spacing == "leading":  # 1, 1 + k, 1 + 2k, ... (the offset of 1 is the original's)
            timesteps = (torch.arange(steps) * (T // steps) + 1).flip(0)
        elif self.spacing == "trailing":  # T - 1 first, so that sampling begins where training ended
            timesteps = (T - torch.arange(steps, dtype=torch.float64) * (T / steps)).round() - 1
        else:
            timesteps = torch.linspace(T - 1, 0, steps, dtype=torch.float64).round()
        # where the last timestep is 0, only clean data is left to go to
        last = 0 if self.ends_clean or timesteps[-1] < 1 else 1
        return torch.cat([timesteps + 1, torch.tensor([last])]).float() / T

    def to_config(self) -> dict[str, Any]:
        """The entries of a scheduler_config.json for diffusers' DDIM; the reverse of `read_schedule`."""
        entries: dict[str, Any] = {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": len(self.path),
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "clip_sample": False,
            "set_alpha_to_one": self.ends_clean,
            "steps_offset": 1,
            "timestep_spacing": self.spacing,
        }
        if not torch.equal(self.path.betas, DDPMPath.scaled_linear().betas):
            entries["trained_betas"] = self.path.betas.tolist()
        return entries


def read_schedule(file: Path) -> Schedule:
    """Read a folder's scheduler_config.json; without one the schedule is that of Stable Diffusion 1.

    Entries about the noise, the prediction and the spacing of timesteps are followed, absent ones as diffusers fills
    them in. What only one of diffusers' samplers has is reported by a warning, since `generate` chooses the sampler.

    Raises:
        ValueError: for a damaged file, and for what the course cannot follow.
    """
    config = PublishedConfig(file)
    if not config.entries:
        return Schedule()
    name = config.get("_class_name", "DDIMScheduler")
    if name not in SPACING_OF_CLASS:
        raise config.refusal("_class_name", name, f"one of {', '.join(SPACING_OF_CLASS)}")
    config.require({"num_train_timesteps": STEPS})
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise ValueError(f"{file} says prediction_type {prediction!r}; the course knows {', '.join(PREDICTION_TYPES)}")
    spacing = config.choice("timestep_spacing", {s: s for s in SPACINGS}, SPACING_OF_CLASS[name])
    betas = _read_betas(config, name)
    if config.get("rescale_betas_zero_snr", False):
        if prediction == "epsilon":
            raise ValueError(
                f"{file} says rescale_betas_zero_snr with prediction_type 'epsilon', which cannot be: from pure noise "
                "no image follows by a prediction of the noise. Set prediction_type to 'v_prediction' if the model was "
                "trained so, else rescale_betas_zero_snr to false"
            )
        betas = zero_terminal_snr(betas)
    _warn_of_sampler_choices(config, spacing)
    ends_clean = config.get("set_alpha_to_one", name != "PNDMScheduler")
    if config.get("final_sigmas_type", "zero") == "sigma_min":
        ends_clean = False
    if spacing == "linspace" and not ends_clean:
        raise ValueError(
            f"{file} says timestep_spacing 'linspace' and, by set_alpha_to_one or final_sigmas_type, an end at "
            "timestep 0: the last step would lead nowhere. Set timestep_spacing to 'leading', or set_alpha_to_one to "
            "true"
        )
    return Schedule(DDPMPath(betas), spacing, bool(ends_clean), PREDICTION_TYPES[prediction])


def _read_betas(config: PublishedConfig, name: str) -> Tensor:
    """(T,) float64, as the file says. Raises ValueError for betas that are no schedule."""
    trained = config.get("trained_betas")
    heun = name.startswith(("Heun", "KDPM2"))
    first = config.number("beta_start", 0.00085 if heun else 1e-4, low=0)
    last = config.number("beta_end", 0.012 if heun else 0.02, low=0)
    schedule = config.get("beta_schedule", "linear")
    if trained is not None:
        try:
            betas = torch.tensor(trained, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise config.refusal("trained_betas", str(trained)[:40], f"{STEPS} numbers") from error
    elif schedule == "linear":
        betas = torch.linspace(first, last, STEPS, dtype=torch.float64)
    elif schedule == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, STEPS, dtype=torch.float64) ** 2
    elif schedule == "squaredcos_cap_v2":
        betas = DDPMPath.cosine(STEPS).betas
    else:
        raise config.refusal("beta_schedule", schedule, "'linear', 'scaled_linear' or 'squaredcos_cap_v2'")
    if betas.shape != (STEPS,) or not ((betas > 0) & (betas < 1)).all():
        entry = "trained_betas" if trained is not None else "beta_start and beta_end"
        raise ValueError(f"{config.file}: {entry} should give {STEPS} betas between 0 and 1: mend the entry")
    return betas


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """Rescale (T,) betas so that the last state is pure noise (Lin et al. 2023, algorithm 1)."""
    alphas = torch.cumprod(1 - betas.double(), 0).sqrt()
    alphas = (alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])
    abar = alphas.square()
    abar[-1] = SMALLEST_ABAR
    return 1 - abar / torch.cat([torch.ones(1).double(), abar[:-1]])


def _warn_of_sampler_choices(config: PublishedConfig, spacing: str) -> None:
    """Warn of what the file asks of one of diffusers' samplers and the course's samplers do not do."""
    ignored = [f"{name} {config.get(name)!r}" for name, off in OFF.items() if config.get(name, off) != off]
    if spacing == "leading" and config.get("steps_offset", 0) != 1:
        ignored.append(f"steps_offset {config.get('steps_offset', 0)!r} (taken as 1, as diffusers' pipeline does)")
    if config.get("clip_sample", False):
        ignored.append("clip_sample True (taken as False, as diffusers' pipeline does)")
    if ignored:
        warnings.warn(f"{config.file} is not followed in: {', '.join(ignored)}", stacklevel=4)
