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
    codes = quantizer(z).z_q
    (codes * torch.arange(4.0)).sum().backward()
    if name == "FSQ":
        assert (z.grad[..., 1:] > 0).all() and (z.grad[..., 0] == 0).all()
    else:
        torch.testing.assert_close(z.grad, torch.arange(4.0).expand_as(z))


@pytest.mark.parametrize("name", MAKE)
def test_indices_determine_the_vectors(name, z):
    quantizer = MAKE[name]().eval()
    quantized = quantizer(z)
    torch.testing.assert_close(quantizer.decode(quantized.indices), quantized.z_q.detach(), atol=1e-5, rtol=1e-5)
    assert quantized.loss.shape == z.shape[:-1] and quantized.z_q.shape == z.shape


@pytest.mark.parametrize("name", ["VQ", "EMA", "LFQ"])  # the others' codes are no points of their input's space
def test_a_code_is_its_own_nearest(name, z):
    quantizer = MAKE[name]().eval()
    indices = quantizer(z).indices
    assert (quantizer(quantizer.decode(indices)).indices == indices).all()


def test_nearest_is_the_full_matrix_argmin():
    generator = torch.Generator().manual_seed(1)
    for vectors, K in ((3000, 500), (6000, 1024)):  # codes that are no whole blocks; more rows than at once
        z = torch.randn(vectors, 8, generator=generator)
        codebook = torch.randn(K, 8, generator=generator)
        exact = torch.cdist(z.double(), codebook.double()).argmin(1)
        assert (nearest(z, codebook) == exact).float().mean() > 0.999
        with torch.autocast("cpu", torch.bfloat16):
            assert (nearest(z, codebook) == exact).float().mean() > 0.999
    assert nearest(torch.zeros(2, 3), torch.ones(64, 3)).tolist() == [0, 0]  # the first of equals


def test_the_two_terms_of_the_loss_reach_what_they_should(z):
    """The codebook is pulled with weight 1 and the input with beta, not the other way round as in a copied default."""
    quantizer = VectorQuantizer(32, 4, beta=0.25)
    quantized = quantizer(z)
    away = z.detach() - quantizer.decode(quantized.indices).detach()
    quantized.loss.sum().backward()
    torch.testing.assert_close(z.grad, 0.25 * 2 * away / 4)
    expected = torch.zeros(32, 4).index_add_(0, quantized.indices.flatten(), -2 * away.flatten(0, -2) / 4)
    torch.testing.assert_close(quantizer.codebook.grad, expected)


def test_ema_codes_go_to_the_means_of_what_they_are_chosen_for():
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0], [-5, 0], [0, 5], [0, -5]])
    quantizer = EMAQuantizer(4, 2, decay=0.9)
    quantizer(centres + 1.5)  # the start: one code near each
    for _ in range(60):
        quantizer(centres.repeat(50, 1) + 0.3 * torch.randn(200, 2))
    assert torch.cdist(centres, quantizer.codebook).min(1).values.max() < 0.15


def test_dead_codes_are_reset():
    torch.manual_seed(0)
    data = torch.randn(512, 4)
    quantizer = EMAQuantizer(64, 4, decay=0.8)
    quantizer(data)
    quantizer.codebook[:32] += 100.0  # far from everything
    quantizer.sums[:32] = quantizer.codebook[:32] * quantizer.counts[:32, None]
    assert usage(quantizer.eval()(data).indices, 64).utilization <= 0.5
    quantizer.train()
    for _ in range(40):
        quantizer(data)
    assert usage(quantizer.eval()(data).indices, 64).utilization > 0.95


def test_ema_stays_put_outside_training(z):
    quantizer = EMAQuantizer(32, 4)
    quantizer(z)
    before = quantizer.codebook.clone()
    quantizer.eval()(10 + z)
    assert (quantizer.codebook == before).all()


def test_fsq_uses_every_level_and_no_other():
    quantizer = FSQ((8, 5, 4))
    quantized = quantizer(torch.linspace(-6, 6, 2001)[:, None].expand(-1, 3))
    assert [len(column.unique()) for column in quantized.z_q.detach().round(decimals=4).T] == [8, 5, 4]
    assert quantized.z_q.abs().max() <= 1 + 1e-6 and quantizer.K == 160
    with pytest.raises(ValueError, match="3 levels or more"):
        FSQ((8, 2))


