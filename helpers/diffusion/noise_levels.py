"""Noise levels for a sampler to visit, by a formula or as given, instead of those that the model's training suggests.

A noise level is sigma / alpha: the noise in units of the data, the "sigma" of EDM and k-diffusion.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def karras_levels(steps: int, smallest: float, largest: float, rho: float = 7.0) -> Tensor:
    """(steps,) decreasing levels, evenly spaced in their rho-th root (Karras et al. 2022, eq. 5): short last steps."""
    return torch.linspace(largest ** (1 / rho), smallest ** (1 / rho), steps, dtype=torch.float64) ** rho


def exponential_levels(steps: int, smallest: float, largest: float) -> Tensor:
    """(steps,) decreasing levels, evenly spaced in their logarithm: every step divides the noise by the same factor."""
    return torch.linspace(math.log(largest), math.log(smallest), steps, dtype=torch.float64).exp()


NOISE_LEVELS: dict[str, Callable[[int, float, float], Tensor]] = {
    "karras": karras_levels,
    "exponential": exponential_levels,
}


def noise_levels(sigmas: str | Sequence[float], steps: int, smallest: float, largest: float) -> Tensor:
    """The levels that `check_sigmas` has accepted, float64, decreasing, at most `largest`.

    Args:
        sigmas: a name in NOISE_LEVELS, or the levels themselves.
        steps: how many levels a formula gives.
        smallest, largest: levels of the formula's ends.

    Raises:
        ValueError: for a level above `largest`: the model has never seen as much noise.
    """
    if isinstance(sigmas, str):
        return NOISE_LEVELS[sigmas](steps, smallest, largest)
    if sigmas[0] > largest * 1.001:  # lists are often rounded
        raise ValueError(
            f"sigmas may be at most {largest:.5g}, the most noise of the model's training; got {sigmas[0]}"
        )
    return torch.tensor([min(level, largest) for level in sigmas], dtype=torch.float64)


def check_sigmas(sigmas: str | Sequence[float] | None) -> str | tuple[float, ...] | None:
    """Return a name in NOISE_LEVELS, decreasing positive levels without a last 0, or None.

    Args:
        sigmas: a name, numbers, or numbers as text with commas between them.

    Raises:
        ValueError: for anything else.
    """
    if sigmas is None or (isinstance(sigmas, str) and sigmas in NOISE_LEVELS):
        return sigmas
    try:
        levels = tuple(float(level) for level in (sigmas.split(",") if isinstance(sigmas, str) else sigmas))
    except (TypeError, ValueError) as error:
        names = ", ".join(NOISE_LEVELS)
        raise ValueError(f"unknown sigmas {sigmas!r}: choose {names}, or pass decreasing numbers") from error
    if levels and levels[-1] == 0:  # the end, which every sampling has
        levels = levels[:-1]
    decreasing = all(later < level for level, later in zip(levels, levels[1:], strict=False))
    if not levels or not decreasing or not 0 < levels[-1] or not math.isfinite(levels[0]):
        raise ValueError(f"sigmas must be positive and decrease, such as 14.6, 5, 1.5, 0.3; got {sigmas!r}")
    return levels
