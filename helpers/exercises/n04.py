"""Exercises of notebook 04: the shift, logit-normal times, patches, adaLN-zero, joint attention."""

import math

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "04.1",
    mistakes={
        "pixels": 4,
        "root of the root": math.sqrt(2),
        "less noise": 0.5,
    },
)
def shift_for_size(answer):
    """The shift that twice the side asks for."""
    given = number(answer)
    if close(given, 4.0):
        raise Wrong("Four times as many pixels, yes. Averaging n of them removes noise by the *root* of n.")
    if close(given, math.sqrt(2), 1e-2):
        raise Wrong("That is the root of the root: twice the side is four times the pixels, not twice.")
    if close(given, 0.5):
        raise Wrong(
            "A larger picture hides noise better, so its times move towards the noise: more than 1. Yours "
            "would give it less noise."
        )
    if not close(given, 2.0):
        raise Wrong(f"Not {given:g}: the root of the ratio of pixels, 1024^2 / 512^2.")
    return "the root of 4. From 256 to 1024 pixels it would be 4; people who compared pictures preferred 3."


def _density(t, m, s):
    return torch.exp(-0.5 * ((torch.logit(t) - m) / s) ** 2) / (s * math.sqrt(2 * math.pi) * t * (1 - t))


@exercise(
    "04.2",
    mistakes={
        "stretches": lambda t, m, s: _density(t, m, s) * t * (1 - t),
        "area": lambda t, m, s: _density(t, m, s) * s,
        "negative": lambda t, m, s: _density(t, -m, s),
    },
)
def logit_normal(answer):
    """The density of SD3's training times."""
    t = torch.linspace(0.0005, 0.9995, 2000)
    for m, s in [(0.0, 1.0), (0.5, 0.6)]:
        given = tensor(ask(answer, t, m, s), t)
        wanted = _density(t, m, s)
        if close(given, _density(t, -m, s)) and m:
            raise Wrong(
                "Yours is its own mirror image: a positive m moves the times towards the noise, t = 1; you "
                "use its negative."
            )
        if close(given, wanted * t * (1 - t)):
            raise Wrong(
                "That is the normal density of logit(t). The logit stretches the line: divide by t (1 - t), "
                "its slope turned over."
            )
        area = torch.trapezoid(given, t).item()
        if abs(area - 1) > 0.01:
            raise Wrong(
                f"For m = {m}, s = {s} the area under your curve is {area:.2f}; a density's is 1. Look at the "
                "factor before the exponential."
            )
        if not close(given, wanted, 1e-3):
            raise Wrong("The area is 1 and the form is another: the exponent is -((logit(t) - m) / s)^2 / 2.")
    return "SD3, equation 19. With m = 0 and s = 1, 73 % of the examples lie in the middle half of the path."


@exercise(
    "04.3",
    mistakes={
        "channel after channel": lambda x: F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2),
        "rows and columns": lambda x: (
            x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 4, 2, 3, 5, 1).flatten(3).flatten(1, 2)
        ),
        "neighbours": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1, 4 * x.shape[1]),
    },
)
def patches(answer):
    """A picture as tokens of 2 x 2 pixels."""
    x = torch.arange(2 * 3 * 4 * 6, dtype=torch.float32).reshape(2, 3, 4, 6)
    parts = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2))  # (B, C, h, 2, w, 2)
    wanted = parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, h w, 2 2 C)
    given = tensor(ask(answer, x), wanted)
    if close(given, parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)):
        raise Wrong(
            "The right pixels, ordered channel after channel. Wanted: pixel after pixel, with all its channels."
        )
    if close(given, parts.permute(0, 4, 2, 3, 5, 1).flatten(3).flatten(1, 2)):
        raise Wrong("The tokens run down the picture: rows and columns are exchanged. Read line after line.")
    if close(given, x.permute(0, 2, 3, 1).reshape(2, -1, 12)):
        raise Wrong("Your token is four pixels of one line. Its pixels should be neighbours in both directions, 2 x 2.")
    if not close(given, wanted):
        raise Wrong(f"The first token should be {wanted[0, 0].int().tolist()}; yours is {given[0, 0].int().tolist()}.")
    return (
        "nothing is lost and nothing computed: a quarter of the tokens, each four times as wide. Attention costs "
        "a 16th."
    )


