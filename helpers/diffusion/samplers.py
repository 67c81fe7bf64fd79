"""Eight samplers with one signature: from noise to data, step by step.

Each calls a denoiser for (x0, eps) and takes a step. On any path, the change of x between two times is
the integral of x0 d(alpha) + eps d(sigma); the samplers differ in how they estimate that integral and
in whether they add fresh noise. Each is a generator that yields its states, so that a notebook can plot or stop it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.diffusion.objectives import Denoised
from helpers.diffusion.schedules import NoisePath

Denoiser = Callable[[Tensor, float], Denoised]
Generators = torch.Generator | Sequence[torch.Generator]  # one for the whole batch, or one per sample


class Step(NamedTuple):
    """One state between noise and data: what a notebook plots and a pipeline decodes."""

    t: float  # time of the state on the path: 1 noise, 0 data
    x: Tensor  # (B, ...) the state
    x0: Tensor  # (B, ...) the clean data that the denoiser predicted from the previous state


class Interval(NamedTuple):
    """Two neighbouring times of a sampler, with the coefficients of the path at both: x_t = alpha x0 + sigma eps."""

    t: float
    alpha: float
    sigma: float
    t_next: float
    alpha_next: float
    sigma_next: float


def time_grid(steps: int, power: float = 1.0) -> Tensor:
    """(T + 1,) times from 1 down to 0; a power > 1 puts more of them near the data, where detail is decided."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(1, 0, steps + 1) ** power


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> tuple[Tensor, list[torch.Generator]]:
    """Sample the noise that a sampler starts from, on the CPU: the same numbers whatever device computes later.

    Args:
        seeds: (B,) one per sample, so that sample i does not depend on the others in the batch.
        shape: of one sample.

    Returns:
        (B, *shape) standard normal noise, and the generator of each sample, which goes on where its noise ended: passed
        to a stochastic sampler, its later noise does not repeat the first, nor does it depend on the other samples.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.stack([torch.randn(*shape, generator=generator) for generator in generators])
    return noise, generators


def _intervals(times: Tensor, path: NoisePath) -> Iterator[Interval]:
    if times.ndim != 1 or len(times) < 2 or not (times.diff() < 0).all():
        raise ValueError(f"times must decrease from 1 (noise) to 0 (data), got {times.tolist()}")
    alphas, sigmas = path.alpha_sigma(times)
    points = zip(times.tolist(), alphas.tolist(), sigmas.tolist(), strict=True)
    for point, next_point in pairwise(points):
        yield Interval(*point, *next_point)


def _noise_like(x: Tensor, generator: Generators | None) -> Tensor:
    """Standard normal noise of x's shape, sampled on the generator's device, then moved to x's."""
    if isinstance(generator, Sequence):
        return torch.cat([_noise_like(row, each) for row, each in zip(x.split(1), generator, strict=True)])
    device = None if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=torch.float32).to(x)


def posterior(x: Tensor, x0: Tensor, here: tuple[float, float], there: tuple[float, float]) -> tuple[Tensor, float]:
    """Mean and standard deviation of q(x_s | x_t, x0) for s < t (DDPM, eq. 7, on any path: VDM, eq. 25).

    Args:
        x: (B, ...) the state x_t.
        x0: (B, ...) the data, or the network's prediction of it.
        here, there: (alpha, sigma) at t and at s.
    """
    alpha_t, sigma_t = here
    alpha_s, sigma_s = there
    decay = alpha_t / alpha_s  # how much of x_s is left in x_t
    added_variance = sigma_t**2 - decay**2 * sigma_s**2  # of the noise that was added between s and t
    mean = (decay * sigma_s**2 * x + alpha_s * added_variance * x0) / sigma_t**2
    return mean, math.sqrt(max(added_variance, 0.0)) * sigma_s / sigma_t


