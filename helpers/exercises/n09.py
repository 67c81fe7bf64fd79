"""Exercises of notebook 09: what four channels keep, a loss and its weight, noise in latents, when it pays."""

import torch

from helpers.exercises.checking import Wrong, ask, close, exercise, number


@exercise(
    "09.1",
    mistakes={
        "channels": 16,
        "each side": 4,
        "of what": 1 / 12,
    },
)
def compression(answer):
    """How many numbers the course's own latents save."""
    given = number(answer)
    if close(given, 16.0):
        raise Wrong("16 times fewer places. Count the channels too: 3 before, 4 after.")
    if close(given, 4.0):
        raise Wrong("4 times fewer along each side; a picture has two sides, and channels.")
    if close(given, 1 / 12):
        raise Wrong("Turn it over: how many numbers of the picture come on one of what is kept?")
    if not close(given, 12.0):
        raise Wrong(f"Not {given:g}: 3 x 64 x 64 numbers become 4 x 16 x 16.")
    return "12 times fewer. Stable Diffusion's saves 48: its pictures are larger, and so are the things in them."


@exercise(
    "09.2",
    mistakes={
        "weighed": lambda picture, again, mean, logvar, weight: (
            weight * (picture - again).square().mean() + ((mean**2 + logvar.exp() - logvar - 1) / 2).mean()
        ),
        "grows": lambda picture, again, mean, logvar, weight: (
            (picture - again).square().mean() - weight * ((mean**2 + logvar.exp() - logvar - 1) / 2).mean()
        ),
        "number of numbers": lambda picture, again, mean, logvar, weight: (
            (picture - again).square().sum() + weight * ((mean**2 + logvar.exp() - logvar - 1) / 2).sum()
        ),
    },
)
def loss(answer):
    """Error and a little KL."""
    generator = torch.Generator().manual_seed(0)
    picture, again = torch.randn(2, 2, 3, 8, 8, generator=generator)
    mean, logvar = torch.randn(2, 2, 4, 2, 2, generator=generator)
    error = (picture - again).square().mean()
    kl = ((mean**2 + logvar.exp() - logvar - 1) / 2).mean()
    alone = number(ask(answer, picture, again, mean, logvar, 0.0))
    given = number(ask(answer, picture, again, mean, logvar, 0.01))
    if close(alone, kl):
        raise Wrong("With weight 0 the KL is all that is left: it is the KL that is to be weighed, not the error.")
    if close(alone, (picture - again).square().sum(), 1e-2):
        raise Wrong("You add up, so the balance of the two depends on the number of numbers in each. Take means.")
    if not close(alone, error):
        raise Wrong(f"With weight 0 it should be the mean squared error, {error:.3f}; yours is {alone:.3f}.")
    if close(given, error - 0.01 * kl):
        raise Wrong("You subtract the KL: then the loss rewards a code whose rate grows.")
    if not close(given, error + 0.01 * kl):
        raise Wrong("KL per number: the mean of (mean^2 + variance - log variance - 1) / 2.")
    return (
        "with a tiny weight it is an autoencoder with a little noise. Stable Diffusion's is a millionth, of sums "
        "in place of means."
    )


@exercise(
    "09.3",
    mistakes={
        "signal's spread": 0.02 / 1.02,
        "ends": 1 / 1.01,
        "upside": 100.0,
    },
)
def as_loud(answer):
    """Where the path's noise is as loud as the encoder's."""
    given = number(answer)
    if close(given, 0.02 / 1.02, 2e-4) or close(given, 0.02, 2e-4):
        raise Wrong("0.02 is the noise; what counts is noise over the signal's spread, and that is 2, not 1.")
    if close(given, 1 / 1.01, 1e-3):
        raise Wrong("The two ends are exchanged: data stand at t = 0.")
    if close(given, 100.0):
        raise Wrong("The ratio stands upside down, and is no time yet: solve t / (1 - t) = noise / signal.")
    if not close(given, 0.01 / 1.01, 2e-4):
        raise Wrong(f"Not {given:.4g}: solve t / (1 - t) = 0.02 / 2.")
    return "t = 0.01: what the sampler does in its last hundredth drowns in what the decoder is used to anyway."


@exercise(
    "09.4",
    mistakes={
        "seconds": 36.0,
        "less": 18 / 60 / 0.5,
        "saved per picture": 18 * 60 * 0.5,
    },
)
def pays_after(answer):
    """After how many pictures an autoencoder has paid for itself."""
    given = number(answer)
    if close(given, 36.0):
        raise Wrong("Minutes were divided by seconds: 18 minutes are 18 times 60 of them.")
    if close(given, 0.6):
        raise Wrong("That is less than one picture. 18 minutes are 18 times 60 seconds.")
    if close(given, 540.0):
        raise Wrong("Multiplied by the half second saved per picture; how often does it go into the cost?")
    if not close(given, 2160.0):
        raise Wrong(f"Not {given:g}: cost in seconds over seconds saved per picture.")
    return "2,160 pictures. In training it pays as well: every update is cheaper, too."
