"""Exercises of notebook 01: fingerprints, bytes, stripes, planes and washed-out pictures."""

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


def _grey() -> torch.Tensor:
    """(3, 64, 64) in [0, 1]: noise; a bright left half; the same half, all of it darker."""
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    half = (torch.arange(64) < 32).float().expand(64, 64)
    return torch.stack([noise, 0.8 * half + 0.1, 0.3 * half + 0.05])


@exercise(
    "01.1",
    mistakes={
        "cannot show more than half": lambda stripes, pixels: stripes % pixels,
        "thrown away": lambda stripes, pixels: min(stripes, pixels // 2),
        "should not change": lambda stripes, pixels: pixels - stripes,
    },
)
def stripes_seen(answer):
    """What fine stripes look like when a picture is shrunk without antialiasing."""
    for stripes, pixels in [(5, 32), (16, 32)]:
        if number(ask(answer, stripes, pixels)) != stripes:
            raise Wrong(
                f"{stripes} stripes fit into {pixels} pixels and should not change; you say "
                f"{ask(answer, stripes, pixels)}."
            )
    for stripes, wanted in [(62, 2), (20, 12), (33, 1), (64, 0), (70, 6)]:
        seen = number(ask(answer, stripes, 32))
        if seen > 16:
            raise Wrong(
                f"You see {seen:g} stripes in 32 pixels: a stripe needs a light and a dark pixel, so 32 pixels "
                "cannot show more than half as many."
            )
        if seen != wanted:
            raise Wrong(
                f"{stripes} stripes, sampled at 32 points, look like {wanted}; you say {seen:g}. What does not "
                "fit is not thrown away: it comes back as another number of stripes, counted from the nearest "
                "multiple of 32."
            )
    for stripes, pixels, wanted in [(62, 64, 2), (100, 64, 28), (50, 20, 10), (8, 15, 7)]:
        if (seen := number(ask(answer, stripes, pixels))) != wanted:
            raise Wrong(
                f"It holds for 32 pixels; but {stripes} stripes, sampled at {pixels} points, look like "
                f"{wanted}, and you say {seen:g}."
            )
    return "a frequency that does not fit is folded back at half the number of pixels; 62 stripes look like 2."


@exercise(
    "01.2",
    mistakes={
        "whole batch": lambda grey: (
            (small := F.interpolate(grey[:, None], (8, 8), mode="area")[:, 0]).flatten(1) > small.mean()
        ),
        "64 bits": lambda grey: (grey > grey.mean((1, 2), keepdim=True)).flatten(1),
        "neighbour": lambda grey: (
            (small := F.interpolate(grey[:, None], (8, 8), mode="area")[:, 0]).flatten(1) > small.roll(1, -1).flatten(1)
        ),
    },
)
def average_hash(answer):
    """A fingerprint of 64 bits: is this part brighter than the picture?"""
    grey = _grey()
    small = F.interpolate(grey[:, None], (8, 8), mode="area")[:, 0]
    wanted = (small > small.mean((1, 2), keepdim=True)).flatten(1)
    bits = ask(answer, grey)
    if getattr(bits, "shape", None) == (3, 64 * 64):
        raise Wrong("You compare all 4,096 pixels. Shrink first: a fingerprint has 64 bits, 8 times 8.")
    bits = tensor(bits, wanted)
    if not torch.equal(bits[1], bits[2]):
        raise Wrong(
            "A picture and its darker copy should have the same fingerprint. Is yours compared with the "
            "average of the whole batch? Every picture has an average of its own."
        )
    if torch.equal(bits, ~wanted):
        raise Wrong("Yours is turned over: a bit is set where the part is *brighter* than the whole.")
    if torch.equal(bits, wanted.unflatten(1, (8, 8)).mT.flatten(1)):
        raise Wrong("Yours runs down the picture, column after column: read it line after line.")
    if not torch.equal(bits[1], wanted[1]):
        raise Wrong(
            f"In a picture whose left half is bright, 32 bits should be set; yours has {int(bits[1].sum())}. "
            "Compare with the picture's average, not with a neighbour."
        )
    if torch.equal(bits, (small > small.flatten(1).median(1).values[:, None, None]).flatten(1)):
        raise Wrong("You compare with the median, which sets half of the bits in every picture. The average is wanted.")
    if (bits != wanted).sum() > 2:
        raise Wrong(
            f'{int((bits != wanted).sum())} of 192 bits differ. Average over 8 times 8 pixels (mode="area"), '
            "or single pixels decide."
        )
    return (
        "brightness and contrast may change, and the fingerprint stays. A bright background decides many bits at once."
    )


@exercise(
    "01.3",
    mistakes={
        "rounded down": lambda x: ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8),
        "around": lambda x: ((x + 1) * 127.5).round().to(torch.int32).to(torch.uint8),
        "black": lambda x: (x * 255).round().clamp(0, 255).to(torch.uint8),
    },
)
def to_bytes(answer):
    """From [-1, 1] to the bytes of a picture, as every sampler must in the end."""
    every = torch.arange(256, dtype=torch.uint8)
    given = tensor(ask(answer, torch.tensor([-1.0, 0.0, 1.0])), every[:3])
    if given[1] in (0, 255) or given[2] != 255 or given[0] != 0:
        raise Wrong(f"-1 should be black (0), 0 grey (127 or 128), 1 white (255); you make them {given.tolist()}.")
    if (beyond := ask(answer, torch.tensor([-1.3, 1.2])).tolist()) != [0, 255]:
        raise Wrong(
            f"-1.3 and 1.2 became {beyond}: bytes run around, 256 is 0 again. A sampler overshoots a little: "
            "clamp first."
        )
    wrong = int((ask(answer, every / 127.5 - 1) != every).sum())
    if wrong:
        raise Wrong(
            f"{wrong} of 256 bytes do not survive the way to [-1, 1] and back. Turning floats into integers "
            "cuts off what follows the point: are yours rounded down?"
        )
    return "all 256 bytes survive the way there and back, and what overshoots is clamped."