def ddpm(
    denoise: Denoiser, x: Tensor, times: Tensor, path: NoisePath, *, generator: Generators | None = None
) -> Iterator[Step]:
    """Ancestral sampling (DDPM, algorithm 2): sample each next state from the posterior at the predicted x0.

    Args, the same for every sampler:
        denoise: (x, t) -> Denoised.
        x: (B, ...) the state at times[0]: noise, or for image-to-image a noised image.
        times: (T + 1,) decreasing.
        path: gives alpha and sigma at each time.
        generator: for fresh noise, on any device, or a list of one per sample; samplers that add none ignore it.
    """
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _intervals(times, path):
        x0, _ = denoise(x, t)  # (B, ...)
        mean, std = posterior(x, x0, (alpha, sigma), (alpha_next, sigma_next))
        x = mean + std * _noise_like(x, generator) if std > 0 else mean  # (B, ...)
        yield Step(t_next, x, x0)


def ddim(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    path: NoisePath,
    *,
    generator: Generators | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM (Song et al. 2020, eq. 12): step to x0 plus the predicted noise; eta = 1 is DDPM, 0 adds no fresh noise."""
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _intervals(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        _, std = posterior(x, x0, (alpha, sigma), (alpha_next, sigma_next))
        fresh = eta * std
        x = alpha_next * x0 + math.sqrt(max(sigma_next**2 - fresh**2, 0.0)) * eps
        if fresh > 0:
            x = x + fresh * _noise_like(x, generator)  # (B, ...)
        yield Step(t_next, x, x0)


def euler(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    path: NoisePath,
    *,
    generator: Generators | None = None,
    churn: float = 0.0,
) -> Iterator[Step]:
    """Euler's method: hold x0 and eps over the step. On a DDPM path it is DDIM; on a flow path x' = x + (t' - t) v.

    Args:
        churn: see `add_churn`.
    """
    for interval in _intervals(times, path):
        x, (t, alpha, sigma, t_next, alpha_next, sigma_next) = add_churn(
            x, interval, path, churn, len(times) - 1, generator
        )
        x0, eps = denoise(x, t)  # (B, ...) each
        x = x + (alpha_next - alpha) * x0 + (sigma_next - sigma) * eps  # (B, ...)
        yield Step(t_next, x, x0)


def add_churn(
    x: Tensor, interval: Interval, path: NoisePath, churn: float, steps: int, generator: Generators | None
) -> tuple[Tensor, Interval]:
    """Go back to more noise before a step (EDM, algorithm 2): fresh noise corrects errors of the steps before.

    In units of the data the noise grows by the factor 1 + min(churn / steps, sqrt(2) - 1), but not beyond the path's
    end. EDM's S_churn; its S_noise is 1, and the whole path has churn.

    Args:
        x: (B, ...) the state at interval.t.
        churn: 0 for none.
        steps: of the whole sampling.

    Returns:
        the state with more noise, and the interval that begins there.
    """
    if churn == 0 or interval.alpha == 0:
        return x, interval
    level = interval.sigma / interval.alpha
    factor = 1 + min(churn / steps, math.sqrt(2) - 1)
    t = path.time_of_level(torch.tensor(level * factor)).item()
    alpha, sigma = (coefficient.item() for coefficient in path.alpha_sigma(t))
    if t <= interval.t or alpha == 0:  # at the path's end there is no more noise
        return x, interval
    added = math.sqrt(max((sigma / alpha) ** 2 - level**2, 0.0))
    x = alpha * (x / interval.alpha + added * _noise_like(x, generator))  # (B, ...)
    return x, interval._replace(t=t, alpha=alpha, sigma=sigma)


def euler_ancestral(
    denoise: Denoiser, x: Tensor, times: Tensor, path: NoisePath, *, generator: Generators | None = None
) -> Iterator[Step]:
    """Euler to less noise than the next time has, then fresh noise: k-diffusion's "Euler a" in alpha and sigma.

    In units of the data (x / alpha) the noise falls from s to s'; of s'^2, the part s'^2 (1 - s'^2 / s^2) is fresh.
    """
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _intervals(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        ratio = alpha * sigma_next / (alpha_next * sigma)  # s' / s
        sigma_up = sigma_next * math.sqrt(max(1 - ratio**2, 0.0))
        sigma_down = sigma_next * ratio
        x = alpha_next * x0 + sigma_down * eps
        if sigma_up > 0:
            x = x + sigma_up * _noise_like(x, generator)  # (B, ...)
        yield Step(t_next, x, x0)


def heun(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    path: NoisePath,
    *,
    generator: Generators | None = None,
    churn: float = 0.0,
) -> Iterator[Step]:
    """Heun's method (EDM, algorithm 1): take an Euler step, evaluate there, and step by the mean of both predictions.

    Two network evaluations a step, one in the last; second-order accurate.

    Args:
        churn: see `add_churn`; with it this is EDM's stochastic sampler, algorithm 2.
    """
    for interval in _intervals(times, path):
        x, (t, alpha, sigma, t_next, alpha_next, sigma_next) = add_churn(
            x, interval, path, churn, len(times) - 1, generator
        )
        here = denoise(x, t)
        x_next = x + (alpha_next - alpha) * here.x0 + (sigma_next - sigma) * here.eps
        if sigma_next > 0:  # clean data has no noise to predict
            there = denoise(x_next, t_next)
            x0 = (here.x0 + there.x0) / 2
            eps = (here.eps + there.eps) / 2  # (B, ...) each
            x_next = x + (alpha_next - alpha) * x0 + (sigma_next - sigma) * eps
        x = x_next  # (B, ...)
        yield Step(t_next, x, here.x0)


def lms(
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    path: NoisePath,
    *,
    generator: Generators | None = None,
    order: int = 3,
) -> Iterator[Step]:
    """Linear multistep (Adams-Bashforth): integrate the polynomial through the last `order` predictions.

    One evaluation a step. The polynomial is in t; its integral against d(alpha) and d(sigma) is a fine midpoint sum.
    """
    history: list[tuple[float, Tensor, Tensor]] = []  # the last (t, x0, eps), newest first
    for interval in _intervals(times, path):
        x0, eps = denoise(x, interval.t)  # (B, ...) each
        history = [(interval.t, x0, eps), *history][:order]
        fine = torch.linspace(interval.t, interval.t_next, 65, dtype=torch.float64)
        d_alpha, d_sigma = (coefficient.double().diff() for coefficient in path.alpha_sigma(fine))
        middle = (fine[1:] + fine[:-1]) / 2
        for k, (t_k, x0_k, eps_k) in enumerate(history):
            others = [t_j for j, (t_j, _, _) in enumerate(history) if j != k]
            basis = math.prod(((middle - t_j) / (t_k - t_j) for t_j in others), start=torch.ones_like(middle))
            x = x + (basis * d_alpha).sum().item() * x0_k + (basis * d_sigma).sum().item() * eps_k
        yield Step(interval.t_next, x, x0)


# weights of the newest predictions of the noise for 2, 3 and 4 of them, at equal distances in time
ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def plms(
    denoise: Denoiser, x: Tensor, times: Tensor, path: NoisePath, *, generator: Generators | None = None
) -> Iterator[Step]:
    """Pseudo linear multistep (Liu et al. 2022, PNDM): DDIM's step with the noise extrapolated from four predictions.

    The sampler that Stable Diffusion 1 was published with. One evaluation a step, two in the first, which has nothing
    to remember and takes the mean over a trial step. The weights assume evenly spaced times, and the clean data is
    computed by a division by alpha, which must not be near 0: see `check_path`.
    """
    history: list[Tensor] = []  # the last predictions of the noise, newest first
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _intervals(times, path):
        x0, eps = denoise(x, t)  # (B, ...) each
        history = [eps, *history][:4]
        if len(history) > 1:
            weights = ADAMS_BASHFORTH[len(history)]
            eps = sum((w * past for w, past in zip(weights, history, strict=True)), start=torch.zeros_like(x))
            x0 = (x - sigma * eps) / alpha
        elif sigma_next > 0:
            trial = denoise(alpha_next * x0 + sigma_next * eps, t_next)
            eps = (eps + trial.eps) / 2
            x0 = (x - sigma * eps) / alpha
        x = alpha_next * x0 + sigma_next * eps  # (B, ...)
        yield Step(t_next, x, x0)


def dpm_solver_pp_2m(
    denoise: Denoiser, x: Tensor, times: Tensor, path: NoisePath, *, generator: Generators | None = None
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): exact in the linear part, x0 extrapolated in log(alpha / sigma).

    One evaluation a step. The first step, and the last (where the log is infinite), are first-order.
    """
    previous: Tensor | None = None  # x0 of the step before
    h_previous = math.inf
    for t, alpha, sigma, t_next, alpha_next, sigma_next in _intervals(times, path):
        x0, _ = denoise(x, t)  # (B, ...)
        finite = alpha > 0 and sigma_next > 0
        h = math.log(alpha_next * sigma / (sigma_next * alpha)) if finite else math.inf
        x0_middle = x0  # (B, ...) at the middle of the step
        if previous is not None and not math.isinf(h) and not math.isinf(h_previous):
            slope = h / (2 * h_previous)
            x0_middle = (1 + slope) * x0 - slope * previous
        keep = sigma_next / sigma  # (1 - e^-h) alpha' = alpha' - keep alpha
        x = keep * x + (alpha_next - keep * alpha) * x0_middle  # (B, ...)
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
    "plms": plms,
    "dpm_solver_pp_2m": dpm_solver_pp_2m,
}


