"""The blocks of Stable Diffusion against their plain formulas."""

import pytest
import torch
import torch.nn.functional as F

from helpers.layers.attention import Attention, attention_with_map, record_attention_maps
from helpers.layers.convolutional import Conv3x3, Downsample, ResnetBlock, Upsample, silu


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(32, 34), (61, 17), (4, 6)])
def test_folded_upsampling_is_enlarging_and_convolving(size, layout):
    """Sixteen multiplications instead of 36: the border too must see zeros, not copies."""
    torch.manual_seed(0)
    layer = Upsample(6)
    x = torch.randn(2, 6, *size).contiguous(memory_format=layout)
    plain = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(layer(x), plain)  # with gradients it takes the plain way


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1)])
def test_a_deep_convolution_is_a_matrix_product(size, layout):
    torch.manual_seed(0)
    layer = Conv3x3(256, 32).to(memory_format=layout)
    x = torch.randn(2, 256, *size).contiguous(memory_format=layout)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain, atol=1e-5, rtol=1e-5)
    assert torch.equal(layer(x), plain)  # with gradients it takes the plain way


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


def test_silu_overwrites_only_where_no_gradient_will_ask():
    x = torch.randn(5)
    expected = x * torch.sigmoid(x)
    torch.testing.assert_close(silu(x), expected)
    assert not torch.equal(x, expected)
    with torch.no_grad():
        assert silu(x) is x
    torch.testing.assert_close(x, expected)


def test_causal_attention_sees_no_later_token():
    torch.manual_seed(0)
    layer = Attention(16, 4, bias=True, causal=True)
    x = torch.randn(1, 7, 16)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(layer(x)[:, :4], layer(changed)[:, :4])
    assert (layer.weights(x)[0].triu(1) == 0).all()
    q, k, v = layer._project(x, None)
    mixed, _ = attention_with_map(q, k, v, causal=True)
    torch.testing.assert_close(layer(x), layer.to_out(mixed.transpose(1, 2).flatten(2)))


def test_maps_are_kept_only_inside_the_block():
    torch.manual_seed(0)
    pair = torch.nn.ModuleDict({"self": Attention(8, 2), "cross": Attention(8, 2, 6)})
    x = torch.randn(1, 5, 8)
    context = torch.randn(1, 3, 6)
    plain = pair["cross"](x, context)
    with record_attention_maps(pair) as layers:
        assert list(layers) == ["cross"]
        torch.testing.assert_close(pair["cross"](x, context), plain)
        assert layers["cross"].map.shape == (1, 2, 5, 3)
    assert pair["cross"].map is None
    with record_attention_maps(pair, cross_only=False) as layers:
        pair["self"](x)
        assert layers["self"].map.shape == (1, 2, 5, 5)


def test_bfloat16_training_on_a_cpu_gives_the_same_numbers():
    """There the readable formula runs in place of the fused kernel, which is slower with a gradient."""
    torch.manual_seed(0)
    layer = Attention(32, heads=4).to(torch.bfloat16)
    x = torch.randn(2, 20, 32).to(torch.bfloat16)
    with torch.no_grad():
        fused = layer(x)
    torch.testing.assert_close(layer(x), fused, atol=2e-2, rtol=2e-2)
