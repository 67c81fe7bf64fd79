"""Exercises of notebook 06: the timestep shift, logit-normal times, patchify, adaLN-Zero, joint attention."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "06.1",
    mistakes={
        "pixels": 4,
        "fourth root": math.sqrt(2),
        "less noise": 0.5,
    },
)
def shift_for_size(answer):
    """The shift for an image of twice the side."""
    value = as_number(answer)
    if close(value, 4.0):
        raise Wrong("It is four times as many pixels, but averaging n of them reduces noise by the *root* of n.")
    if close(value, math.sqrt(2), 1e-2):
        raise Wrong(
            "That is the fourth root: twice the side is four times the pixels, and the shift is its square root."
        )
    if close(value, 0.5):
        raise Wrong(
            "In a larger image noise hides less, so its times should move towards the noise: a shift above 1. Yours "
            "would give it less noise."
        )
    if not close(value, 2.0):
        raise Wrong(f"{value:g} is not right: it is the root of the ratio of pixel counts, 1024^2 / 512^2.")
    return "the root of 4. From 256 to 1024 pixels a side it would be 4; people who compared images preferred 3."


def _density(t, m, s):
    return torch.exp(-0.5 * ((torch.logit(t) - m) / s) ** 2) / (s * math.sqrt(2 * math.pi) * t * (1 - t))


@exercise(
    "06.2",
    mistakes={
        "stretches": lambda t, m, s: _density(t, m, s) * t * (1 - t),
        "area": lambda t, m, s: _density(t, m, s) * s,
        "negative": lambda t, m, s: _density(t, -m, s),
    },
)
def logit_normal(answer):
    """The density of SD3's training timesteps."""
    t = torch.linspace(0.0005, 0.9995, 2000)
    for m, s in [(0.0, 1.0), (0.5, 0.6)]:
        density = as_tensor(call(answer, t, m, s), t)
        expected = _density(t, m, s)
        if close(density, _density(t, -m, s)) and m:
            raise Wrong(
                "Your curve is the mirror image: a positive m moves the times towards the noise, t = 1; you use the "
                "negative of m."
            )
        if close(density, expected * t * (1 - t)):
            raise Wrong(
                "That is the normal density of logit(t). The logit stretches the axis: multiply by its derivative, "
                "1 / (t (1 - t))."
            )
        area = torch.trapezoid(density, t).item()
        if abs(area - 1) > 0.01:
            raise Wrong(
                f"For m = {m}, s = {s} the area under your curve is {area:.2f}; that of a density is 1. Look at the "
                "factor in front of the exponential."
            )
        if not close(density, expected, 1e-3):
            raise Wrong("The area is 1, but the shape differs: the exponent is -((logit(t) - m) / s)^2 / 2.")
    return "SD3, equation 19. With m = 0 and s = 1, 73 % of the examples lie in the middle half of the path."


@exercise(
    "06.3",
    mistakes={
        "channel after channel": lambda x: rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2),
        "rows and columns": lambda x: rearrange(x, "b c (h p) (w q) -> b (w h) (p q c)", p=2, q=2),
        "neighbours": lambda x: rearrange(x, "b c h w -> b (h w c)").unflatten(1, (-1, 4 * x.shape[1])),
    },
)
def patches(answer):
    """Patchify: an image as tokens of 2 x 2 pixels."""
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    expected = rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
    tokens = as_tensor(call(answer, x), expected)
    if close(tokens, rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)):
        raise Wrong(
            "The right pixels, but ordered channel after channel. It should be pixel after pixel, each with all its "
            "channels."
        )
    if close(tokens, rearrange(x, "b c (h p) (w q) -> b (w h) (p q c)", p=2, q=2)):
        raise Wrong("The tokens run down the image: rows and columns are swapped. Go row by row.")
    if close(tokens, x.permute(0, 2, 3, 1).reshape(2, -1, 12)):
        raise Wrong("Your token is four pixels of a row. Its pixels should be neighbours in both directions, 2 x 2.")
    if not close(tokens, expected):
        raise Wrong(
            f"The first token should be {expected[0, 0].int().tolist()}; yours is {tokens[0, 0].int().tolist()}."
        )
    return (
        "nothing is lost and nothing is computed: a quarter of the tokens, each four times as wide. Attention costs "
        "a sixteenth."
    )