WITH_CHURN = ("euler", "heun")
SMALLEST_ALPHA = 0.01  # at the noisy end of a path for PLMS; Stable Diffusion 1's has 0.068


def check_sampler(name: str, churn: float = 0.0) -> None:
    """Raise ValueError unless `name` is in SAMPLERS, and has churn where there is some."""
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}")
    if churn and name not in WITH_CHURN:
        raise ValueError(f"the sampler {name} has no churn: choose {' or '.join(WITH_CHURN)}, or leave it at 0")


def check_path(name: str, path: NoisePath) -> None:
    """Raise ValueError where a sampler cannot be used on a path: PLMS on one that ends in pure noise, as flows do."""
    if name == "plms" and path.alpha_sigma(1.0)[0] < SMALLEST_ALPHA:
        raise ValueError(
            "the sampler plms is for paths that end before pure noise, such as Stable Diffusion 1's: "
            "choose lms or dpm_solver_pp_2m"
        )


def num_function_evaluations(sampler: str, steps: int) -> int:
    """Number of network evaluations (NFE) of a sampler in `steps` steps: what a fair comparison holds equal."""
    return {"heun": 2 * steps - 1, "plms": steps + min(steps - 1, 1)}.get(sampler, steps)


def run_sampler(
    name: str,
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    path: NoisePath,
    *,
    generator: Generators | None = None,
    churn: float = 0.0,
) -> Iterator[Step]:
    """Run a sampler by name, without gradients; the other arguments as for `ddpm`, `churn` as for `add_churn`.

    Yields:
        The state after every step.

    Raises:
        ValueError: at once for a name that is not in SAMPLERS, for churn that it does not have, for a path that it
            cannot follow and for another number of generators than samples, at the first step for times that do not
            decrease.
    """
    check_sampler(name, churn)
    if isinstance(generator, Sequence) and len(generator) != len(x):
        raise ValueError(f"one generator for the batch or one per sample: got {len(generator)} for {len(x)} samples")
    check_path(name, path)
    options = {"churn": churn} if churn else {}
    return _without_gradients(SAMPLERS[name](denoise, x, times, path, generator=generator, **options))


