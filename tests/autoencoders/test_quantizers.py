"""Quantisers: the nearest code, gradients that pass, codebooks that stay in use."""

import math

import pytest
import torch

from helpers.autoencoders.quantizers import FSQ, LFQ, EMAQuantizer, ResidualQuantizer, VectorQuantizer, nearest, usage

MAKE = {
    "VQ": lambda: VectorQuantizer(32, 4),
    "EMA": lambda: EMAQuantizer(32, 4),
    "FSQ": lambda: FSQ((8, 5, 5, 4)),
    "LFQ": lambda: LFQ(4),
    "residual": lambda: ResidualQuantizer([VectorQuantizer(32, 4), EMAQuantizer(16, 4)]),
}


@pytest.fixture
def z():
    return torch.randn(3, 7, 7, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)


@pytest.mark.parametrize("name", MAKE)
def test_gradients_pass_straight_through(name, z):
    """As if the quantiser were not there; FSQ's input goes through a tanh first."""
    quantizer = MAKE[name]().eval()
    codes = quantizer(z).codes
    (codes * torch.arange(4.0)).sum().backward()
    if name == "FSQ":
        assert (z.grad[..., 1:] > 0).all() and (z.grad[..., 0] == 0).all()
    else:
        torch.testing.assert_close(z.grad, torch.arange(4.0).expand_as(z))


@pytest.mark.parametrize("name", MAKE)
def test_indices_say_it_all(name, z):
    quantizer = MAKE[name]().eval()
    found = quantizer(z)
    torch.testing.assert_close(quantizer.decode(found.indices), found.codes.detach(), atol=1e-5, rtol=1e-5)
    assert found.loss.shape == z.shape[:-1] and found.codes.shape == z.shape


@pytest.mark.parametrize("name", ["VQ", "EMA", "LFQ"])  # the others' codes are no points of their input's space
def test_a_code_is_its_own_nearest(name, z):
    quantizer = MAKE[name]().eval()
    indices = quantizer(z).indices
    assert (quantizer(quantizer.decode(indices)).indices == indices).all()


def test_nearest_is_the_full_matrix_argmin():
    generator = torch.Generator().manual_seed(1)
    z, codebook = torch.randn(3000, 8, generator=generator), torch.randn(500, 8, generator=generator)
    exact = torch.cdist(z.double(), codebook.double()).argmin(1)
    assert (nearest(z, codebook) == exact).float().mean() > 0.999


def test_the_two_terms_of_the_loss_reach_what_they_should(z):
    """The codebook is pulled with weight 1 and the input with beta, not the other way round as in a copied default."""
    quantizer = VectorQuantizer(32, 4, beta=0.25)
    found = quantizer(z)
    away = z.detach() - quantizer.decode(found.indices).detach()
    found.loss.sum().backward()
    torch.testing.assert_close(z.grad, 0.25 * 2 * away / 4)
    wanted = torch.zeros(32, 4).index_add_(0, found.indices.flatten(), -2 * away.flatten(0, -2) / 4)
    torch.testing.assert_close(quantizer.codebook.grad, wanted)


def test_ema_codes_go_to_the_means_of_what_they_are_chosen_for():
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0], [-5, 0], [0, 5], [0, -5]])
    quantizer = EMAQuantizer(4, 2, decay=0.9)
    quantizer(centres + 1.5)                                                 # the start: one code near each
    for _ in range(60):
        quantizer(centres.repeat(50, 1) + 0.3 * torch.randn(200, 2))
    assert torch.cdist(centres, quantizer.codebook).min(1).values.max() < 0.15


def test_unused_codes_start_again():
    torch.manual_seed(0)
    data = torch.randn(512, 4)
    quantizer = EMAQuantizer(64, 4, decay=0.8)
    quantizer(data)
    quantizer.codebook[:32] += 100.0                                         # far from everything
    quantizer.sums[:32] = quantizer.codebook[:32] * quantizer.counts[:32, None]
    assert usage(quantizer.eval()(data).indices, 64).share <= 0.5
    quantizer.train()
    for _ in range(40):
        quantizer(data)
    assert usage(quantizer.eval()(data).indices, 64).share > 0.95


def test_ema_stays_put_outside_training(z):
    quantizer = EMAQuantizer(32, 4)
    quantizer(z)
    before = quantizer.codebook.clone()
    quantizer.eval()(10 + z)
    assert (quantizer.codebook == before).all()


def test_fsq_uses_every_level_and_no_other():
    quantizer = FSQ((8, 5, 4))
    found = quantizer(torch.linspace(-6, 6, 2001)[:, None].expand(-1, 3))
    assert [len(column.unique()) for column in found.codes.detach().round(decimals=4).T] == [8, 5, 4]
    assert found.codes.abs().max() <= 1 + 1e-6 and quantizer.K == 160
    with pytest.raises(ValueError, match="3 levels or more"):
        FSQ((8, 2))


def test_lfq_loss_is_lowest_for_sure_and_varied_choices():
    sure = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    losses = {name: LFQ(2, beta=0.0, sharpness=20.0)(z).loss.mean().item()
              for name, z in {"varied": sure, "all alike": sure.abs(), "unsure": 0 * sure}.items()}  # fmt: skip
    assert losses["varied"] == pytest.approx(-0.1 * 2 * math.log(2), abs=1e-4)
    assert losses["all alike"] == pytest.approx(0, abs=1e-4) and losses["unsure"] == pytest.approx(0, abs=1e-4)


def test_every_residual_layer_brings_it_closer():
    torch.manual_seed(0)
    data, errors = torch.randn(2000, 4), []
    for count in (1, 2, 3):
        quantizer = ResidualQuantizer([EMAQuantizer(16, 4) for _ in range(count)])
        for _ in range(5):
            quantizer(data)
        errors.append((quantizer.eval()(data).codes - data).square().mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_usage():
    told = usage(torch.tensor([[0, 1], [2, 3]]), 8)
    assert told.share == 0.5 and told.perplexity == pytest.approx(4) and told.histogram.tolist() == [1] * 4 + [0] * 4
    assert str(told) == "50% of 8 codes in use, perplexity 4"
    with pytest.raises(ValueError, match="0..7"):
        usage(torch.tensor([8]), 8)


@pytest.mark.parametrize("quantizer", [VectorQuantizer(8192, 8), EMAQuantizer(8192, 8)], ids=["VQ", "EMA"])
def test_a_step_of_training_changes_the_codebook(quantizer):
    z = torch.randn(64, 8, requires_grad=True)
    before = quantizer.codebook.detach().clone()
    optimizer = torch.optim.SGD([*quantizer.parameters(), z], lr=0.1)
    found = quantizer(z)
    (found.loss.sum() + found.codes.sum()).backward()
    optimizer.step()
    assert not torch.equal(before, quantizer.codebook)
