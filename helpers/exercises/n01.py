"""Exercises of notebook 01: aliasing, image hashes, conversion to bytes, PCA reconstruction, contrast stretching."""

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


def _grey_images() -> torch.Tensor:
    """(3, 64, 64) in [0, 1]: noise; a bright left half; the same with lower brightness and contrast."""
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    half = (torch.arange(64) < 32).float().expand(64, 64)
    return torch.stack([noise, 0.8 * half + 0.1, 0.3 * half + 0.05])


def _thumbnails(grey: torch.Tensor) -> torch.Tensor:
    """Shrink images (N, H, W) to (N, 8, 8) by averaging."""
    return F.interpolate(grey[:, None], (8, 8), mode="area")[:, 0]


def _hash_with_batch_mean(grey: torch.Tensor) -> torch.Tensor:
    small = _thumbnails(grey)
    return small.flatten(1) > small.mean()


def _hash_of_neighbours(grey: torch.Tensor) -> torch.Tensor:
    small = _thumbnails(grey)
    return small.flatten(1) > small.roll(1, -1).flatten(1)


@exercise(
    "01.1",
    mistakes={
        "cannot show more than half": lambda stripes, pixels: stripes % pixels,
        "not lost": lambda stripes, pixels: min(stripes, pixels // 2),
        "should stay": lambda stripes, pixels: pixels - stripes,
    },
)
def stripes_seen(answer):
    """The number of stripes that appear when an image is downsampled without antialiasing."""
    for stripes, pixels in [(5, 32), (16, 32)]:
        seen = as_number(call(answer, stripes, pixels))
        if seen != stripes:
            raise Wrong(
                f"{pixels} pixels can show {stripes} stripes, so the number should stay {stripes}; you get {seen:g}."
            )
    for stripes, expected in [(62, 2), (20, 12), (33, 1), (64, 0), (70, 6)]:
        seen = as_number(call(answer, stripes, 32))
        if seen > 16:
            raise Wrong(
                f"You get {seen:g} stripes in 32 pixels. A stripe needs a light and a dark pixel, so 32 pixels "
                "cannot show more than half as many stripes."
            )
        if seen != expected:
            raise Wrong(
                f"{stripes} stripes, sampled at 32 points, look like {expected}; you get {seen:g}. Frequencies above "
                "the limit are not lost: they appear as a lower number of stripes, the distance to the nearest "
                "multiple of 32."
            )
    for stripes, pixels, expected in [(62, 64, 2), (100, 64, 28), (50, 20, 10), (8, 15, 7)]:
        seen = as_number(call(answer, stripes, pixels))
        if seen != expected:
            raise Wrong(
                f"Your function is right for 32 pixels. But {stripes} stripes, sampled at {pixels} points, look like "
                f"{expected}, and you get {seen:g}."
            )
    return "this is aliasing. Frequencies above half the number of pixels are folded back; 62 stripes look like 2."


@exercise(
    "01.2",
    mistakes={
        "whole batch": _hash_with_batch_mean,
        "64 bits": lambda grey: (grey > grey.mean((1, 2), keepdim=True)).flatten(1),
        "neighbour": _hash_of_neighbours,
    },
)
def average_hash(answer):
    """A hash of 64 bits: is this part of the image brighter than its mean?"""
    grey = _grey_images()
    small = _thumbnails(grey)
    expected = (small > small.mean((1, 2), keepdim=True)).flatten(1)
    bits = call(answer, grey)
    if getattr(bits, "shape", None) == (3, 64 * 64):
        raise Wrong("You compare all 4,096 pixels. Shrink the image first: the hash has 64 bits, 8 times 8.")
    bits = as_tensor(bits, expected)
    if not torch.equal(bits[1], bits[2]):
        raise Wrong(
            "An image and its darker copy should have the same hash. Do you compare with the mean of the whole batch? "
            "Use the mean of each image."
        )
    if torch.equal(bits, ~expected):
        raise Wrong("Your bits are inverted: a bit is set where the part is *brighter* than the mean.")
    if torch.equal(bits, expected.unflatten(1, (8, 8)).mT.flatten(1)):
        raise Wrong("You read the image column by column; read it row by row.")
    if not torch.equal(bits[1], expected[1]):
        raise Wrong(
            f"In an image with a bright left half, 32 bits should be set; yours has {int(bits[1].sum())}. "
            "Compare with the mean of the image, not with a neighbour."
        )
    if torch.equal(bits, (small > small.flatten(1).median(1).values[:, None, None]).flatten(1)):
        raise Wrong("You compare with the median, which sets half of the bits in every image. Use the mean.")
    if (bits != expected).sum() > 2:
        raise Wrong(
            f'{int((bits != expected).sum())} of 192 bits differ. Average over 8 times 8 pixels (mode="area"); '
            "otherwise single pixels decide."
        )
    return "the hash does not change with brightness and contrast. But a bright background decides many bits at once."


@exercise(
    "01.3",
    mistakes={
        "rounded down": lambda x: ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8),
        "wrap around": lambda x: ((x + 1) * 127.5).round().to(torch.int32).to(torch.uint8),
        "black": lambda x: (x * 255).round().clamp(0, 255).to(torch.uint8),
    },
)
def to_bytes(answer):
    """From [-1, 1] to the bytes of an image, the last step of every sampler."""
    all_bytes = torch.arange(256, dtype=torch.uint8)
    levels = as_tensor(call(answer, torch.tensor([-1.0, 0.0, 1.0])), all_bytes[:3])
    if levels[1] in (0, 255) or levels[2] != 255 or levels[0] != 0:
        raise Wrong(f"-1 should be black (0), 0 grey (127 or 128), 1 white (255); you get {levels.tolist()}.")
    beyond = call(answer, torch.tensor([-1.3, 1.2])).tolist()
    if beyond != [0, 255]:
        raise Wrong(
            f"-1.3 and 1.2 became {beyond}: bytes wrap around, so 256 is 0. Samplers overshoot a little, so clamp "
            "first."
        )
    wrong = int((call(answer, all_bytes / 127.5 - 1) != all_bytes).sum())
    if wrong:
        raise Wrong(
            f"{wrong} of 256 bytes change on the way to [-1, 1] and back. Converting floats to integers drops the "
            "fraction: are yours rounded down?"
        )
    return "all 256 bytes survive the way to [-1, 1] and back, and values outside the range are clamped."


