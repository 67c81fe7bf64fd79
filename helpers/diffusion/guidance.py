"""Classifier-free guidance: two predictions, with and without the condition, extrapolated along their difference."""

from torch import Tensor

from helpers.diffusion.objectives import Denoised
from helpers.diffusion.samplers import Denoiser


def apply_guidance(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional) (Ho & Salimans 2022, eq. 6, written with scale = 1 + w).

    Scale 0 ignores the condition, 1 is the plain conditional prediction, more exaggerates what the condition changes.
    """
    return unconditional + scale * (conditional - unconditional)


def guided_denoiser(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: float,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
) -> Denoiser:
    """A denoiser guided from `unconditional` towards `conditional` while t is inside `guidance_interval`.

    Outside of it only `conditional` is evaluated. Guiding only the middle of the path costs less and keeps more
    variety (Kynkaanniemi et al. 2024).
    """
    low, high = guidance_interval

    def denoise(x: Tensor, t: float) -> Denoised:
        with_condition = conditional(x, t)
        if scale == 1 or not low <= t <= high:
            return with_condition
        without = unconditional(x, t)
        x0 = apply_guidance(with_condition.x0, without.x0, scale)
        eps = apply_guidance(with_condition.eps, without.eps, scale)
        return Denoised(x0, eps)

    return denoise
