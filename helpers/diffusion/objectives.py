"""Training targets of a diffusion network: what it predicts, how predictions convert, how the loss is weighted.

Four targets carry the same information: given x_t, any one of them yields the others. They differ in how much
a small error of the network changes the predicted data, and so in how the loss weighs the noise levels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.diffusion.schedules import DDPMPath, FlowPath, NoisePath, expand

PREDICTION_TYPES = ("epsilon", "x0", "v", "velocity")
SMALLEST_DIVISOR = 1e-3  # alpha is 0 at pure noise and sigma 0 at clean data: keeps a division finite there


class Denoised(NamedTuple):
    """A network's prediction at x_t in the two forms every sampler needs; x_t = alpha x0 + sigma eps holds."""

    x0: Tensor  # (B, ...) the predicted clean data
    eps: Tensor  # (B, ...) the predicted noise


def _check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"unknown prediction {prediction_type!r}: choose one of {', '.join(PREDICTION_TYPES)}")


def training_target(prediction_type: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The regression target, (B, ...), of a network that predicts `prediction_type`.

    epsilon: the noise (DDPM, eq. 14); x0: the data; v: alpha eps - sigma x0 (Salimans & Ho 2022, app. D);
    velocity: eps - x0, the direction of the straight path (SD3, eq. 13).

    Args:
        prediction_type: one of PREDICTION_TYPES.
        x0, eps: (B, ...) data and noise.
        alpha, sigma: (B,) or 0-d coefficients of the path.
    """
    _check_prediction_type(prediction_type)
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "x0":
        return x0
    if prediction_type == "v":
        return expand(alpha, x0) * eps - expand(sigma, x0) * x0
    return eps - x0


def convert_prediction(prediction_type: str, prediction: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
    """Convert a prediction to (x0, eps), using x_t = alpha x0 + sigma eps.

    Args:
        prediction_type: one of PREDICTION_TYPES.
        prediction, x: (B, ...) the network's output, and its input x_t.
        alpha, sigma: (B,) or 0-d coefficients of the path at x's time.
    """
    _check_prediction_type(prediction_type)
    alpha = expand(alpha, x)
    sigma = expand(sigma, x)
    if prediction_type == "epsilon":
        return Denoised((x - sigma * prediction) / alpha.clamp(min=SMALLEST_DIVISOR), prediction)
    if prediction_type == "x0":
        return Denoised(prediction, (x - alpha * prediction) / sigma.clamp(min=SMALLEST_DIVISOR))
    if prediction_type == "v":  # a rotation of (x0, eps) where alpha^2 + sigma^2 = 1; else divide by that sum
        norm = alpha**2 + sigma**2
        return Denoised((alpha * x - sigma * prediction) / norm, (sigma * x + alpha * prediction) / norm)
    total = alpha + sigma  # velocity = eps - x0; total is 1 on a flow path
    return Denoised((x - sigma * prediction) / total, (x + alpha * prediction) / total)


def min_snr_weight(prediction_type: str, alpha: Tensor, sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """Min-SNR weight of the loss on `prediction_type` (Hang et al. 2023, section 3.4): min(snr, gamma) on the x0 loss.

    epsilon: min(snr, gamma) / snr; x0: min(snr, gamma); v: min(snr, gamma) / (snr + 1).
    velocity (flow, alpha + sigma = 1): min(snr, gamma) sigma^2, since there v - v' = (x0' - x0) / sigma.

    Args:
        alpha, sigma: (B,) coefficients; sigma may be 0 (the snr is then held below 1e12).
    """
    _check_prediction_type(prediction_type)
    snr = (alpha / sigma.clamp(min=1e-6)) ** 2
    capped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return capped / snr.clamp(min=1e-12)
    if prediction_type == "x0":
        return capped
    if prediction_type == "v":
        return capped / (snr + 1)
    return capped * sigma**2


@dataclass(frozen=True)
class Objective:
    """A training recipe: path, prediction, loss space, distribution of the training times.

    Predicting one thing and counting the error of another is how a network works on large patches: its
    *output* lives near the data, while the loss keeps the weighting of the velocity (JiT, Li & He 2025).
    """

    path: NoisePath
    prediction: str = "x0"  # what the network outputs, one of PREDICTION_TYPES
    loss: str = "velocity"  # whose error is squared, one of PREDICTION_TYPES
    times: str = "logit-normal"  # "uniform", or SD3's logit-normal (SD3, section 3.1): more of the hard middle
    min_snr_gamma: float | None = None  # gamma of the min-SNR weight; None: every time has the same weight
    sigma_min: float = 0.05  # below it, converting an x0 prediction to a velocity divides by almost nothing

    def __post_init__(self):
        _check_prediction_type(self.prediction)
        _check_prediction_type(self.loss)
        if self.times not in ("uniform", "logit-normal"):
            raise ValueError(f"unknown times {self.times!r}: choose 'uniform' or 'logit-normal'")

    @classmethod
    def named(cls, name: str, shift: float = 1.0) -> "Objective":
        """The course's two recipes: "flow" (rectified flow) and "epsilon" (cosine DDPM with min-SNR weights).

        Args:
            name: "flow" or "epsilon".
            shift: of the flow's times towards noise, see `FlowPath`.

        Raises:
            ValueError: for any other name, and for a shift of "epsilon", whose schedule has none.
        """
        if name == "epsilon" and shift != 1:
            raise ValueError(f"only the objective 'flow' has a shift of its times, got {shift} for 'epsilon'")
        recipes = {
            "flow": cls(FlowPath(shift), sigma_min=0.1),
            "epsilon": cls(DDPMPath.cosine(), "epsilon", "epsilon", times="uniform", min_snr_gamma=5.0),
        }
        if name not in recipes:
            raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(recipes)}")
        return recipes[name]

    def sample_times(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """(B,) training times in (0, 1)."""
        if self.times == "logit-normal":
            return torch.sigmoid(torch.randn(batch, generator=generator))
        return torch.rand(batch, generator=generator).clamp(min=1e-4)

    def losses(self, model_output: Tensor, x0: Tensor, eps: Tensor, t: Tensor, x_t: Tensor | None = None) -> Tensor:
        """Compute the weighted mean squared error of each example: (B,).

        Args:
            model_output: (B, ...) the network's output at x_t, of type `self.prediction`.
            x0, eps: (B, ...) data and noise.
            t: (B,) times.
            x_t: (B, ...) the network's input, if it is at hand; None: `path.add_noise(x0, eps, t)`.
        """
        alpha, sigma = self.path.alpha_sigma(t)
        if self.prediction != self.loss:
            if x_t is None:
                x_t = self.path.add_noise(x0, eps, t)
            safe = sigma.clamp(min=self.sigma_min)
            denoised = convert_prediction(self.prediction, model_output, x_t, alpha, safe)
            model_output = training_target(self.loss, denoised.x0, denoised.eps, alpha, safe)
            # convert the true x0 with the same clamped sigma: a perfect prediction then has loss 0
            eps = (x_t - expand(alpha, x_t) * x0) / expand(safe, x_t)
        target = training_target(self.loss, x0, eps, alpha, sigma)
        error = (model_output - target).square().flatten(1).mean(1)
        if self.min_snr_gamma is None:
            return error
        return error * min_snr_weight(self.loss, alpha, sigma, self.min_snr_gamma)
