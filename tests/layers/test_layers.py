"""Layers against their formulas, and against the mistakes that published code makes with them."""

import pytest
import torch

from helpers.layers.attention import Attention, attention_with_map, zero_module
from helpers.layers.blocks import AdaGNResidualBlock, TransformerBlock, group_norm
from helpers.layers.embeddings import TimeEmbedding, timestep_embedding


def test_fused_attention_is_the_plain_formula():
    torch.manual_seed(0)
    layer = Attention(16, 4, 12)
    x = torch.randn(2, 9, 16)
    context = torch.randn(2, 5, 12)
    q = layer._split_heads(layer.to_q(x))
    k, v = (layer._split_heads(part) for part in layer.to_kv(context).chunk(2, dim=-1))
    mixed, attention_map = attention_with_map(q, k, v)
    torch.testing.assert_close(layer(x, context), layer.to_out(mixed.transpose(1, 2).flatten(2)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.compute_attention_map(x, context), attention_map)
    torch.testing.assert_close(attention_map.sum(-1), torch.ones(2, 4, 9))


def test_cross_attention_over_one_token_is_refused_because_its_queries_would_be_dead():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 1, n, 8, requires_grad=True) for n in (6, 1, 1))
    attention_with_map(q, k, v)[0].square().sum().backward()
    assert q.grad.abs().max() < 1e-6 < v.grad.abs().max(), "a softmax over one key is 1 whatever q and k are"
    with pytest.raises(ValueError, match="at least 2 tokens"):
        Attention(16, 2, 8)(torch.randn(2, 9, 16), torch.randn(2, 1, 8))
    with pytest.raises(ValueError, match="at least 2 tokens"):
        Attention(16, 2, 8)(torch.randn(2, 9, 16))


def test_queries_and_keys_learn():
    torch.manual_seed(0)
    layer = Attention(16, 2, 8)
    layer(torch.randn(2, 9, 16), torch.randn(2, 5, 8)).square().sum().backward()
    keys = layer.to_kv.weight.grad[:16]
    assert layer.to_q.weight.grad.abs().max() > 1e-3 and keys.abs().max() > 1e-3


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads"):
        Attention(16, 3)


def test_sinusoids_are_cosines_then_sines():
    t = torch.tensor([0.0, 1.0, 250.0])
    embedded = timestep_embedding(t, 8)
    frequencies = 10_000 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(embedded[:, :4], torch.cos(t[:, None] * frequencies))
    torch.testing.assert_close(embedded[:, 4:], torch.sin(t[:, None] * frequencies))
    assert embedded[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_time_embedding_tells_neighbouring_times_apart():
    layer = TimeEmbedding(16, 32)
    a, b = layer(torch.tensor([0.500, 0.505]))
    assert a.shape == (32,) and (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("channels", [8, 48, 96, 128, 144, 320])
def test_group_norm_groups_hold_at_least_four_channels(channels):
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0 and channels // norm.num_groups >= 4


def test_blocks_begin_as_the_identity():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 4, 4)
    condition = torch.randn(2, 12)
    context = torch.randn(2, 5, 8)
    assert torch.equal(AdaGNResidualBlock(16, 16, 12)(x, condition), x)
    assert torch.equal(TransformerBlock(16, 2, 8)(x, context), x)


def test_the_condition_scales_and_shifts():
    torch.manual_seed(0)
    block = AdaGNResidualBlock(16, 16, 12)
    x = torch.randn(2, 16, 4, 4)
    torch.nn.init.normal_(block.conv_2.weight)
    assert not torch.allclose(block(x, torch.zeros(2, 12)), block(x, torch.ones(2, 12)))


def test_zero_empties_a_module():
    assert all((p == 0).all() for p in zero_module(torch.nn.Linear(3, 3)).parameters())
