"""The blocks of Stable Diffusion against their plain formulas, and the optimised versions against the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from helpers.layers import fast
from helpers.layers.attention import Attention, attention_with_map, record_attention_maps
from helpers.layers.convolutional import Conv3x3, Downsample, ResnetBlock, Upsample


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(32, 34), (61, 17)])
def test_folded_upsampling_is_enlarging_and_convolving(size, memory_format):
    """Sixteen multiplications instead of 36: the border too must see zeros, not copies."""
    torch.manual_seed(0)
    layer = Upsample(6)
    x = torch.randn(2, 6, *size).contiguous(memory_format=memory_format)
    plain = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    with torch.no_grad():
        assert fast.prefer_folded(x)
        folded = fast.upsample_conv3x3(x, layer.conv.weight, layer.conv.bias)
        torch.testing.assert_close(folded, plain)
        assert torch.equal(layer(x), folded), "the layer takes the fast way"
    assert torch.equal(layer(x), plain), "with gradients it takes the plain way"


def test_a_small_feature_map_is_enlarged_first():
    torch.manual_seed(0)
    layer = Upsample(6)
    x = torch.randn(2, 6, 4, 6)
    with torch.no_grad():
        assert not fast.prefer_folded(x)
        torch.testing.assert_close(layer(x), layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1)])
def test_a_deep_convolution_is_a_matrix_product(size, memory_format):
    torch.manual_seed(0)
    layer = Conv3x3(256, 32).to(memory_format=memory_format)
    x = torch.randn(2, 256, *size).contiguous(memory_format=memory_format)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    with torch.no_grad():
        assert fast.prefer_matmul(x)
        product = fast.conv3x3_by_matmul(x, layer.weight, layer.bias)
        torch.testing.assert_close(product, plain, atol=1e-5, rtol=1e-5)
        assert torch.equal(layer(x), product), "the layer takes the fast way"
    assert torch.equal(layer(x), plain), "with gradients it takes the plain way"


@pytest.mark.parametrize("shape", [(1, 128, 8, 8), (1, 256, 32, 32), (9, 256, 8, 8)])
def test_other_convolutions_take_the_kernel(shape):
    with torch.no_grad():
        assert not fast.prefer_matmul(torch.empty(shape))


@pytest.mark.parametrize("queries", [True, False])
def test_three_products_are_one(queries):
    torch.manual_seed(0)
    to_qkv = torch.nn.Linear(8, 24)
    x = torch.randn(2, 5, 8)
    q, k, v = to_qkv(x).chunk(3, dim=-1)
    fast_q, fast_k, fast_v = fast.qkv_in_three_products(x, to_qkv, queries=queries)
    torch.testing.assert_close(fast_q, q if queries else q[:, :0])
    torch.testing.assert_close(fast_k, k)
    torch.testing.assert_close(fast_v, v)


def test_upsampling_to_an_odd_size():
    layer = Upsample(4)
    x = torch.randn(1, 4, 3, 5)
    with torch.no_grad():
        assert layer(x, (5, 9)).shape == (1, 4, 5, 9)


@pytest.mark.parametrize(("all_sides", "padding"), [(True, (1, 1, 1, 1)), (False, (0, 1, 0, 1))])
def test_downsampling_pads_where_the_published_weights_expect_it(all_sides, padding):
    layer = Downsample(4, pad_all_sides=all_sides)
    x = torch.randn(1, 4, 8, 6)
    plain = F.conv2d(F.pad(x, padding), layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), plain)
    assert layer(x).shape == (1, 4, 4, 3)


def test_the_residual_block_is_its_formula():
    torch.manual_seed(0)
    block = ResnetBlock(8, 16, 12, groups=4)
    x = torch.randn(2, 8, 5, 5)
    time = torch.randn(2, 12)
    h = block.conv_1(F.silu(F.group_norm(x, 4, block.norm_1.weight, block.norm_1.bias, 1e-5)))
    h = h + block.time(time)[:, :, None, None]
    h = block.conv_2(F.silu(F.group_norm(h, 4, block.norm_2.weight, block.norm_2.bias, 1e-5)))
    torch.testing.assert_close(block(x, time), block.skip(x) + h)
    with torch.no_grad():
        kept = x.clone()
        torch.testing.assert_close(block(x, time), block.skip(x) + h)
        assert torch.equal(x, kept), "overwriting must not reach the input"


def test_silu_overwrites_only_what_nothing_else_can_hold():
    norm = torch.nn.GroupNorm(1, 4)
    x = torch.randn(2, 4, 3, 3)
    plain = F.silu(norm(x))
    torch.testing.assert_close(fast.silu_after(norm, x), plain)
    with torch.no_grad():
        assert fast.may_overwrite(norm)
        h = norm(x)
        assert F.silu(h, inplace=True) is h
        torch.testing.assert_close(fast.silu_after(norm, x), plain)
    assert not fast.may_overwrite(norm), "with gradients nothing is overwritten"


@pytest.mark.parametrize("everywhere", [False, True], ids=["hook of the module", "global hook"])
def test_a_hook_keeps_the_output_that_the_module_had(everywhere):
    """Hooks are how learners look into a network: what they keep must not change afterwards."""
    torch.manual_seed(0)
    block = ResnetBlock(8, 8, 12, groups=4)
    x = torch.randn(1, 8, 5, 5)
    time = torch.randn(1, 12)
    kept = {}

    def hook(module, inputs, output):
        kept[module] = (output, output.clone())

    watched = (block.norm_1, block.conv_1, block.norm_2, block.conv_2, block.skip)
    if everywhere:
        handles = [torch.nn.modules.module.register_module_forward_hook(hook)]
    else:
        handles = [module.register_forward_hook(hook) for module in watched]
    try:
        with torch.no_grad():
            block(x, time)
    finally:
        for handle in handles:
            handle.remove()
    for module in watched:
        output, at_once = kept[module]
        assert torch.equal(output, at_once), f"the output of {module} was overwritten"


def test_causal_attention_sees_no_later_token():
    torch.manual_seed(0)
    layer = Attention(16, 4, bias=True, causal=True)
    x = torch.randn(1, 7, 16)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(layer(x)[:, :4], layer(changed)[:, :4])
    assert (layer.compute_attention_map(x)[0].triu(1) == 0).all()
    q, k, v = layer._project(x, None)
    mixed, _ = attention_with_map(q, k, v, causal=True)
    torch.testing.assert_close(layer(x), layer.to_out(mixed.transpose(1, 2).flatten(2)))


def test_maps_are_kept_only_inside_the_block():
    torch.manual_seed(0)
    attentions = torch.nn.ModuleDict({"self": Attention(8, 2), "cross": Attention(8, 2, 6)})
    x = torch.randn(1, 5, 8)
    context = torch.randn(1, 3, 6)
    plain = attentions["cross"](x, context)
    with record_attention_maps(attentions) as layers:
        assert list(layers) == ["cross"]
        torch.testing.assert_close(attentions["cross"](x, context), plain)
        assert layers["cross"].attention_map.shape == (1, 2, 5, 3)
    assert attentions["cross"].attention_map is None
    with record_attention_maps(attentions, cross_only=False) as layers:
        attentions["self"](x)
        assert layers["self"].attention_map.shape == (1, 2, 5, 5)


def test_bfloat16_training_on_a_cpu_gives_the_same_numbers():
    """There the plain formula runs in place of the fused kernel, which is slower with a gradient."""
    torch.manual_seed(0)
    layer = Attention(32, heads=4).to(torch.bfloat16)
    x = torch.randn(2, 20, 32).to(torch.bfloat16)
    assert fast.prefer_plain_attention(x)
    with torch.no_grad():
        assert not fast.prefer_plain_attention(x)
        fused = layer(x)
    torch.testing.assert_close(layer(x), fused, atol=2e-2, rtol=2e-2)
