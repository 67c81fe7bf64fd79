"""Each operation of the engine beside PyTorch's, as a function that fails where they differ."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from helpers.layers.attention import attention_with_map
from helpers.layers.embeddings import timestep_embedding
from pages.live.node import Engine

METHODS = ("", "simd", "javascript")  # "": the fastest that there is
Check = Callable[[Engine], None]
START = "const n = new Network(readSafetensors(file), { megabytes: 8, method: method || undefined });"


def _random(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    """Normal numbers that half precision holds exactly."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * std).half().float()


def _run(
    engine: Engine, code: str, x: Tensor, weights: dict[str, Tensor] | None = None, method: str = "", **more: Any
) -> Tensor:
    """Run code on a network `n` and the map `x`, (B, C, H, W), and return the map that it returns, as (B, C, H, W)."""
    batch, channels, height, width = x.shape
    file = save({name: tensor.half().contiguous() for name, tensor in (weights or {"none": torch.zeros(1)}).items()})
    setup = f"const x = n.map({batch}, {height}, {width}, {channels}); x.data.set(values);"
    finish = "shape = [y.batch, y.height, y.width, y.channels]; return y.data.slice();"
    values = x.permute(0, 2, 3, 1).contiguous()
    result = engine(f"{START} {setup} const y = {code}; {finish}", file=file, values=values, method=method, **more)
    return result.view(*engine("shape")).permute(0, 3, 1, 2)


def _same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def half_precision(engine: Engine) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16).view(torch.half)
    finite = every.isfinite()
    table = engine("halfToFloat()")
    assert torch.equal(table[finite], every[finite].float())


def activations(engine: Engine) -> None:
    x = torch.cat([_random(4, 8, 2, 2, std=3.0), torch.linspace(-120, 120, 32).view(1, 8, 2, 2)])
    for method in METHODS:
        _same(_run(engine, "n.activate(x, 'silu')", x, method=method), F.silu(x), 1e-6)
        _same(_run(engine, "n.activate(x, 'gelu')", x, method=method), F.gelu(x), 1e-6)
        _same(_run(engine, "n.activate(x, 'quickGelu')", x, method=method), x * torch.sigmoid(1.702 * x), 1e-6)


def linear(engine: Engine) -> None:
    """Rows and outputs that are no multiples of 4 and of 8, with every kind of matrix product."""
    x = _random(1, 12, 1, 7)
    for outputs in (3, 8, 20):
        weights = {"l.weight": _random(outputs, 12, seed=1), "l.bias": _random(outputs, seed=2)}
        expected = F.linear(x.permute(0, 2, 3, 1), weights["l.weight"], weights["l.bias"]).permute(0, 3, 1, 2)
        for method in METHODS:
            _same(_run(engine, "n.linear(x, 'l')", x, weights, method), expected)


def convolution(engine: Engine) -> None:
    """Not square, two images, and other numbers of channels in than out: no two axes can be swapped unseen."""
    x = _random(2, 8, 6, 4)
    weights = {"c.weight": _random(12, 8, 3, 3, seed=1), "c.bias": _random(12, seed=2)}
    for stride in (1, 2):
        expected = F.conv2d(x, weights["c.weight"], weights["c.bias"], stride=stride, padding=1)
        for method in METHODS:
            _same(_run(engine, f"n.conv3x3(x, 'c', {stride})", x, weights, method), expected, 1e-4)


def _norm_weights(channels: int) -> dict[str, Tensor]:
    return {"g.weight": _random(channels, seed=3), "g.bias": _random(channels, seed=4)}