def _rebuilt(x, mean, directions, k):
    return mean + (x - mean) @ directions[:k].T @ directions[:k]


@exercise(
    "01.4",
    mistakes={
        "subtract the mean": lambda x, mean, directions, k: mean + x @ directions[:k].T @ directions[:k],
        "add it again": lambda x, mean, directions, k: (x - mean) @ directions[:k].T @ directions[:k],
        "first k": lambda x, mean, directions, k: mean + (x - mean) @ directions[-k:].T @ directions[-k:],
    },
)
def rebuild(answer):
    """A picture from k numbers."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=generator) * torch.arange(6, 0, -1) + 5
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False)[2]
    given = tensor(ask(answer, x, mean, directions, 2), x)
    if not close(ask(answer, x[:5], mean, directions, 2), _rebuilt(x[:5], mean, directions, 2), 1e-3) and close(
        given, _rebuilt(x, mean, directions, 2), 1e-3
    ):
        raise Wrong("Some pictures alone come out otherwise than among all: `mean` is given, do not take a new one.")
    if close(given, x):
        raise Wrong("You give the pictures back unchanged: use no more than k directions.")
    if close(given + mean, _rebuilt(x, mean, directions, 2)):
        raise Wrong("The mean is missing at the end: what was subtracted has to be there again, so add it again.")
    if close(given, mean + (x - mean) @ directions[-2:].T @ directions[-2:]):
        raise Wrong("You took the last directions, in which faces vary least. The first k are the ones.")
    if not close(ask(answer, mean[None], mean, directions, 2), mean[None], 1e-3):
        raise Wrong(
            "The mean face itself should come back as it is. Directions run through the mean: subtract the "
            "mean before you ask how far a picture lies along each."
        )
    if not close(given, _rebuilt(x, mean, directions, 2), 1e-3):
        raise Wrong(
            "The coefficients are (x - mean) times the first k directions; the picture is the mean plus those "
            "coefficients times the same directions."
        )
    if not close(ask(answer, x, mean, directions, 6), x, 1e-3):
        raise Wrong("With all directions the picture should come back exactly.")
    return "with all directions a picture comes back exactly, with k it is the best that k numbers can do."


@exercise(
    "01.5",
    mistakes={
        "channel of its own": lambda washed, low, high: (washed - low.min()) / (high.max() - low.min()),
        "darkest": lambda washed, low, high: washed / high[:, None, None],
        "from low to high": lambda washed, low, high: (washed - low[:, None, None]) / high[:, None, None],
    },
)
def stretched(answer):
    """Stretch a washed-out picture over the whole range, and find what cannot be brought back."""
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    low = torch.tensor([0.26, 0.23, 0.18])
    high = torch.tensor([0.71, 0.68, 0.63])
    washed = low[:, None, None] + picture * (high - low)[:, None, None]
    given = tensor(ask(answer, washed, low, high), picture)
    if not close(ask(answer, low[:, None, None].expand(3, 8, 8), low, high), torch.zeros(3, 8, 8)):
        raise Wrong(
            "The darkest value of a channel, `low`, should become 0 in every channel. Each channel has limits "
            "of a channel of its own: low[:, None, None] has a row for each."
        )
    if not close(given, picture):
        raise Wrong(
            "Dark is right and bright is not: the range that is to become 1 reaches from low to high, so "
            "divide by their difference."
        )
    return "contrast is back. Values that were clipped to one limit are equal now: no stretching tells them apart."
