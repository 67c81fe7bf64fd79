"""Exercises of notebook 14: KV cache, SigLIP's loss, the prefix-LM mask, rotary embeddings, RMSNorm, boxes."""

import torch
import torch.nn.functional as F

from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercise


@exercise(
    "14.1",
    mistakes={
        "values": 9.437184,
        "all eight": 8 * 18.874368,
        "two bytes": 2 * 18.874368,
    },
)
def cache_size(answer):
    """The size of PaliGemma's KV cache after 1,024 tokens, in megabytes."""
    value = as_number(answer)
    if close(value, 9.437, 1e-2):
        raise Wrong("Those are only the keys, or only the values: the cache stores both.")
    if close(value, 8 * 18.874, 1e-2):
        raise Wrong(
            "That is a cache for all eight query heads. Keys and values have a single head: that is the point of "
            "multi-query attention."
        )
    if close(value, 2 * 18.874, 1e-2):
        raise Wrong("A bfloat16 value takes two bytes, not four.")
    if not close(value, 18.874, 1e-2):
        raise Wrong(
            f"{value:g} is not right: 18 layers, keys and values, 1 head of width 256, 1,024 tokens, two bytes each; "
            "in millions of bytes."
        )
    return "19 MB, compared with 5,800 MB of weights. With eight key/value heads it would be 151."


def _sigmoid_loss(logits):
    sign = 2 * torch.eye(len(logits)) - 1
    return -F.logsigmoid(sign * logits).sum(1).mean()


@exercise(
    "14.2",
    mistakes={
        "only the matching": lambda logits: -F.logsigmoid(logits.diag()).mean(),
        "every pair": lambda logits: -F.logsigmoid(logits).sum(1).mean(),
        "compete": lambda logits: F.cross_entropy(logits, torch.arange(len(logits))),
    },
)
def sigmoid_loss(answer):
    """SigLIP's loss, independent for every pair."""
    logits = 2 * torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    value = as_number(call(answer, logits))
    if close(value, -F.logsigmoid(logits.diag()).mean()):
        raise Wrong(
            "You use only the matching pairs. An encoder that says yes to everything would be perfect: the other pairs "
            "need the label no."
        )
    if close(value, -F.logsigmoid(logits).sum(1).mean()):
        raise Wrong(
            "You use the label yes for every pair. Off the diagonal the label is no: change the sign of those logits."
        )
    if close(value, F.cross_entropy(logits, torch.arange(5))):
        raise Wrong(
            "That is the softmax loss, in which captions compete. Here each pair is a separate yes-or-no label."
        )
    if close(value, _sigmoid_loss(logits) / 5):
        raise Wrong("Right, except for the scale: the paper sums over the pairs of an image, and averages over images.")
    if not close(value, _sigmoid_loss(logits)):
        raise Wrong("-log sigmoid(+-logit), + on the diagonal and - elsewhere: the sum over a row, the mean over rows.")
    return "the pairs are independent, so a batch can be spread over machines without a softmax over all of it."


def _mask(prefix, suffix):
    position = torch.arange(prefix + suffix)
    return position[None] < torch.maximum(position[:, None] + 1, torch.tensor(prefix))


@exercise(
    "14.3",
    mistakes={
        "all of itself": lambda prefix, suffix: torch.ones(prefix + suffix, prefix + suffix).tril().bool(),
        "later tokens": lambda prefix, suffix: torch.ones(prefix + suffix, prefix + suffix).bool(),
        "ignores": lambda prefix, suffix: torch.block_diag(
            torch.ones(prefix, prefix), torch.ones(suffix, suffix).tril()
        ).bool(),
    },
)
def prefix_lm_mask(answer):
    """The prefix-LM attention mask over image, question and answer."""
    expected = _mask(4, 3)
    mask = as_tensor(call(answer, 4, 3), expected)
    if mask[4, 5:].any() or mask[:4, 4:].any():
        raise Wrong(
            "Some token attends to what is not generated yet: the answer to its later tokens, or the question to the "
            "answer. The model would only learn to copy."
        )
    if not mask[:4, :4].all():
        raise Wrong(
            "The prefix should attend to all of itself: a patch also to the patches after it, and to the question."
        )
    if not mask[4:, :4].all():
        raise Wrong("The answer ignores image and question: it should attend to all of them.")
    if not torch.equal(mask, expected):
        raise Wrong("The answer is causal: each token attends to itself and to those before it.")
    if not torch.equal(call(answer, 2, 5), _mask(2, 5)):
        raise Wrong("It works for a prefix of 4 and an answer of 3, but not for 2 and 5.")
    return "one comparison is enough. A token attends to all tokens up to itself, and at least to the whole prefix."