def _reconstruct(x, mean, directions, k):
    return mean + (x - mean) @ directions[:k].T @ directions[:k]


@exercise(
    "01.4",
    mistakes={
        "subtract the mean": lambda x, mean, directions, k: mean + x @ directions[:k].T @ directions[:k],
        "add it at the end": lambda x, mean, directions, k: (x - mean) @ directions[:k].T @ directions[:k],
        "first k": lambda x, mean, directions, k: mean + (x - mean) @ directions[-k:].T @ directions[-k:],
    },
)
def rebuild(answer):
    """The reconstruction of an image from k coefficients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 6, generator=generator) * torch.arange(6, 0, -1) + 5
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False)[2]
    expected = _reconstruct(x, mean, directions, 2)
    result = as_tensor(call(answer, x, mean, directions, 2), x)
    if close(result, expected, 1e-3) and not close(call(answer, x[:5], mean, directions, 2), expected[:5], 1e-3):
        raise Wrong(
            "A subset of the images is reconstructed differently: use `mean` from the arguments; do not compute a new "
            "one."
        )
    if close(result, x):
        raise Wrong("You return the images unchanged: use no more than k directions.")
    if close(result + mean, expected):
        raise Wrong("The mean is missing from the result: you subtracted it, so add it at the end.")
    if close(result, mean + (x - mean) @ directions[-2:].T @ directions[-2:]):
        raise Wrong("You took the last directions, along which faces vary least. Take the first k.")
    if not close(call(answer, mean[None], mean, directions, 2), mean[None], 1e-3):
        raise Wrong(
            "The mean face should be reconstructed exactly. Directions start at the mean, so subtract the mean before "
            "you compute the coefficients."
        )
    if not close(result, expected, 1e-3):
        raise Wrong(
            "The coefficients are (x - mean) times the first k directions; the image is the mean plus those "
            "coefficients times the same directions."
        )
    if not close(call(answer, x, mean, directions, 6), x, 1e-3):
        raise Wrong("With all directions the reconstruction should be exact.")
    return "with all directions the reconstruction is exact; with k it is the best possible from k numbers."


@exercise(
    "01.5",
    mistakes={
        "separately": lambda washed, low, high: (washed - low.min()) / (high.max() - low.min()),
        "darkest": lambda washed, low, high: washed / high[:, None, None],
        "from low to high": lambda washed, low, high: (washed - low[:, None, None]) / high[:, None, None],
    },
)
def stretched(answer):
    """Contrast stretching of a washed-out image, and what it cannot restore."""
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    low = torch.tensor([0.26, 0.23, 0.18])
    high = torch.tensor([0.71, 0.68, 0.63])
    washed = low[:, None, None] + image * (high - low)[:, None, None]
    result = as_tensor(call(answer, washed, low, high), image)
    if not close(call(answer, low[:, None, None].expand(3, 8, 8), low, high), torch.zeros(3, 8, 8)):
        raise Wrong(
            "The darkest value, `low`, should become 0 in every channel. The channels have different limits, so "
            "stretch each separately: low[:, None, None] has one entry per channel."
        )
    if not close(result, image):
        raise Wrong(
            "Dark values are right, bright ones are not: the range that should become [0, 1] reaches from low to "
            "high, so divide by high - low."
        )
    return (
        "the contrast is restored. Values that were clipped to one limit remain equal: stretching cannot separate them."
    )
