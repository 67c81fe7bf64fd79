"""Samplers: seven names for ways to walk from noise to data, one signature.

Each asks a denoiser for (x0, eps) and moves. On any path, the change of x between two times is
the integral of x0 d(alpha) + eps d(sigma); the samplers differ in how they estimate that integral and
in whether they put fresh noise in. Each yields its states, so that a notebook can plot or stop it.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.diffusion.objectives import Denoised
from helpers.diffusion.schedules import NoisePath

Denoiser = Callable[[Tensor, float], Denoised]


class Step(NamedTuple):
    """One state on the way from noise to picture: what a notebook plots and a pipeline returns."""

    t: float  # where on the path the state is: 1 noise, 0 data
    x: Tensor  # (B, ...) the state
    x0: Tensor  # (B, ...) the picture as predicted one step earlier


def time_grid(steps: int, power: float = 1.0) -> Tensor:
    """(T + 1,) times from 1 down to 0; a power > 1 crowds them towards the data, where detail is decided."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(1, 0, steps + 1) ** power


def _walk(times: Tensor, path: NoisePath) -> Iterator[tuple[float, float, float, float, float, float]]:
    """Pairs of neighbouring times with their coefficients: t, alpha, sigma, t', alpha', sigma'."""
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all():
        raise ValueError(f"times must decrease from 1 (noise) to 0 (data), got {times.tolist()}")
    alphas, sigmas = path.alpha_sigma(times)
    rows = list(zip(times.tolist(), alphas.tolist(), sigmas.tolist(), strict=True))
    for here, there in zip(rows, rows[1:], strict=False):
        yield *here, *there


def _noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Fresh noise drawn on the generator's own device, so that a seed gives the same picture everywhere."""
    return torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)


def posterior(x: Tensor, x0: Tensor, here: tuple[float, float], there: tuple[float, float]) -> tuple[Tensor, float]:
    """Mean and standard deviation of q(x_s | x_t, x0) for s < t (DDPM, eq. 7, on any path: VDM, eq. 25).

    Args:
        x: (B, ...) the state x_t.
        x0: (B, ...) the data, or what the network takes for it.
        here, there: (alpha, sigma) at t and at s.
    """
    (alpha_t, sigma_t) = here
    (alpha_s, sigma_s) = there
    step = alpha_t / alpha_s  # what is left of x_s in x_t
    added = sigma_t**2 - step**2 * sigma_s**2  # the variance that was put in between s and t
    mean = (step * sigma_s**2 * x + alpha_s * added * x0) / sigma_t**2
    return mean, math.sqrt(max(added, 0.0)) * sigma_s / sigma_t


def ddpm(denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None) -> Iterator[Step]:
    """Ancestral sampling (DDPM, algorithm 2): draw every next state from the posterior at the predicted x0."""
    x = noise  # (B, ...)
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _walk(times, path):
        x0, _ = denoise(x, t)  # (B, ...)
        mean, std = posterior(x, x0, (alpha, sigma), (alpha_next, sigma_next))
        x = mean + std * _noise_like(x, generator) if std > 0 else mean  # (B, ...)
        yield Step(t_next, x, x0)