def group_norm(engine: Engine) -> None:
    """A variance of 1e-5: there epsilon matters. Its mean is not 0, and images differ."""
    x = (_random(2, 12, 4, 2, std=0.003) + torch.tensor([0.01, -0.02])[:, None, None, None]).half().float()
    weights = _norm_weights(12)
    for epsilon in (1e-5, 1e-6):
        expected = F.group_norm(x, 3, weights["g.weight"], weights["g.bias"], epsilon)
        options = f"{{ groups: 3, epsilon: {epsilon} }}"
        _same(_run(engine, f"n.groupNorm(x, 'g', {options})", x, weights), expected, 1e-4)
    expected = F.silu(F.group_norm(x, 3, weights["g.weight"], weights["g.bias"]))  # the default epsilon is 1e-5
    for method in METHODS:
        _same(_run(engine, "n.groupNorm(x, 'g', { groups: 3, activate: true })", x, weights, method), expected, 1e-4)


def adaptive_group_norm(engine: Engine) -> None:
    x = _random(2, 12, 4, 2)
    weights = _norm_weights(12)
    scale_shift = _random(2, 24, seed=5)
    scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
    expected = F.group_norm(x, 3, weights["g.weight"], weights["g.bias"]) * (1 + scale) + shift
    code = "n.groupNorm(x, 'g', { groups: 3, scaleShift: n.fromRows(scaleShift, 2, 24) })"
    _same(_run(engine, code, x, weights, scaleShift=scale_shift), expected)


def layer_norm(engine: Engine) -> None:
    x = _random(2, 12, 1, 5, std=0.003)
    weights = _norm_weights(12)
    expected = F.layer_norm(x.permute(0, 2, 3, 1), (12,), weights["g.weight"], weights["g.bias"]).permute(0, 3, 1, 2)
    _same(_run(engine, "n.layerNorm(x, 'g')", x, weights), expected, 1e-4)


def attention(engine: Engine) -> None:
    """Three heads of ten channels over seven tokens, none of them a multiple of 4."""
    x = _random(2, 30, 1, 7)
    context = _random(2, 5, 60, seed=1)  # (B, M, keys and values)
    heads = (2, 7, 3, 10)
    q = x.permute(0, 2, 3, 1).reshape(heads).transpose(1, 2)
    k, v = (part.reshape(2, 5, 3, 10).transpose(1, 2) for part in context.chunk(2, dim=-1))
    expected, _ = attention_with_map(q, k, v)
    code = """(() => {
      const kv = n.fromRows(context, 2, 60);
      return n.attend({ map: x, from: 0 }, { map: kv, from: 0 }, { map: kv, from: 30 }, { width: 30, heads: 3 });
    })()"""
    for method in METHODS:
        ours = _run(engine, code, x, method=method, context=context)
        _same(ours, expected.transpose(1, 2).reshape(2, 1, 7, 30).permute(0, 3, 1, 2))


def softmax(engine: Engine) -> None:
    """Scores so large and so far apart that exponentials overflow, and vanish; the padding gets nothing."""
    code = "(() => { n.kernels.softmax(x.data.byteOffset, 6, 12); return x; })()"
    for std in (1.0, 120.0):  # many that count, and one that counts alone
        scores = _random(6, 12, std=std) + torch.linspace(-300, 300, 6)[:, None]
        scores[:, 10:] = -1e30
        for method in METHODS:
            ours = _run(engine, code, scores.T[None, :, None], method=method)
            _same(ours[0, :, 0].T, scores.softmax(dim=1), 1e-6)


def kept(engine: Engine) -> None:
    """A map outlives the block that computed it, and the block's other maps give their memory back."""
    x = _random(2, 8, 4, 4)
    code = "n.keep(() => { const z = n.copy(x); const y = n.copy(z); z.data.fill(0); return y; })"
    assert torch.equal(_run(engine, code, x), x)
    again = f"(() => {{ const a = {code}; const before = n.bottom; n.bottom -= a.data.length; const b = {code}; "
    again += "if (n.bottom !== before) throw new Error('memory was lost'); return b; })()"
    assert torch.equal(_run(engine, again, x), x)


def causal_attention(engine: Engine) -> None:
    x = _random(2, 8, 1, 6)
    q = x.permute(0, 2, 3, 1).reshape(2, 6, 2, 4).transpose(1, 2)
    expected, _ = attention_with_map(q, q, q, causal=True)
    code = "(() => { const q = { map: x, from: 0 }; return n.attend(q, q, q, { width: 8, heads: 2, causal: true }) })()"
    _same(_run(engine, code, x), expected.transpose(1, 2).reshape(2, 1, 6, 8).permute(0, 3, 1, 2))


