"""Exercises of notebook 11: the scale of latents, normalisation, the cost of attention, latents stored as bytes."""

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "11.1",
    mistakes={
        "power": 0.13,
        "decreases": 1 / 0.13**2,
        "once too often": 0.13**4,
    },
)
def quiet_latents(answer):
    """The signal-to-noise ratio of latents that are too small."""
    value = as_number(answer)
    if close(value, 0.13):
        raise Wrong("The amplitude is multiplied by 0.13. SNR is a ratio of power, which is the amplitude squared.")
    if close(value, 1 / 0.13**2, 1e-2):
        raise Wrong("The signal is smaller, so the SNR decreases.")
    if close(value, 0.13**4, 1e-5):
        raise Wrong("Squared once too often: SNR is alpha^2 / sigma^2 times the variance of the data.")
    if not close(value, 0.0169, 1e-3):
        raise Wrong(f"{value:.4g} is not right: the variance of the data is 0.13^2 instead of 1.")
    return "the SNR is 59 times lower at every t: on the straight path noise dominates from t = 0.12 on."


def _with_global_statistics(latents):
    mean = latents.mean()
    std = latents.std()
    return (latents - mean) / std, mean, std


def _with_statistics_per_position(latents):
    mean = latents.mean(0)
    std = latents.std(0)
    return (latents - mean) / std, mean, std


def _divided_by_variance(latents):
    mean = latents.mean((0, 2, 3), keepdim=True)
    variance = latents.var((0, 2, 3), keepdim=True)
    return (latents - mean) / variance, mean.flatten(), variance.flatten()


@exercise(
    "11.2",
    mistakes={
        "each channel": _with_global_statistics,
        "position": _with_statistics_per_position,
        "variance": _divided_by_variance,
    },
)
def normalised(answer):
    """Latents normalised to mean 0 and standard deviation 1 per channel."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.5, 2.0, 10.0])
    offset = torch.tensor([0.0, 3.0, -20.0])
    latents = torch.randn(50, 3, 4, 4, generator=generator) * scale[:, None, None] + offset[:, None, None]
    result = call(answer, latents)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise Wrong("Return three things: the latents, and the mean and standard deviation that undo it.")
    normalized, mean, std = result
    normalized = as_tensor(normalized, latents)
    stds = normalized.std((0, 2, 3))
    if not close(stds, torch.ones(3), 1e-2):
        values = ", ".join(f"{value:.2f}" for value in stds.tolist())
        if close(std.flatten()[:3] if hasattr(std, "flatten") else std, latents.var((0, 2, 3)), 1e-2):
            raise Wrong(
                f"The standard deviations of the channels are {values}: you divided by the variance, not by its root."
            )
        raise Wrong(
            f"The standard deviations of the channels are {values}; all should be 1. Use the mean and the standard "
            "deviation of each channel."
        )
    if tuple(getattr(mean, "shape", ())) != (3,) or tuple(getattr(std, "shape", ())) != (3,):
        raise Wrong(
            "Return one mean and one standard deviation per channel, tensors of shape (C,): without axes of size 1, "
            "and not one for every position, because a face may be anywhere."
        )
    if not close(normalized.mean((0, 2, 3)), torch.zeros(3), 1e-2):
        raise Wrong("The standard deviations are 1, but the means are not 0: subtract the mean of each channel first.")
    if not close(normalized * std[:, None, None] + mean[:, None, None], latents, 1e-3):
        raise Wrong("Times the standard deviation, plus the mean, the result should be the original latents.")
    return "measured once, over images and positions, and stored with the weights: decoding needs the inverse."


@exercise(
    "11.3",
    mistakes={
        "each of them": 4,
        "side": 2,
        "square": 256,
    },
)
def pairs(answer):
    """The reduction in attention pairs from patches of 2 x 2 positions."""
    value = as_number(answer)
    if close(value, 4.0):
        raise Wrong("There are four times fewer positions, and each of them attends to four times fewer.")
    if close(value, 2.0):
        raise Wrong(
            "Half as many along each side. There are two sides, and attention compares every position with every other."
        )
    if close(value, 256.0):
        raise Wrong("The number of pairs is the square of the number of positions; you squared twice.")
    if not close(value, 16.0):
        raise Wrong(f"{value:g} is not right: N positions have N^2 pairs; now there are (N / 4)^2.")
    return "16 times fewer pairs. Linear layers, whose cost is proportional to N, save a factor of 4 at equal width."


def _levels(latents):
    return (latents + 4) * 255 / 8


@exercise(
    "11.4",
    mistakes={
        "same sign": lambda latents: _levels(latents).to(torch.uint8).float() * 8 / 255 - 4,
        "wrap around": lambda latents: _levels(latents).round().to(torch.int32).to(torch.uint8).float() * 8 / 255 - 4,
        "first half": lambda latents: _levels(latents).round().clamp(0, 255),
    },
)
def through_bytes(answer):
    """Latents stored as bytes and restored."""
    latents = torch.linspace(-4, 4, 3000)
    restored = as_tensor(call(answer, latents), latents)
    if restored.max() > 100:
        raise Wrong("Those are the bytes, the first half of the way. Convert them back to latents.")
    error = restored - latents
    if error.abs().max() > 8:
        raise Wrong("Some values come back completely different.")
    if abs(error.mean().item()) > 2e-3:
        raise Wrong(
            f"The errors all have the same sign, {error.mean():.3f} on average: converting floats to integers drops "
            "the fraction. Round first."
        )
    if error.abs().max() > 4 / 255 + 1e-3:
        raise Wrong(f"The largest error is {error.abs().max():.3f}; half a step of 8 / 255 is {4 / 255:.3f}.")
    beyond = call(answer, torch.tensor([-5.0, 4.5])).tolist()
    if not close(beyond, [-4.0, 4.0], 1e-2):
        raise Wrong(f"-5 and 4.5 became {beyond[0]:.2f} and {beyond[1]:.2f}: bytes wrap around. Clamp first.")
    return "an error of 0.008 on average, at a quarter of the memory. Is that below what the decoder notices? Try it."