def _block(x, layer, scale, shift, gate):
    return x + gate[:, None] * layer(F.layer_norm(x, x.shape[-1:]) * (1 + scale[:, None]) + shift[:, None])


@exercise(
    "06.4",
    mistakes={
        "1 + scale": lambda x, layer, scale, shift, gate: (
            x + gate[:, None] * layer(F.layer_norm(x, x.shape[-1:]) * scale[:, None] + shift[:, None])
        ),
        "unchanged": lambda x, layer, scale, shift, gate: gate[:, None] * (_block(x, layer, scale, shift, gate)),
        "norm": lambda x, layer, scale, shift, gate: (
            x + gate[:, None] * layer(x * (1 + scale[:, None]) + shift[:, None])
        ),
    },
)
def adaln_zero(answer):
    """One half of a block with adaptive layer norm."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 5, 8, generator=generator) + 1
    weight = torch.randn(8, 8, generator=generator)
    scale, shift, gate = torch.randn(3, 2, 8, generator=generator)

    def layer(h):
        return torch.tanh(h @ weight)

    result = as_tensor(call(answer, x, layer, scale, shift, gate), x)
    zero = torch.zeros(2, 8)
    if not close(as_tensor(call(answer, x, layer, scale, shift, zero), x), x):
        raise Wrong(
            "With a gate of 0 the block should return x unchanged: the gate multiplies what the layer adds, and "
            "nothing else."
        )
    plain = x + layer(F.layer_norm(x, (8,)))
    if close(call(answer, x, layer, zero, zero, zero + 1), x + layer(torch.zeros_like(x))):
        raise Wrong(
            "With a scale of 0 the input of the layer is zero. Multiply by 1 + scale: 0 should mean 'no change'."
        )
    if not close(call(answer, x, layer, zero, zero, zero + 1), plain):
        raise Wrong(
            "With scale and shift 0 and gate 1 it should be x + layer(norm(x)). Is the norm missing? "
            "(`F.layer_norm(x, x.shape[-1:])`)"
        )
    if not close(result, _block(x, layer, scale, shift, gate)):
        raise Wrong(
            "The input of the layer is norm(x) times (1 + scale), plus shift. `scale[:, None]` gives every token the "
            "same scale."
        )
    return "all three start at 0, so a new block is the identity: training starts there and learns to deviate from it."


def _joint_attention(q, k, v, text_length):
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed[:, :text_length], mixed[:, text_length:]


def _swapped(text, image):
    q, k, v = (torch.cat(pair, 1) for pair in zip(text, image))
    return _joint_attention(q, k, v, 5)[::-1]


@exercise(
    "06.5",
    mistakes={
        "only to its own": lambda *streams: tuple(F.scaled_dot_product_attention(*stream) for stream in streams),
        "swapped": _swapped,
        "the other's": lambda text, image: (
            F.scaled_dot_product_attention(text[0], *image[1:]),
            F.scaled_dot_product_attention(image[0], *text[1:]),
        ),
    },
)
def joint_attention(answer):
    """Two streams that attend to each other and to themselves in the same attention."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(3, 2, 5, 8, generator=generator)
    image = torch.randn(3, 2, 7, 8, generator=generator)
    results = call(answer, tuple(text), tuple(image))
    if not isinstance(results, tuple | list) or len(results) != 2:
        raise Wrong("Return two results: for the text's tokens, and for the image's.")
    q, k, v = torch.cat([text, image], dim=2)
    expected = _joint_attention(q, k, v, 5)
    if all(close(*pair) for pair in zip(results, expected[::-1], strict=True)):
        raise Wrong("The two results are swapped: first the text's, then the image's.")
    of_text, of_image = (as_tensor(result, like) for result, like in zip(results, expected, strict=True))
    if close(of_text, F.scaled_dot_product_attention(*text)):
        raise Wrong("Each stream attends only to its own tokens. Concatenate keys and values of both first.")
    if close(of_text, F.scaled_dot_product_attention(text[0], image[1], image[2])):
        raise Wrong(
            "Each stream attends only to the other's tokens: that is cross-attention, twice. Here all tokens attend to "
            "all tokens."
        )
    if not close(of_text, expected[0]) or not close(of_image, expected[1]):
        raise Wrong(
            "Concatenate q, k and v of both along the tokens, attend once, and split the result where the text ends."
        )
    return "a single softmax over both: a word competes with a patch for attention. Only the projections are separate."