def shapes(engine: Engine) -> None:
    x = _random(2, 8, 2, 3)
    y = _random(2, 4, 2, 3, seed=1)
    assert torch.equal(_run(engine, "n.upsample(x)", x), F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert torch.equal(_run(engine, "n.pixelShuffle(x, 2)", x), F.pixel_shuffle(x, 2))
    rows = y.permute(0, 2, 3, 1).contiguous()
    joined = "(() => { const y = n.like(x, 4); y.data.set(rows); return n.concatenate(x, y); })()"
    assert torch.equal(_run(engine, joined, x, rows=rows), torch.cat([x, y], dim=1))
    assert torch.equal(_run(engine, "n.pad(x)", x), F.pad(x, (1, 1, 1, 1)))
    assert torch.equal(_run(engine, "n.channelRange(x, 3, 4)", x), x[:, 3:7])
    image = _random(3, 8, 8)
    unshuffled = _run(engine, "n.fromImage(image, { channels: 3, patch: 2, copies: 2 })", x, image=image)
    assert torch.equal(unshuffled, F.pixel_unshuffle(torch.stack([image, image]), 2))
    code = f"{START} const x = n.map(2, 2, 3, 8); x.data.set(values); return n.toImage(x);"
    values = x.permute(0, 2, 3, 1).contiguous()
    flat = engine(code, file=save({"none": torch.zeros(1).half()}), values=values, method="")
    assert torch.equal(flat.view(2, 8, 2, 3), x)
    per_image = _random(2, 8, seed=2)
    added = _run(engine, "n.addToPositions(x, n.fromRows(perImage, 2, 8))", x, perImage=per_image)
    assert torch.equal(added, x + per_image[:, :, None, None])


def timestep(engine: Engine) -> None:
    x = torch.zeros(2, 16, 1, 1)
    for t in (0.0, 1.0, 500.0, 979.5900268554688):
        expected = timestep_embedding(torch.tensor([t, t]), 16)[:, :, None, None]
        _same(_run(engine, f"timestepEmbedding(n, {t}, 2, 16)", x), expected, 5e-5)


def predictions(engine: Engine) -> None:
    from helpers.diffusion import convert_prediction

    x = _random(16)
    prediction = _random(16, seed=1)
    for prediction_type in ("x0", "epsilon"):
        for alpha, sigma in ((0.6, 0.8), (0.0, 1.0), (1.0, 0.0)):
            expected = convert_prediction(prediction_type, prediction, x, torch.tensor(alpha), torch.tensor(sigma))
            for name in ("x0", "eps"):
                code = f"convertPrediction('{prediction_type}', prediction, x, {alpha}, {sigma}).{name}"
                _same(engine(code, prediction=prediction, x=x), getattr(expected, name), 1e-6)


def guidance(engine: Engine) -> None:
    from helpers.diffusion import apply_guidance

    batch = _random(2, 16)
    expected = apply_guidance(batch[0], batch[1], 3.5)
    _same(engine("applyGuidance(batch, 3.5)", batch=batch), expected)


def random_numbers(engine: Engine) -> None:
    """The bits are the same; cosine and logarithm round differently in the last place."""
    for seed in (0, 7, 2**32 - 1):
        expected = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(seed)).flatten()
        _same(engine(f"standardNormal({seed}, {expected.numel()})"), expected, 1e-6)
    outputs = engine("const next = mersenneTwister(5489); return Array.from({ length: 10000 }, next);")
    assert outputs[-1] == 4123659995  # what the C++ standard demands of std::mt19937


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        half_precision,
        activations,
        linear,
        convolution,
        group_norm,
        adaptive_group_norm,
        layer_norm,
        attention,
        softmax,
        causal_attention,
        kept,
        shapes,
        timestep,
        predictions,
        guidance,
        random_numbers,
    )
}
