"""Exercises of notebook 11: a cache's size, a loss of pairs, who sees whom, turned numbers, a norm, boxes."""

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, ask, close, exercise, number, tensor


@exercise(
    "11.1",
    mistakes={
        "values": 9.437184,
        "all eight": 8 * 18.874368,
        "two bytes": 2 * 18.874368,
    },
)
def cache_size(answer):
    """What PaliGemma's cache holds after 1,024 tokens, in megabytes."""
    given = number(answer)
    if close(given, 9.437, 1e-2):
        raise Wrong("Those are the keys, or the values: both are kept.")
    if close(given, 8 * 18.874, 1e-2):
        raise Wrong(
            "That is a cache for all eight heads of queries. Keys and values have one head: that is the point "
            "of multi-query attention."
        )
    if close(given, 2 * 18.874, 1e-2):
        raise Wrong("bfloat16 takes two bytes a number, not four.")
    if not close(given, 18.874, 1e-2):
        raise Wrong(
            f"Not {given:g}: 18 layers, keys and values, 1 head of 256 numbers, 1,024 tokens, two bytes each; "
            "in millions of bytes."
        )
    return "19 MB beside 5,800 MB of weights. With eight heads of keys and values it would be 151."


def _sigmoid_loss(logits):
    truth = 2 * torch.eye(len(logits)) - 1
    return -F.logsigmoid(truth * logits).sum(1).mean()


@exercise(
    "11.2",
    mistakes={
        "only the true": lambda logits: -F.logsigmoid(logits.diag()).mean(),
        "yes to": lambda logits: -F.logsigmoid(logits).sum(1).mean(),
        "compete": lambda logits: F.cross_entropy(logits, torch.arange(len(logits))),
    },
)
def sigmoid_loss(answer):
    """SigLIP's loss: every pair for itself."""
    logits = 2 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    given = number(ask(answer, logits))
    if close(given, -F.logsigmoid(logits.diag()).mean()):
        raise Wrong(
            "You ask only the true pairs. A tower that says yes to everything would be perfect: the false "
            "ones have to be refused."
        )
    if close(given, -F.logsigmoid(logits).sum(1).mean()):
        raise Wrong(
            "You want a yes to every pair. Off the diagonal the right answer is no: turn the sign of those logits."
        )
    if close(given, F.cross_entropy(logits, torch.arange(5))):
        raise Wrong("That is the softmax loss, in which the captions compete. Here each pair is asked by itself.")
    if close(given, _sigmoid_loss(logits) / 5):
        raise Wrong("Right, but for the scale: the paper adds up a picture's pairs, and averages over pictures.")
    if not close(given, _sigmoid_loss(logits)):
        raise Wrong("-log sigmoid(+-logit), + on the diagonal and - elsewhere: the sum over a row, the mean over rows.")
    return "no pair needs another. So a batch can be spread over machines without one softmax over all of it."


def _mask(prefix, suffix):
    place = torch.arange(prefix + suffix)
    return place[None] < torch.maximum(place[:, None] + 1, torch.tensor(prefix))


@exercise(
    "11.3",
    mistakes={
        "prefix sees itself": lambda prefix, suffix: torch.ones(prefix + suffix, prefix + suffix).tril().bool(),
        "its own future": lambda prefix, suffix: torch.ones(prefix + suffix, prefix + suffix).bool(),
        "forgets": lambda prefix, suffix: torch.block_diag(
            torch.ones(prefix, prefix), torch.ones(suffix, suffix).tril()
        ).bool(),
    },
)
def prefix_lm_mask(answer):
    """Who may see whom in picture, question and answer."""
    wanted = _mask(4, 3)
    given = tensor(ask(answer, 4, 3), wanted)
    if given[4, 5:].any() or given[:4, 4:].any():
        raise Wrong(
            "Somebody sees what has not been written yet: the answer its own future, or the question the "
            "answer. It would only learn to copy."
        )
    if not given[:4, :4].all():
        raise Wrong("The prefix sees itself whole: a patch may see the patches that come after it, and the question.")
    if not given[4:, :4].all():
        raise Wrong("The answer forgets picture and question: it may see all of them.")
    if not torch.equal(given, wanted):
        raise Wrong("The answer is read from left to right, each token seeing itself and those before.")
    if not torch.equal(ask(answer, 2, 5), _mask(2, 5)):
        raise Wrong("It holds for a prefix of 4 and an answer of 3, and not for 2 and 5.")
    return "one number says it: a token sees all up to itself, and at least the whole prefix."


def _angles(x, position, theta=10_000.0):
    return position * theta ** (-torch.arange(0, x.shape[-1], 2).float() / x.shape[-1])


def _turned(x, position, sign=1):
    a, b = x.chunk(2, dim=-1)
    cos = _angles(x, position).cos()
    sin = sign * _angles(x, position).sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


