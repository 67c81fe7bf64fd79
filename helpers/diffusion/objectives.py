"""What the network is asked for, and what its answer means.

Four targets say the same thing in four ways: given x_t, any one of them yields the others. They differ in
what a small error of the network does to the picture, and so in how the loss weighs the noise levels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.diffusion.schedules import DDPMPath, FlowPath, NoisePath, expand

PREDICTION_TYPES = ("epsilon", "x0", "v", "velocity")
SMALLEST_DIVISOR = 1e-3  # alpha is 0 at pure noise and sigma 0 at clean data: keeps a division finite there


class Denoised(NamedTuple):
    """What a network says about x_t in the two forms every sampler needs; x_t = alpha x0 + sigma eps holds."""

    x0: Tensor  # (B, ...) the clean picture it sees
    eps: Tensor  # (B, ...) the noise it sees


def _known(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"unknown prediction {prediction_type!r}: choose one of {', '.join(PREDICTION_TYPES)}")


def training_target(prediction_type: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The right answer for a network that predicts `prediction_type`.

    epsilon: the noise (DDPM, eq. 14); x0: the picture; v: alpha eps - sigma x0 (Salimans & Ho 2022, app. D);
    velocity: eps - x0, the direction of the straight path (SD3, eq. 13).

    Args:
        kind: one of PREDICTIONS.
        x0, eps: (B, ...) data and noise.
        alpha, sigma: (B,) or 0-d coefficients of the path.
    """
    _known(prediction_type)
    if prediction_type == "v":
        return expand(alpha, x0) * eps - expand(sigma, x0) * x0
    return {"epsilon": eps, "x0": x0, "velocity": eps - x0}[prediction_type]


def convert_prediction(prediction_type: str, prediction: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
    """Read a prediction as (x0, eps), using x_t = alpha x0 + sigma eps.

    Args:
        kind: one of PREDICTIONS.
        prediction, x: (B, ...) the network's answer and the state it was given.
        alpha, sigma: (B,) or 0-d coefficients of the path at the state's time.
    """
    _known(prediction_type)
    alpha = expand(alpha, x)
    sigma = expand(sigma, x)
    if prediction_type == "epsilon":
        return Denoised((x - sigma * prediction) / alpha.clamp(min=SMALLEST_DIVISOR), prediction)
    if prediction_type == "x0":
        return Denoised(prediction, (x - alpha * prediction) / sigma.clamp(min=SMALLEST_DIVISOR))
    if (
        prediction_type == "v"
    ):  # (alpha, sigma) is a rotation here: it needs alpha^2 + sigma^2 = 1, else divide by that sum
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
    _known(prediction_type)
    snr = (alpha / sigma.clamp(min=1e-6)) ** 2
    capped = snr.clamp(max=gamma)
    if prediction_type == "velocity":
        return capped * sigma**2
    return {"epsilon": capped / snr.clamp(min=1e-12), "x0": capped, "v": capped / (snr + 1)}[prediction_type]


@dataclass(frozen=True)
class Objective:
    """A training recipe: path, what is predicted, in which space its error counts, which times are drawn.

    Predicting one thing and counting the error of another is how a network works on large patches: its
    *output* lives near the pictures, while the loss keeps the weighting of the velocity (JiT, Li & He 2025).
    """

    path: NoisePath
    prediction: str = "x0"  # what comes out of the network
    loss: str = "velocity"  # whose error is squared
    times: str = "logit-normal"  # "uniform", or SD3's logit-normal (SD3, section 3.1): more of the hard middle
    min_snr_gamma: float | None = None  # gamma of the min-SNR weight; None: every time counts alike
    sigma_min: float = 0.05  # below it, reading a velocity off an x0 prediction divides by almost nothing

    def __post_init__(self):
        _known(self.prediction)
        _known(self.loss)
        if self.times not in ("uniform", "logit-normal"):
            raise ValueError(f"unknown times {self.times!r}: choose 'uniform' or 'logit-normal'")

    @classmethod
    def named(cls, name: str) -> "Objective":
        """The course's two recipes: "flow" (rectified flow) and "epsilon" (cosine DDPM with min-SNR weights).

        Raises:
            ValueError: for any other name.
        """
        recipes = {
            "flow": cls(FlowPath(), sigma_min=0.1),
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

    def losses(self, model_output: Tensor, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """(B,) the weighted squared error of each example, averaged over its numbers.

        Args:
            answer: (B, ...) the network's output at x_t, read as `self.prediction`.
            x0, eps: (B, ...) what x_t was made of.
            t: (B,) times.
        """
        alpha, sigma = self.path.alpha_sigma(t)
        if self.prediction != self.loss:
            x = self.path.add_noise(x0, eps, t)
            safe = sigma.clamp(min=self.sigma_min)
            guess = convert_prediction(self.prediction, model_output, x, alpha, safe)
            model_output = training_target(self.loss, guess.x0, guess.eps, alpha, safe)
            eps = (x - expand(alpha, x) * x0) / expand(safe, x)  # the truth, read alike: a right answer costs nothing
        error = (model_output - training_target(self.loss, x0, eps, alpha, sigma)).square().flatten(1).mean(1)
        return (
            error if self.min_snr_gamma is None else error * min_snr_weight(self.loss, alpha, sigma, self.min_snr_gamma)
        )
