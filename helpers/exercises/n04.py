"""Exercises of notebook 04: guidance that keeps the contrast, or has two conditions; the shift undone, and its mean."""

import math

import torch

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


def _predictions() -> tuple[torch.Tensor, torch.Tensor]:
    """A conditional and an unconditional prediction for three images, (3, 4, 8, 8), each on a scale of its own."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([0.5, 1.0, 2.0])[:, None, None, None] * torch.tensor([1.0, 0.5, 2.0, 1.5])[:, None, None]
    conditional = scales * torch.randn(3, 4, 8, 8, generator=generator)
    return conditional, conditional + 0.3 * torch.randn(3, 4, 8, 8, generator=generator)


def _rescaled(conditional, unconditional, scale, *, over=(1, 2, 3), like=None, inverse=False):
    """Guidance, rescaled: over these dimensions, to the standard deviation of `like`, by default the conditional."""
    guided = unconditional + scale * (conditional - unconditional)
    target = conditional if like is None else like
    factor = target.std(dim=over, keepdim=True) / guided.std(dim=over, keepdim=True)
    return guided / factor if inverse else guided * factor


@exercise(
    "04.1",
    mistakes={
        "plain guidance": lambda with_label, without, scale: without + scale * (with_label - without),
        "whole batch": lambda *args: _rescaled(*args, over=(0, 1, 2, 3)),
        "each channel": lambda *args: _rescaled(*args, over=(2, 3)),
        "upside down": lambda *args: _rescaled(*args, inverse=True),
        "unconditional": lambda with_label, without, scale: _rescaled(with_label, without, scale, like=without),
    },
)
def rescaled_guidance(answer):
    """Classifier-free guidance that keeps the standard deviation of the conditional prediction (Lin et al. 2023)."""
    conditional, unconditional = _predictions()
    both = (conditional, unconditional)
    result = as_tensor(call(answer, conditional, unconditional, 7.5), conditional)
    if close(result, _rescaled(*both, 7.5)):
        return (
            "guidance still changes what an image shows, but no longer its contrast. Guidance rescaling in diffusers "
            "mixes this result with plain guidance, because alone it makes images a little too plain."
        )
    if close(result, unconditional + 7.5 * (conditional - unconditional)):
        raise Wrong("That is plain guidance. Multiply it by the factor that restores the standard deviation.")
    if close(result, _rescaled(*both, 7.5, over=(0, 1, 2, 3))):
        raise Wrong(
            "You use one standard deviation for the whole batch, so that an image depends on its neighbours in it. "
            "Compute one per image."
        )
    if close(result, _rescaled(*both, 7.5, over=(2, 3))):
        raise Wrong("You rescale each channel separately, which also changes colours. Compute one factor per image.")
    if close(result, _rescaled(*both, 7.5, inverse=True)):
        raise Wrong("The factor is upside down: it is the conditional std divided by the guided one, here below 1.")
    if close(result, _rescaled(*both, 7.5, like=unconditional)):
        raise Wrong("You restore the std of the unconditional prediction. The target is that of the conditional one.")
    if not close(result.std(dim=(1, 2, 3)), conditional.std(dim=(1, 2, 3))):
        raise Wrong("The std of each image in your result should be that of its conditional prediction, and is not.")
    raise Wrong("The std of each image is right, but something else is not: rescale the guided prediction, only that.")


@exercise(
    "04.2",
    mistakes={
        "both from the unconditional": lambda none, image, both, a, b: none + a * (image - none) + b * (both - none),
        "first scale": lambda none, image, both, a, b: image + b * (both - image),
        "other way round": lambda none, image, both, a, b: none + b * (image - none) + a * (both - image),
        "from the prediction for the image": lambda none, image, both, a, b: (
            image + a * (image - none) + b * (both - image)
        ),
        "only the first": lambda none, image, both, a, b: none + a * (image - none),
    },
)
def guidance_with_two_conditions(answer):
    """Guidance with a scale for each of two conditions (InstructPix2Pix, eq. 3)."""
    both, none = _predictions()
    image = 0.5 * (both + none).flip(0)

    def expected(a, b):
        return none + a * (image - none) + b * (both - image)

    result = as_tensor(call(answer, none, image, both, 1.5, 7.0), none)
    if close(result, expected(1.5, 7.0)):
        return (
            "each scale belongs to what one condition adds to those before it. InstructPix2Pix edits a photograph by "
            "an instruction in this way: the first scale keeps the photograph, the second follows the words. It costs "
            "three evaluations per step."
        )
    wrong = {
        "You measure both from the unconditional prediction. Then what the image changes counts twice, and at scales 1 "
        "and 1 the result is not the prediction with both conditions.": none + 1.5 * (image - none) + 7 * (both - none),
        "You don't use the first scale: at scales 0 and 0 the result must be the unconditional prediction.": image
        + 7 * (both - image),
        "The scales are the other way round: the first belongs to the image, the second to the text.": expected(7, 1.5),
        "Start from the unconditional prediction, not from the prediction for the image: at scale 1 the image's part "
        "must be the difference once.": image + 1.5 * (image - none) + 7 * (both - image),
        "You use only the first scale. Add what the text changes when the image is known already.": none
        + 1.5 * (image - none),
    }
    for message, other in wrong.items():
        if close(result, other):
            raise Wrong(message)
    raise Wrong(
        "Start from the unconditional prediction. Add the first scale times what the image changes, image - none, and "
        "the second times what the text changes when the image is known, both - image."
    )


@exercise(
    "04.3",
    mistakes={
        "the same times": lambda t, by: by * t / (1 + (by - 1) * t),
        "stay": lambda t, by: t / by,
        "everywhere": lambda t, by: 1 - by * (1 - t) / (1 + by * (1 - t)),
    },
)
def unshift(answer):
    """The inverse of SD3's timestep shift."""
    t = torch.linspace(0, 1, 11)
    shifted = 3 * t / (1 + 2 * t)
    result = as_tensor(call(answer, shifted, 3.0), t)
    if close(result, 3 * shifted / (1 + 2 * shifted)):
        raise Wrong("That shifts the same times once more. Solve t' = m t / (1 + (m - 1) t) for t.")
    if not close(result[-1], 1.0) and close(result[0], 0.0):
        raise Wrong(f"The ends must stay: t = 1 is pure noise before and after, and yours becomes {result[-1]:.3g}.")
    if not close(result, t):
        raise Wrong(
            f"The middle, 0.5, became 0.75, so your function should return 0.5; it returns {result[5]:.3g}. The "
            "formula has to hold everywhere: multiply by the denominator and collect the terms with t."
        )
    if not close(call(answer, 5 * t / (1 + 4 * t), 5.0), t):
        raise Wrong("It works for a shift of 3 but not for 5: does your formula still contain a 3?")
    return "t = t' / (m - (m - 1) t'), a shift by 1/m. So two shifts by 3 are a single shift by 9, not by 6."