def _angles(x, position, theta=10_000.0):
    return position * theta ** (-torch.arange(0, x.shape[-1], 2).float() / x.shape[-1])


def _rotate(x, position, sign=1):
    a, b = x.chunk(2, dim=-1)
    cos = _angles(x, position).cos()
    sin = sign * _angles(x, position).sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _rotate_neighbours(x, position):
    cos = _angles(x, position).cos()
    sin = _angles(x, position).sin()
    even = x[..., ::2]
    odd = x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


def _scale_only(x, position):
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * _angles(x, position).cos(), b * _angles(x, position).sin()], dim=-1)


@exercise(
    "14.4",
    mistakes={
        "wrong direction": lambda x, position: _rotate(x, position, sign=-1),
        "halves": _rotate_neighbours,
        "length": _scale_only,
    },
)
def rotary_embedding(answer):
    """A rotary position embedding."""
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    result = as_tensor(call(answer, x, 5), x)
    if not close(call(answer, x, 0), x):
        raise Wrong(
            "At position 0 nothing should be rotated, and every vector should keep its length: cos 0 is 1, sin 0 is 0."
        )
    if not close(result.norm(dim=1), x.norm(dim=1)):
        raise Wrong("A rotation preserves length; yours does not. (a, b) becomes (a cos - b sin, b cos + a sin).")
    if close(result, _rotate(x, 5, sign=-1)):
        raise Wrong("Yours rotates in the wrong direction: a cos - b sin for the first, b cos + a sin for the second.")
    if not close(result, _rotate(x, 5)):
        raise Wrong(
            "The length is right, but the pairs or the frequencies differ. Pairs are taken from the two halves, "
            "channel i with i + d/2; the frequency of pair i is 10000^(-2i/d)."
        )
    return "the dot product of a rotated query and key depends on the distance of the tokens, not on their positions."


@exercise(
    "14.5",
    mistakes={
        "no mean": lambda x, w: F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + w),
        "zero": lambda x, w: F.rms_norm(x, x.shape[-1:], eps=1e-6) * w,
        "sum": lambda x, w: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() * (1 + w),
    },
)
def rms_norm(answer):
    """Gemma's RMSNorm."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 16, generator=generator) * 3 + 1
    w = torch.randn(16, generator=generator)
    result = as_tensor(call(answer, x, w), x)
    unscaled = call(answer, x, 0 * w)
    if close(unscaled, 0 * x):
        raise Wrong("With weights of zero, their initial value, your result is zero. Gemma multiplies by 1 + w.")
    if close(unscaled, F.layer_norm(x, (16,), eps=1e-6)):
        raise Wrong("That is layer norm. RMSNorm subtracts no mean: it only divides by the root mean square.")
    if close(unscaled.norm(dim=1), torch.ones(4), 1e-3):
        raise Wrong("You divide by the root of the sum of squares; divide by the root of their *mean*.")
    if not close(result, F.rms_norm(x, (16,), eps=1e-6) * (1 + w)):
        raise Wrong("x / sqrt(mean(x^2) + 1e-6), over the last axis, times (1 + w).")
    return "the weights start at zero, so weight decay pulls the gain 1 + w towards 1, that is, to no change."


@exercise(
    "14.6",
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
    """From four location tokens to a box in pixels."""
    box = call(answer, [0, 1023, 1023, 1023], 640, 480)
    box = box.tolist() if hasattr(box, "tolist") else box
    if not isinstance(box, tuple | list) or len(box) != 4:
        raise Wrong("Return four numbers: left, top, right, bottom.")
    box = [as_number(side) for side in box]
    if close(box, [0, 480, 640, 480]):
        raise Wrong("A box is written y before x: the first token is the top, the second the left side.")
    if max(box) <= 1.5:
        raise Wrong("Those are fractions of the sides. Multiply by the image's size.")
    if not close(box, [640, 0, 640, 480], 1e-2):
        sides = ", ".join(f"{side:.0f}" for side in box)
        raise Wrong(
            "The tokens 0, 1023, 1023, 1023 in an image of 640 x 480 are left 640, top 0, right 640, bottom 480; you "
            f"get {sides}. The last token, 1023, is the far edge."
        )
    second = [as_number(side) for side in call(answer, [100, 200, 600, 1000], 1023, 2046)]
    if not close(second, [200, 200, 1000, 1200], 1e-2):
        raise Wrong(
            "The edges are right, but not what lies between: the token's index divided by 1023 is the fraction of the "
            "side."
        )
    return "with 1,024 tokens the model can name a thousandth of a side. They are predicted like any other token."