def _block(x, layer, scale, shift, gate):
    return x + gate[:, None] * layer(F.layer_norm(x, x.shape[-1:]) * (1 + scale[:, None]) + shift[:, None])


@exercise(
    "04.4",
    mistakes={
        "1 + scale": lambda x, layer, scale, shift, gate: (
            x + gate[:, None] * layer(F.layer_norm(x, x.shape[-1:]) * scale[:, None] + shift[:, None])
        ),
        "untouched": lambda x, layer, scale, shift, gate: gate[:, None] * (_block(x, layer, scale, shift, gate)),
        "norm": lambda x, layer, scale, shift, gate: (
            x + gate[:, None] * layer(x * (1 + scale[:, None]) + shift[:, None])
        ),
    },
)
def adaln_zero(answer):
    """One half of a block that a vector steers."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2, 5, 8, generator=generator) + 1
    weight = torch.randn(8, 8, generator=generator)
    scale, shift, gate = torch.randn(3, 2, 8, generator=generator)

    def layer(h):
        return torch.tanh(h @ weight)

    given = tensor(ask(answer, x, layer, scale, shift, gate), x)
    zero = torch.zeros(2, 8)
    if not close(tensor(ask(answer, x, layer, scale, shift, zero), x), x):
        raise Wrong(
            "With a gate of 0 the block should leave x untouched: the gate multiplies what the layer adds, "
            "and nothing else."
        )
    plain = x + layer(F.layer_norm(x, (8,)))
    if close(ask(answer, x, layer, zero, zero, zero + 1), x + layer(torch.zeros_like(x))):
        raise Wrong("With a scale of 0 the layer sees nothing at all. Multiply by 1 + scale: 0 should mean 'as it is'.")
    if not close(ask(answer, x, layer, zero, zero, zero + 1), plain):
        raise Wrong(
            "With scale and shift 0 and gate 1 it should be x + layer(norm(x)). Is the norm missing? "
            "(`F.layer_norm(x, x.shape[-1:])`)"
        )
    if not close(given, _block(x, layer, scale, shift, gate)):
        raise Wrong(
            "Inside the layer: norm(x) times (1 + scale), plus shift. `scale[:, None]` gives every token the same."
        )
    return "all three start at 0, so a new block passes x on: the network begins as an identity and learns to differ."


def _joint(q, k, v, n):
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed[:, :n], mixed[:, n:]


@exercise(
    "04.5",
    mistakes={
        "only its own": lambda *streams: tuple(F.scaled_dot_product_attention(*stream) for stream in streams),
        "exchanged": lambda text, picture: _joint(*(torch.cat(pair, 1) for pair in zip(text, picture)), 5)[::-1],
        "the other's": lambda text, picture: (
            F.scaled_dot_product_attention(text[0], *picture[1:]),
            F.scaled_dot_product_attention(picture[0], *text[1:]),
        ),
    },
)
def joint_attention(answer):
    """Two streams that ask each other and themselves at once."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(3, 2, 5, 8, generator=generator)
    picture = torch.randn(3, 2, 7, 8, generator=generator)
    given = ask(answer, tuple(text), tuple(picture))
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise Wrong("Two results are wanted: the text's tokens, and the picture's.")
    wanted = _joint(*torch.cat([text, picture], dim=2), 5)
    if all(close(*pair) for pair in zip(given, wanted[::-1], strict=True)):
        raise Wrong("The two results are exchanged: first the text's, then the picture's.")
    given = [tensor(part, own) for part, own in zip(given, wanted, strict=True)]
    if close(given[0], F.scaled_dot_product_attention(*text)):
        raise Wrong("Each stream asks only its own tokens. Put keys and values of both behind one another first.")
    if close(given[0], F.scaled_dot_product_attention(text[0], picture[1], picture[2])):
        raise Wrong(
            "Each stream asks only the other's tokens: that is cross-attention, twice. Here everyone asks everyone."
        )
    if not all(close(*pair) for pair in zip(given, wanted, strict=True)):
        raise Wrong(
            "Concatenate q, k and v of both along the tokens, attend once, and cut the result where the text ends."
        )
    return "one softmax over both: a word competes with a patch for attention. Only the projections differ by stream."