@exercise(
    "04.4",
    mistakes={
        "sign": -math.log(3),
        "logarithm of SNR": -2 * math.log(3),
        "a time": 0.75,
        "the shift itself": 3.0,
        "natural": math.log10(3),
    },
)
def shifted_location(answer):
    """Where a shift of the times by 3 moves the mean of the normal distribution behind logit-normal times."""
    value = as_number(answer)
    expected = math.log(3)
    if close(value, expected, 1e-3):
        return (
            "log 3 = 1.1: shifting the times adds log m to z, whatever z is. So shifted logit-normal times are "
            "logit-normal again, with another mean and the same standard deviation."
        )
    if close(value, -expected, 1e-3):
        raise Wrong("Check the sign: the shift moves times towards the noise, where t and z are larger.")
    if close(abs(value), 2 * expected, 1e-3):
        raise Wrong(
            "That is, up to its sign, the change of the logarithm of SNR, which is -2 z. The question is about z."
        )
    if close(value, 0.75, 1e-3) or close(value, 0.5, 1e-3):
        raise Wrong("That is a time, the median of t. The question is about z, of which the time is the sigmoid.")
    if close(value, 3, 1e-3) or close(value, 1 / 3, 1e-3):
        raise Wrong("That is the shift itself. It multiplies t / (1 - t), and z is the logarithm of that.")
    if close(value, math.log10(3), 1e-3) or close(value, math.log2(3), 1e-3):
        raise Wrong("Take the natural logarithm: sigmoid is written with e.")
    raise Wrong(
        f"{value:.4g} is not right. If t = sigmoid(z), then t / (1 - t) = exp(z). "
        "What does the shift do to t / (1 - t)?"
    )
