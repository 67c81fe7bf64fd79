"""Exercises of notebook 12: compression by four channels, the loss of a VAE, noise in latents, when a VAE pays off."""

import torch

from helpers.exercises.checking import Wrong, as_number, call, close, exercise


@exercise(
    "12.1",
    mistakes={
        "channels": 16,
        "each side": 4,
        "inverse": 1 / 12,
    },
)
def compression(answer):
    """The compression factor of the course's own latents."""
    value = as_number(answer)
    if close(value, 16.0):
        raise Wrong("There are 16 times fewer positions, but count the channels too: 3 before, 4 after.")
    if close(value, 4.0):
        raise Wrong("It is 4 times fewer along each side; an image has two sides, and channels.")
    if close(value, 1 / 12):
        raise Wrong("That is the inverse: divide the size of the image by the size of the latent.")
    if not close(value, 12.0):
        raise Wrong(f"{value:g} is not right: 3 x 64 x 64 values become 4 x 16 x 16.")
    return "a factor of 12. Stable Diffusion's is 48: its images are larger, and so are the objects in them."


def _kl(mean, logvar):
    return (mean**2 + logvar.exp() - logvar - 1) / 2


@exercise(
    "12.2",
    mistakes={
        "weight applies": lambda x, decoded, mean, logvar, weight: (
            weight * (x - decoded).square().mean() + _kl(mean, logvar).mean()
        ),
        "increasing": lambda x, decoded, mean, logvar, weight: (
            (x - decoded).square().mean() - weight * _kl(mean, logvar).mean()
        ),
        "number of values": lambda x, decoded, mean, logvar, weight: (
            (x - decoded).square().sum() + weight * _kl(mean, logvar).sum()
        ),
    },
)
def loss(answer):
    """Reconstruction error plus a small weight times the KL."""
    generator = torch.Generator().manual_seed(0)
    image, reconstruction = torch.randn(2, 2, 3, 8, 8, generator=generator)
    mean, logvar = torch.randn(2, 2, 4, 2, 2, generator=generator)
    error = (image - reconstruction).square().mean()
    kl = _kl(mean, logvar).mean()
    without_kl = as_number(call(answer, image, reconstruction, mean, logvar, 0.0))
    value = as_number(call(answer, image, reconstruction, mean, logvar, 0.01))
    if close(without_kl, kl):
        raise Wrong("With weight 0 only the KL is left: the weight applies to the KL, not to the error.")
    if close(without_kl, (image - reconstruction).square().sum(), 1e-2):
        raise Wrong("You take sums, so the balance of the terms depends on the number of values in each. Take means.")
    if not close(without_kl, error):
        raise Wrong(f"With weight 0 it should be the mean squared error, {error:.3f}; yours is {without_kl:.3f}.")
    if close(value, error - 0.01 * kl):
        raise Wrong("You subtract the KL, so the loss rewards increasing the rate.")
    if not close(value, error + 0.01 * kl):
        raise Wrong("The KL per dimension is the mean of (mean^2 + variance - log variance - 1) / 2.")
    return (
        "with a tiny weight it is an autoencoder with a little noise. Stable Diffusion's is a millionth, of sums "
        "instead of means."
    )


@exercise(
    "12.3",
    mistakes={
        "standard deviation of the signal": 0.02 / 1.02,
        "ends": 1 / 1.01,
        "inverted": 100.0,
    },
)
def as_loud(answer):
    """The time at which the path's noise is as large as the encoder's."""
    value = as_number(answer)
    if close(value, 0.02 / 1.02, 2e-4) or close(value, 0.02, 2e-4):
        raise Wrong("0.02 is the noise; divide it by the standard deviation of the signal, which is 2, not 1.")
    if close(value, 1 / 1.01, 1e-3):
        raise Wrong("The two ends are swapped: t = 0 is the data.")
    if close(value, 100.0):
        raise Wrong("The ratio is inverted, and it is not a time yet: solve t / (1 - t) = noise / signal.")
    if not close(value, 0.01 / 1.01, 2e-4):
        raise Wrong(f"{value:.4g} is not right: solve t / (1 - t) = 0.02 / 2.")
    return (
        "t = 0.01: what the sampler does in the last hundredth is smaller than the noise that the decoder was trained "
        "with."
    )


@exercise(
    "12.4",
    mistakes={
        "units": 36.0,
        "less than an image": 18 / 60 / 0.5,
        "multiplied": 18 * 60 * 0.5,
    },
)
def pays_after(answer):
    """The number of images after which an autoencoder has paid off."""
    value = as_number(answer)
    if close(value, 36.0):
        raise Wrong("The units differ: 18 minutes are 18 times 60 seconds.")
    if close(value, 0.6):
        raise Wrong("That is less than an image. 18 minutes are 18 times 60 seconds.")
    if close(value, 540.0):
        raise Wrong("You multiplied by the half second saved per image; divide the cost by it.")
    if not close(value, 2160.0):
        raise Wrong(f"{value:g} is not right: the cost in seconds, divided by the seconds saved per image.")
    return "2,160 images. It also pays off in training, where every update is cheaper."
