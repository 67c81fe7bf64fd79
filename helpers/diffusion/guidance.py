"""Classifier-free guidance: ask the network twice, and walk on past the answer that knows the condition."""

from collections.abc import Callable

from torch import Tensor

from helpers.diffusion.objectives import Denoised


def apply_guidance(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional) (Ho & Salimans 2022, eq. 6, written with scale = 1 + w).

    Scale 0 ignores the condition, 1 is the plain conditional answer, more exaggerates what the condition changes.
    """
    return unconditional + scale * (conditional - unconditional)


def guided_denoiser(
    conditional: Callable[[Tensor, float], Denoised],
    unconditional: Callable[[Tensor, float], Denoised],
    scale: float,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
) -> Callable[[Tensor, float], Denoised]:
    """A denoiser guided from `unconditional` towards `conditional` while t is inside `guidance_interval`.

    Outside of it only `conditional` is evaluated.

    Guiding the middle of the path alone costs less and keeps more variety (Kynkaanniemi et al. 2024).
    """

    def denoise(x: Tensor, t: float) -> Denoised:
        with_condition = conditional(x, t)
        if scale == 1 or not guidance_interval[0] <= t <= guidance_interval[1]:
            return with_condition
        without = unconditional(x, t)
        return Denoised(*(apply_guidance(c, u, scale) for c, u in zip(with_condition, without, strict=True)))

    return denoise
