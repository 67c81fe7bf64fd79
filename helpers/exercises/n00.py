"""Exercises of notebook 00: what guidance costs, and the clean image that a predicted noise implies."""

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "00.1",
    mistakes={
        "twice": 24,
        "multiplied": 48,
        "not the scale": 8,
    },
)
def steps_for_a_budget(answer):
    """The number of guided steps that 24 network evaluations pay for."""
    value = as_number(answer)
    if close(value, 24.0):
        raise Wrong("That is right at scale 1. With guidance the network is evaluated twice at every step.")
    if close(value, 48.0):
        raise Wrong("You multiplied by two: 48 steps with guidance would take 96 evaluations. Divide.")
    if close(value, 8.0):
        raise Wrong("The cost of a step is not the scale: at any scale but 1 there are two evaluations.")
    if not close(value, 12.0):
        raise Wrong(f"{value:g} is not right: divide the 24 evaluations by those that one guided step takes.")
    return "two evaluations a step, so 12 steps. Without guidance the same budget would pay for 24."


@exercise(
    "00.2",
    mistakes={
        "divide": lambda x_t, noise, t: x_t - t * noise,
        "all of the noise": lambda x_t, noise, t: x_t - noise,
        "exchanged": lambda x_t, noise, t: (x_t - (1 - t) * noise) / t,
    },
)
def clean_image(answer):
    """The clean image, from a state and its noise."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1
    noise = torch.randn(2, 3, 4, 4, generator=generator)
    for t in (0.3, 0.8):
        x_t = (1 - t) * image + t * noise
        result = as_tensor(call(answer, x_t, noise, t), image)
        if close(result, (1 - t) * image):
            raise Wrong("What is left is (1 - t) times the image, too faint. You still have to divide.")
        if close(result, x_t - noise):
            raise Wrong("You subtracted all of the noise, but the state contains only t times the noise.")
        if close(result, (x_t - (1 - t) * noise) / t):
            raise Wrong("The two shares are exchanged: the noise counts t, the image 1 - t.")
        if not close(result, image, 1e-3):
            error = (result - image).abs().max().item()
            raise Wrong(f"At t = {t} the largest error is {error:.2f}. Solve x_t = (1 - t) x_0 + t noise for x_0.")
    return "the noise determines the image, so a network may predict either of them."