@exercise(
    "11.4",
    mistakes={
        "backwards": lambda x, position: _turned(x, position, sign=-1),
        "halves": lambda x, position: torch.stack(
            [
                x[..., ::2] * (c := _angles(x, position).cos()) - x[..., 1::2] * (s := _angles(x, position).sin()),
                x[..., 1::2] * c + x[..., ::2] * s,
            ],
            dim=-1,
        ).flatten(-2),
        "length": lambda x, position: torch.cat(
            [x.chunk(2, -1)[0] * _angles(x, position).cos(), x.chunk(2, -1)[1] * _angles(x, position).sin()], dim=-1
        ),
    },
)
def turned(answer):
    """A rotary embedding."""
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    given = tensor(ask(answer, x, 5), x)
    if not close(ask(answer, x, 0), x):
        raise Wrong(
            "At position 0 nothing should be turned, and every vector keep its length: cos 0 is 1 and sin 0 is 0."
        )
    if not close(given.norm(dim=1), x.norm(dim=1)):
        raise Wrong("Turning keeps a vector's length; yours does not. (a, b) becomes (a cos - b sin, b cos + a sin).")
    if close(given, _turned(x, 5, sign=-1)):
        raise Wrong("Yours turns backwards: a cos - b sin for the first, b cos + a sin for the second.")
    if not close(given, _turned(x, 5)):
        raise Wrong(
            "Lengths are kept, but other numbers are paired or other speeds used. Pairs are the two halves, "
            "number i with i + d/2; the speed of pair i is 10000^(-2i/d)."
        )
    return "afterwards q . k depends on how far apart two tokens are, and not on where they are."


@exercise(
    "11.5",
    mistakes={
        "no mean": lambda x, w: F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + w),
        "zero": lambda x, w: F.rms_norm(x, x.shape[-1:], eps=1e-6) * w,
        "sum": lambda x, w: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() * (1 + w),
    },
)
def rms_norm(answer):
    """Gemma's norm."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, generator=generator) * 3 + 1
    w = torch.randn(16, generator=generator)
    given = tensor(ask(answer, x, w), x)
    plain = ask(answer, x, 0 * w)
    if close(plain, 0 * x):
        raise Wrong("With weights of zero, as they are at the start, yours gives nothing. Gemma multiplies by 1 + w.")
    if close(plain, F.layer_norm(x, (16,), eps=1e-6)):
        raise Wrong("That is a layer norm. Here no mean is subtracted: only the size is divided out.")
    if close(plain.norm(dim=1), torch.ones(4), 1e-3):
        raise Wrong("You divide by the root of the sum of squares; the root of their *mean* was wanted.")
    if not close(given, F.rms_norm(x, (16,), eps=1e-6) * (1 + w)):
        raise Wrong("x / sqrt(mean(x^2) + 1e-6), over the last axis, times (1 + w).")
    return "one pass less than a layer norm, and as good. Weights that start at zero decay to 'leave it as it is'."


@exercise(
    "11.6",
    mistakes={
        "y before x": lambda places, width, height: (
            places[0] / 1023 * width,
            places[1] / 1023 * height,
            places[2] / 1023 * width,
            places[3] / 1023 * height,
        ),
        "size": lambda places, width, height: tuple(places[i] / 1023 for i in (1, 0, 3, 2)),
        "last": lambda places, width, height: tuple(
            places[i] / 1000 * side for i, side in zip((1, 0, 3, 2), (width, height) * 2)
        ),
    },
)
def box_of(answer):
    """Four place words to a box in pixels."""
    given = ask(answer, [0, 1023, 1023, 1023], 640, 480)
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, tuple | list) or len(given) != 4:
        raise Wrong("Four numbers are wanted: left, top, right, bottom.")
    given = [number(one) for one in given]
    if close(given, [0, 480, 640, 480]):
        raise Wrong("A box is written y before x: the first word is the top, the second the left side.")
    if max(given) <= 1.5:
        raise Wrong("Those are shares of the sides. Multiply by the picture's size.")
    if not close(given, [640, 0, 640, 480], 1e-2):
        told = ", ".join(f"{one:.0f}" for one in given)
        raise Wrong(
            "The words 0, 1023, 1023, 1023 in a picture of 640 x 480 are left 640, top 0, right 640, bottom "
            f"480; you have {told}. The last word, 1023, is the far edge."
        )
    if not close([number(one) for one in ask(answer, [100, 200, 600, 1000], 1023, 2046)], [200, 200, 1000, 1200], 1e-2):
        raise Wrong(
            "Edges are right, and what lies between is not: a word's number over 1023 is the share of the side."
        )
    return "1,024 words are enough for a pixel of a thousand. They are words like any other: said with a probability."
