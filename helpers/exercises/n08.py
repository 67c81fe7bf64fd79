"""Exercises of notebook 08: the scale of latents, what folding saves, latents kept as bytes."""

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "08.1",
    mistakes={
        "power": 0.13,
        "less, not more": 1 / 0.13**2,
        "once more": 0.13**4,
    },
)
def quiet_latents(answer):
    """What happens to the signal-to-noise ratio of latents that are too small."""
    given = number(answer)
    if close(given, 0.13):
        raise Wrong("The amplitude falls to 0.13. SNR is a ratio of power, and power goes with the square.")
    if close(given, 1 / 0.13**2, 1e-2):
        raise Wrong("The signal has become smaller, so SNR gets less, not more.")
    if close(given, 0.13**4, 1e-5):
        raise Wrong("Squared once more than needed: SNR is alpha^2 / sigma^2 times the data's variance.")
    if not close(given, 0.0169, 1e-3):
        raise Wrong(f"Not {given:.4g}: the data's variance is 0.13^2 in place of 1.")
    return "59 times less signal at every t: on the straight path noise is the louder one from t = 0.12 on."


@exercise(
    "08.2",
    mistakes={
        "channel of its own": lambda latents: (
            (latents - latents.mean()) / latents.std(),
            latents.mean(),
            latents.std(),
        ),
        "place": lambda latents: ((latents - (m := latents.mean(0))) / (s := latents.std(0)), m, s),
        "variance": lambda latents: (
            (latents - (m := latents.mean((0, 2, 3), keepdim=True))) / (v := latents.var((0, 2, 3), keepdim=True)),
            m.flatten(),
            v.flatten(),
        ),
    },
)
def normalised(answer):
    """Latents of mean 0 and spread 1, channel by channel."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.5, 2.0, 10.0])
    middle = torch.tensor([0.0, 3.0, -20.0])
    latents = torch.randn(50, 3, 4, 4, generator=generator) * scale[:, None, None] + middle[:, None, None]
    given = ask(answer, latents)
    if not isinstance(given, tuple | list) or len(given) != 3:
        raise Wrong("Three things are wanted: the latents, and the mean and the spread to undo it with.")
    new, mean, std = given
    new = tensor(new, latents)
    spreads = new.std((0, 2, 3))
    if not close(spreads, torch.ones(3), 1e-2):
        told = ", ".join(f"{one:.2f}" for one in spreads.tolist())
        if close(std.flatten()[:3] if hasattr(std, "flatten") else std, latents.var((0, 2, 3)), 1e-2):
            raise Wrong(f"The channels' spreads are {told}: you divided by the variance, not by its root.")
        raise Wrong(
            f"The channels' spreads are {told}; all should be 1. Every channel needs a mean and a spread of a "
            "channel of its own."
        )
    if tuple(getattr(mean, "shape", ())) != (3,) or tuple(getattr(std, "shape", ())) != (3,):
        raise Wrong(
            "One mean and one spread per channel were wanted, tensors of shape (C,): without axes of size 1, "
            "and not one for every place. A face may stand anywhere."
        )
    if not close(new.mean((0, 2, 3)), torch.zeros(3), 1e-2):
        raise Wrong("The spreads are 1; the means should be 0 and are not: subtract each channel's first.")
    if not close(new * std[:, None, None] + mean[:, None, None], latents, 1e-3):
        raise Wrong("Times the spread, plus the mean, the latents should be there again.")
    return "measured once, over pictures and places, and kept with the weights: decoding needs the way back."


@exercise(
    "08.3",
    mistakes={
        "each of them": 4,
        "side": 2,
        "square": 256,
    },
)
def pairs(answer):
    """How many fewer pairs attention compares after folding 2 x 2 places into one."""
    given = number(answer)
    if close(given, 4.0):
        raise Wrong("Four times fewer places, and each of them has four times fewer to ask.")
    if close(given, 2.0):
        raise Wrong(
            "Half as many along a side. There are two sides, and attention compares every place with every other."
        )
    if close(given, 256.0):
        raise Wrong("Pairs go with the square of the number of places, and you took a square twice.")
    if not close(given, 16.0):
        raise Wrong(f"Not {given:g}: with N places there are N^2 pairs; now there are (N / 4)^2.")
    return "16 times fewer pairs. The linear layers, which go with N, save a factor of 4 at equal width."


def _levels(latents):
    return (latents + 4) * 255 / 8


@exercise(
    "08.4",
    mistakes={
        "one way": lambda latents: _levels(latents).to(torch.uint8).float() * 8 / 255 - 4,
        "run around": lambda latents: _levels(latents).round().to(torch.int32).to(torch.uint8).float() * 8 / 255 - 4,
        "first": lambda latents: _levels(latents).round().clamp(0, 255),
    },
)
def through_bytes(answer):
    """Latents kept as bytes, and read again."""
    latents = torch.linspace(-4, 4, 3000)
    again = tensor(ask(answer, latents), latents)
    if again.max() > 100:
        raise Wrong("Those are the bytes; the first half of the way. Read them as latents again.")
    error = again - latents
    if error.abs().max() > 8:
        raise Wrong("Some come back as something else altogether.")
    if abs(error.mean().item()) > 2e-3:
        raise Wrong(
            f"All errors go one way, {error.mean():.3f} on average: turning floats into integers cuts off. Round."
        )
    if error.abs().max() > 4 / 255 + 1e-3:
        raise Wrong(f"The largest error is {error.abs().max():.3f}; half a step of 8 / 255 is {4 / 255:.3f}.")
    beyond = ask(answer, torch.tensor([-5.0, 4.5])).tolist()
    if not close(beyond, [-4.0, 4.0], 1e-2):
        raise Wrong(f"-5 and 4.5 became {beyond[0]:.2f} and {beyond[1]:.2f}: bytes run around. Clamp first.")
    return "an error of 0.008 on average, at a quarter of the room. Is that less than what the decoder notices? Try."
