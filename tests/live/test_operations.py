"""Each operation of the engine equals PyTorch's, and each of these tests notices a mistake in it."""

import pytest

from pages.live.node import Engine, node_engine
from pages.live.package import engine_source
from tests.live.operations import CHECKS

# (check, what stands in the engine, a typical mistake)
MUTATIONS = [
    ("half_precision", "2 ** -14 * fraction", "0 * fraction"),  # subnormal numbers lost
    ("activations", "Math.exp(-1.702 * x)", "Math.exp(-1.7 * x)"),
    ("activations", "exponential(minus(four(0), v.get(\"x\")), v)", "exponential(v.get(\"x\"), v)"),
    ("activations", "times(v.get(\"x\"), four(-1.702))", "times(v.get(\"x\"), four(-1.7))"),
    ("activations", "x + Math.abs(x) * erf", "x + x * erf"),
    ("activations", "times(absolute(v.get(\"x\")), v.get(\"t\"))", "times(v.get(\"x\"), v.get(\"t\"))"),
    ("activations", "1 / 120, 1 / 24,", "1 / 24,"),  # a term of the series left out
    ("activations", "larger(smaller(x, four(88)), four(-87))", "x"),
    ("linear", "bias.set(toFloat32", "void (toFloat32"),
    ("linear", "store(get(`p${row}`), 16 * half", "store(get(`p${row}`), 16 * (1 - half)"),
    # a kernel turned upside down
    ("convolution", "* inputs + input) * taps + tap]", "* inputs + input) * taps + taps - 1 - tap]"),
    ("convolution", "(line % y.height) * stride + dy", "(line % y.height) * stride"),
    ("convolution", "const row = image * x.height +", "const row ="),
    ("convolution", "copyRows(source, stride * bytes,", "copyRows(source, bytes,"),
    ("group_norm", "{ groups, epsilon = 1e-5,", "{ groups, epsilon = 1e-6,"),
    ("group_norm", "square / count - mean * mean + epsilon", "square / count - mean * mean"),
    ("group_norm", "const start = image * positions * channels;", "const start = 0;"),
    ("group_norm", "offsets.fill(-mean * factor, first, first + size)", "offsets.fill(-mean * factor)"),
    ("adaptive_group_norm", "factors[i] *= 1 + scaleShift[i]", "factors[i] *= scaleShift[i]"),
    ("adaptive_group_norm", "scaleShift[channels + i];", "scaleShift[i];"),
    ("layer_norm", "layerNorm(x, name, epsilon = 1e-5)", "layerNorm(x, name, epsilon = 1e-6)"),
    ("layer_norm", "squares / channels + epsilon", "squares / (channels - 1) + epsilon"),
    ("group_norm", "activate ? this.kernels.scaleSilu", "activate ? this.kernels.scale"),
    ("softmax", "acrossLanes(larger,", "acrossLanes(smaller,"),
    ("softmax", "acrossLanes(plus,", "acrossLanes(larger,"),
    ("softmax", "Math.exp(scores[j] - largest)", "Math.exp(scores[j])"),
    ("kept", "this.bottom = bottom;\n    const kept", "const kept"),
    ("kept", "kept.data.set(result.data);", ""),
    ("shapes", "2 * image + 1", "2 * image"),
    ("attention", "1 / Math.sqrt(D))", "1 / D)"),
    ("attention", "packRows(v, image * M,", "packRows(v, 0 * M,"),
    ("attention", "packTransposed(k, image * M, M, head * D,", "packTransposed(k, image * M, M, 0 * D,"),
    ("causal_attention", "scores.fill(-1e30,", "void (-1e30,"),
    ("causal_attention", "(causal ? i + 1 : columns)", "(causal ? i + 2 : columns)"),
    ("shapes", "(line >> 1) * x.width + (column >> 1)", "(line >> 1) * x.width + column % x.width"),
    ("shapes", "line * patch + dy) * y.width + column * patch", "line * patch + dx) * y.width + column * patch"),
    ("shapes", "(channel * size + row + dy) * size + column", "(channel * size + column + dy) * size + row"),
    ("shapes", "const image = Math.floor(row / positions) * channels;\n      for", "const image = 0;\n      for"),
    ("timestep", "Math.cos(angle)", "Math.sin(angle)"),
    ("timestep", "* i) / half", "* i) / (half - 1)"),  # another convention, which some libraries have
    ("predictions", "const divisor = Math.max(sigma, SMALLEST_DIVISOR)", "const divisor = sigma"),
    ("predictions", "[-sigma / divisor, prediction]", "[sigma / divisor, prediction]"),
    ("guidance", "batch.subarray(0, size)", "batch.subarray(size)"),
    ("random_numbers", "1812433253", "1812433254"),
    ("random_numbers", "i + 397", "i + 396"),
    ("random_numbers", "0xffffff) / 0x1000000", "0xfffff) / 0x100000"),
    ("random_numbers", "i < block + 8", "i < block + 4"),
]  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_operation_equals_pytorch(name: str, engine: Engine) -> None:
    CHECKS[name](engine)


@pytest.mark.parametrize(("name", "original", "mistake"), MUTATIONS)
def test_a_mistake_is_noticed(name: str, original: str, mistake: str, engine: Engine) -> None:
    source = engine_source()
    assert source.count(original) >= 1, "the engine has changed: mutate what stands there now"
    with node_engine(source.replace(original, mistake)) as mutated, pytest.raises((AssertionError, RuntimeError)):
        CHECKS[name](mutated)


def test_every_operation_has_a_mutation() -> None:
    assert {name for name, _, _ in MUTATIONS} == set(CHECKS)