def ddim(
    denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None, eta=0.0
) -> Iterator[Step]:
    """DDIM (Song et al. 2020, eq. 12): aim at x0, keep the predicted noise; eta = 1 is DDPM, 0 draws none."""
    x = noise  # (B, ...)
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _walk(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        _, std = posterior(x, x0, (alpha, sigma), (alpha_next, sigma_next))
        fresh = eta * std
        x = alpha_next * x0 + math.sqrt(max(sigma_next**2 - fresh**2, 0.0)) * eps
        if fresh > 0:
            x = x + fresh * _noise_like(x, generator)  # (B, ...)
        yield Step(t_next, x, x0)


def euler(denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None) -> Iterator[Step]:
    """Euler's method: hold x0 and eps over the step. On a DDPM path it is DDIM; on a flow path x' = x + (t' - t) v."""
    x = noise  # (B, ...)
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _walk(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        x = x + (alpha_next - alpha) * x0 + (sigma_next - sigma) * eps  # (B, ...)
        yield Step(t_next, x, x0)


def euler_ancestral(
    denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None
) -> Iterator[Step]:
    """Euler down to less noise than asked for, then noise added back: k-diffusion's "Euler a" in alpha and sigma.

    In units of the data (x / alpha) the noise falls from s to s'; of s'^2, the part s'^2 (1 - s'^2 / s^2) is fresh.
    """
    x = noise  # (B, ...)
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _walk(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        shrink = alpha * sigma_next / (alpha_next * sigma)  # s' / s
        up = sigma_next * math.sqrt(max(1 - shrink**2, 0.0))
        down = sigma_next * shrink
        x = alpha_next * x0 + down * eps
        if up > 0:
            x = x + up * _noise_like(x, generator)  # (B, ...)
        yield Step(t_next, x, x0)


def heun(denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None) -> Iterator[Step]:
    """Heun's method (EDM, algorithm 1): look where Euler leads, then go by the average of both answers.

    Two network evaluations a step, one in the last; second-order accurate.
    """
    x = noise  # (B, ...)
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _walk(times, path):
        here = denoise(x, t)
        there = x + (alpha_next - alpha) * here.x0 + (sigma_next - sigma) * here.eps
        if sigma_next > 0:  # at clean data there is no noise left to ask about
            ahead = denoise(there, t_next)
            x0 = (here.x0 + ahead.x0) / 2
            eps = (here.eps + ahead.eps) / 2  # (B, ...) each
            there = x + (alpha_next - alpha) * x0 + (sigma_next - sigma) * eps
        x = there  # (B, ...)
        yield Step(t_next, x, here.x0)


def lms(denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None, order=3) -> Iterator[Step]:
    """Linear multistep (Adams-Bashforth): draw a polynomial through the last answers and integrate it over the step.

    One evaluation a step. The polynomial is in t; its integral against d(alpha) and d(sigma) is a fine midpoint sum.
    """
    x = noise
    seen = []  # seen: the last (t, x0, eps)
    for t, _, _, t_next, _, _ in _walk(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        seen = [(t, x0, eps), *seen][:order]
        fine = torch.linspace(t, t_next, 65, dtype=torch.float64)
        d_alpha, d_sigma = (coefficient.double().diff() for coefficient in path.alpha_sigma(fine))
        middle = (fine[1:] + fine[:-1]) / 2
        for k, (t_k, x0_k, eps_k) in enumerate(seen):
            others = [t_j for j, (t_j, _, _) in enumerate(seen) if j != k]
            basis = math.prod(((middle - t_j) / (t_k - t_j) for t_j in others), start=torch.ones_like(middle))
            x = x + (basis * d_alpha).sum().item() * x0_k + (basis * d_sigma).sum().item() * eps_k
        yield Step(t_next, x, x0)


def dpm_solver_pp_2m(
    denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): exact in the linear part, x0 extrapolated in log(alpha / sigma).

    One evaluation a step. The first step, and the last (where the log is infinite), are first-order.
    """
    x = noise
    previous = None
    h_previous = math.inf
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _walk(times, path):
        x0, _ = denoise(x, t)  # (B, ...)
        finite = alpha > 0 and sigma_next > 0
        h = math.log(alpha_next * sigma / (sigma_next * alpha)) if finite else math.inf
        slope = 0.0 if previous is None or math.isinf(h) or math.isinf(h_previous) else h / (2 * h_previous)
        guess = x0 if slope == 0 else (1 + slope) * x0 - slope * previous  # (B, ...) x0 at the middle of the step
        keep = sigma_next / sigma  # (1 - e^-h) alpha' = alpha' - keep alpha
        x = keep * x + (alpha_next - keep * alpha) * guess  # (B, ...)
        previous = x0
        h_previous = h
        yield Step(t_next, x, x0)


SAMPLERS = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "lms": lms,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
}


def num_function_evaluations(sampler: str, steps: int) -> int:
    """How many times a sampler asks the network in `steps` steps: what a fair comparison holds equal."""
    return 2 * steps - 1 if sampler == "heun" else steps


@torch.no_grad()
def sample(sampler: str, denoise: Denoiser, noise: Tensor, times: Tensor, path: NoisePath, *, generator=None) -> Tensor:
    """Run a sampler by name to its end and return the last state, (B, ...).

    Raises:
        ValueError: for a name that is not in SAMPLERS.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    *_, last = SAMPLERS[sampler](denoise, noise, times, path, generator=generator)
    return last.x