def test_lfq_loss_is_lowest_for_sure_and_varied_choices():
    sure = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    losses = {
        name: LFQ(2, entropy=0.1, beta=0.0, sharpness=20.0)(z).loss.mean().item()
        for name, z in {"varied": sure, "all alike": sure.abs(), "unsure": 0 * sure}.items()
    }
    assert losses["varied"] == pytest.approx(-0.1 * 2 * math.log(2), abs=1e-4)
    assert losses["all alike"] == pytest.approx(0, abs=1e-4) and losses["unsure"] == pytest.approx(0, abs=1e-4)


def test_every_residual_layer_brings_it_closer():
    torch.manual_seed(0)
    data = torch.randn(2000, 4)
    errors = []
    for count in (1, 2, 3):
        quantizer = ResidualQuantizer([EMAQuantizer(16, 4) for _ in range(count)])
        for _ in range(5):
            quantizer(data)
        errors.append((quantizer.eval()(data).z_q - data).square().mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_usage():
    stats = usage(torch.tensor([[0, 1], [2, 3]]), 8)
    assert (
        stats.utilization == 0.5
        and stats.perplexity == pytest.approx(4)
        and stats.histogram.tolist() == [1] * 4 + [0] * 4
    )
    assert str(stats) == "50% of 8 codes in use, perplexity 4"
    with pytest.raises(ValueError, match="0..7"):
        usage(torch.tensor([8]), 8)


@pytest.mark.parametrize("quantizer", [VectorQuantizer(8192, 8), EMAQuantizer(8192, 8)], ids=["VQ", "EMA"])
def test_a_step_of_training_changes_the_codebook(quantizer):
    z = torch.randn(64, 8, requires_grad=True)
    before = quantizer.codebook.detach().clone()
    optimizer = torch.optim.SGD([*quantizer.parameters(), z], lr=0.1)
    quantized = quantizer(z)
    (quantized.loss.sum() + quantized.z_q.sum()).backward()
    optimizer.step()
    assert not torch.equal(before, quantizer.codebook)


def test_sure_choices_have_gradients_too():
    """Far from 0 a choice's entropy is nothing, and its slope must not be infinite."""
    for far in (1e-3, 1.0, 30.0, 1e4):
        z = torch.tensor([[far, -far, far, -far], [far, far, far, far]], requires_grad=True)
        loss = LFQ(4)(z).loss
        loss.sum().backward()
        assert loss.isfinite().all() and z.grad.isfinite().all(), far


def test_a_code_that_is_never_chosen_stays_where_it_is():
    """Without revival: a mean of nothing is no mean."""
    quantizer = EMAQuantizer(2, 2, decay=0.5, dead_code_threshold=0)
    quantizer.codebook.copy_(torch.tensor([[0.0, 0], [50, 50]]))
    quantizer.counts.fill_(1.0)
    quantizer.sums.copy_(quantizer.codebook)
    quantizer.started.fill_(True)
    for _ in range(200):
        quantizer(torch.full((8, 2), 1.0))
    torch.testing.assert_close(quantizer.codebook, torch.tensor([[1.0, 1], [50, 50]]), atol=0.01, rtol=0)


@pytest.mark.slow
def test_several_processes_learn_one_codebook(tmp_path):
    """Each gets its part of the batch, and all learn the codebook of the whole batch."""
    torch.multiprocessing.spawn(_learn_codes, args=(str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.manual_seed(0)
    alone = EMAQuantizer(8, 3)
    data = _batches()
    torch.manual_seed(1)
    for batch in data:
        alone(batch)
    for part in parts:
        torch.testing.assert_close(part, alone.codebook)


def _batches():
    return torch.randn(5, 64, 3, generator=torch.Generator().manual_seed(5))


def _learn_codes(rank, meet, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    torch.manual_seed(0)
    quantizer = EMAQuantizer(8, 3)
    data = _batches()
    torch.manual_seed(1)
    for batch in data:
        quantizer(batch.chunk(2)[rank])
    torch.save(quantizer.codebook, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