def finite_steps(steps: Iterator[Step]) -> Iterator[Step]:
    """Yield the steps of a sampler up to the first that is not finite.

    Raises:
        FloatingPointError: names that step's time and the samples that hold NaN or infinity, before the steps after it
            are computed in vain.
    """
    for step in steps:
        bad = [i for i, finite in enumerate(step.x.isfinite().flatten(1).all(1).tolist()) if not finite]
        if bad:
            raise FloatingPointError(
                f"the sampler's state at time {step.t:.3f} holds NaN or infinity in sample {', '.join(map(str, bad))}: "
                "the network overflowed or its weights are damaged; float32 or bfloat16 reach further than float16"
            )
        yield step


def _without_gradients(steps: Iterator[Step]) -> Iterator[Step]:
    """Turn gradients off around each step: a generator's body runs under the gradient mode of whoever calls next()."""
    while True:
        with torch.no_grad():
            step = next(steps, None)
        if step is None:
            return
        yield step


def sample(
    sampler: str,
    denoise: Denoiser,
    x: Tensor,
    times: Tensor,
    path: NoisePath,
    *,
    generator: Generators | None = None,
    churn: float = 0.0,
) -> Tensor:
    """Run a sampler to its end and return the last state, (B, ...). Arguments and errors as for `run_sampler`."""
    *_, last = run_sampler(sampler, denoise, x, times, path, generator=generator, churn=churn)
    return last.x
