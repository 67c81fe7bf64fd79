"""Noise schedules as paths from data to noise: every process of the course is x_t = alpha_t x0 + sigma_t eps.

Data is at t = 0 and noise at t = 1. DDPM and flow matching differ in alpha and sigma only, so a loss
or a sampler written in alpha and sigma serves both. Alphabet: B batch, T steps, ... any further axes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from helpers.devices import precise_device


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Give (B,) values the trailing axes of (B, ...) so that they broadcast; a 0-d tensor stays as it is."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values


class NoisePath(ABC):
    """A path from data to noise, defined by its two coefficients alpha and sigma."""

    @abstractmethod
    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The coefficients of data and of noise at times t.

        Args:
            t: times in [0, 1], any shape.

        Returns:
            alpha and sigma, each of t's shape, float32; (1, 0) at t = 0.
        """

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """Sample x_t from q(x_t | x0) in one step: x_t = alpha_t x0 + sigma_t eps (DDPM, eq. 4).

        Args:
            x0: (B, ...) data, images in [-1, 1].
            eps: (B, ...) standard normal noise.
            t: one time, or (B,) times, in [0, 1].
        """
        alpha, sigma = self.alpha_sigma(torch.as_tensor(t, device=x0.device))
        return expand(alpha, x0).to(x0.dtype) * x0 + expand(sigma, x0).to(x0.dtype) * eps

    @abstractmethod
    def time_of_level(self, level: Tensor) -> Tensor:
        """The times at which sigma / alpha has these values, the reverse of `alpha_sigma`; float64, of level's shape.

        A level that the path does not reach gives its end, t = 1.
        """

    def log_snr(self, t: Tensor | float) -> Tensor:
        """The logarithm of the signal-to-noise ratio, 2 log(alpha / sigma): by it, times on two paths compare."""
        alpha, sigma = self.alpha_sigma(t)
        return 2 * (alpha.log() - sigma.log())


class FlowPath(NoisePath):
    """Rectified flow (Liu et al. 2022, eq. 1; SD3, eq. 13): a straight line, alpha = 1 - t and sigma = t."""

    def __init__(self, shift: float = 1.0):
        """A shift > 1 spends more of the path at high noise: noise hides less of a larger image (SD3, eq. 23)."""
        if shift <= 0:
            raise ValueError(f"shift must be positive (1 leaves the times alone), got {shift}")
        self.shift = shift

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t, dtype=torch.float32)
        t = (self.shift * t / (1 + (self.shift - 1) * t)).clamp(max=1)  # rounding may pass the end by a bit
        return 1 - t, t

    def time_of_level(self, level: Tensor) -> Tensor:
        u = 1 / (1 + 1 / level.double())  # sigma: level / (1 + level), also where the level is infinite
        return u / (self.shift - (self.shift - 1) * u)


class DDPMPath(NoisePath):
    """The discrete process of DDPM (Ho et al. 2020, eq. 2): T small steps, each adding noise of variance beta.

    Time t = k / T is the state after k steps, so t = 0 is clean data; between two steps abar is interpolated.
    """

    def __init__(self, betas: Tensor):
        """Args: betas: (T,) variances of the steps, each in (0, 1)."""
        if betas.ndim != 1 or not ((betas > 0) & (betas < 1)).all():
            raise ValueError(
                f"betas must be one row of numbers inside (0, 1), got shape {tuple(betas.shape)} "
                f"in [{betas.min():.4g}, {betas.max():.4g}]"
            )
        self.betas = betas.double()  # (T,)
        self.alphas_bar = torch.cumprod(1 - self.betas, dim=0)  # (T,) abar_k of DDPM, eq. 4
        self._table = torch.cat([torch.ones(1).double(), self.alphas_bar])  # (T + 1,) with abar = 1 at t = 0

    def __len__(self) -> int:
        return len(self.betas)

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = torch.as_tensor(t)
        precise = precise_device(t.device)
        table = self._table.to(precise)
        position = t.to(precise).double().clamp(0, 1) * len(self)
        below = position.floor().long().clamp(max=len(self) - 1)
        abar = torch.lerp(table[below], table[below + 1], position - below)
        return abar.sqrt().float().to(t.device), (1 - abar).sqrt().float().to(t.device)

    def time_of_level(self, level: Tensor) -> Tensor:
        table = self._table.to(level.device)
        abar = (1 / (1 + level.double().square())).clamp(min=table[-1])
        below = (torch.searchsorted(-table, -abar, right=True) - 1).clamp(max=len(self) - 1)
        return (below + (table[below] - abar) / (table[below] - table[below + 1])) / len(self)

    @classmethod
    def linear(cls, T: int = 1000, first: float = 1e-4, last: float = 0.02) -> "DDPMPath":
        """DDPM's own schedule (Ho et al. 2020, section 4): beta grows linearly; rescaled so that every T ends alike."""
        return cls(torch.linspace(first, last, T, dtype=torch.float64) * (1000 / T))

    @classmethod
    def scaled_linear(cls, T: int = 1000, first: float = 0.00085, last: float = 0.012) -> "DDPMPath":
        """Stable Diffusion's schedule: *sqrt(beta)* grows linearly (CompVis calls this one "linear")."""
        return cls(torch.linspace(first**0.5, last**0.5, T, dtype=torch.float64) ** 2 * (1000 / T))

    @classmethod
    def cosine(cls, T: int = 1000, offset: float = 0.008) -> "DDPMPath":
        """abar follows a squared cosine (Nichol & Dhariwal 2021, eq. 17), betas clipped at 0.999 as there."""
        return cls._from_abar(lambda t: math.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2, T)

    @classmethod
    def sigmoid(cls, T: int = 1000, start: float = -3.0, end: float = 3.0) -> "DDPMPath":
        """abar follows a sigmoid (Jabri et al. 2022, algorithm 1, temperature 1): gentle at both ends."""

        def logistic(x: float) -> float:
            return 1 / (1 + math.exp(-x))

        low = logistic(start)
        high = logistic(end)
        return cls._from_abar(lambda t: (high - logistic(t * (end - start) + start)) / (high - low), T)

    @classmethod
    def _from_abar(cls, abar: Callable[[float], float], T: int) -> "DDPMPath":
        alphas_bar = [abar(k / T) for k in range(T + 1)]
        return cls(torch.tensor([min(1 - later / now, 0.999) for now, later in pairwise(alphas_bar)]))
