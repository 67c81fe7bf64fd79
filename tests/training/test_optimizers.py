"""Muon beside AdamW: parity with PyTorch's own, convolutions as matrices, and a training that stops and goes on."""

import pytest
import torch
from torch import nn

from helpers.training import EMA, TrainConfig, train
from helpers.training.checkpoint import load_checkpoint, save_checkpoint
from helpers.training.optimizers import Muon, hidden_weights, muon_update, orthogonalized, orthogonalized_by_gram

CONFIG = TrainConfig(steps=30, warmup=3, optimizer_name="muon", learning_rate=1e-2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.SiLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(96, 12),
        nn.SiLU(),
        nn.Linear(12, 1),
    )


def losses(model, generator):
    x = torch.randn(32, 16, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean(1), None


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (32, 32)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    before = torch.linalg.svdvals(matrix)
    after = torch.linalg.svdvals(orthogonalized(matrix))
    assert before.max() > 5 * before.min(), "else this test could not tell"
    assert 0.3 < after.min() and after.max() < 1.3
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.cosine_similarity(orthogonalized(matrix).flatten(), (U @ Vh).flatten(), dim=0) > 0.95


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (32, 32), (16, 1152)])
def test_both_ways_to_orthogonalize_agree(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -3, shape[1]))
    torch.testing.assert_close(orthogonalized_by_gram(matrix), orthogonalized(matrix), atol=1e-3, rtol=0)
    assert (orthogonalized_by_gram(torch.zeros(shape)) == 0).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_matrices_move_as_by_pytorchs_muon():
    """PyTorch computes the iteration in bfloat16, hence the tolerance."""
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    mine = Muon([{"params": [ours], "muon": True, "weight_decay": 0.1}], lr=0.01)
    peer = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        ours.grad = torch.randn(24, 40)
        theirs.grad = ours.grad.clone()
        mine.step()
        peer.step()
    torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=0)
    assert (ours - 1).abs().max() > 0.02, "else this test could not tell"


def test_the_other_parameters_move_as_by_pytorchs_adamw():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    mine = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01, betas=(0.9, 0.99))
    peer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, betas=(0.9, 0.99))
    for _ in range(5):
        ours.grad = torch.randn(24, 40)
        theirs.grad = ours.grad.clone()
        mine.step()
        peer.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_a_convolution_is_a_matrix_of_output_channels_by_all_it_multiplies():
    torch.manual_seed(0)
    gradient = torch.randn(8, 5, 3, 3)
    group = {"momentum": 0.95}
    as_kernel = muon_update(gradient, {}, group)
    as_matrix = muon_update(gradient.reshape(8, 45), {}, group)
    torch.testing.assert_close(as_kernel.reshape(8, 45), as_matrix)


def test_steps_are_as_long_as_those_of_adamw():
    """Root mean square 0.2, AdamW's usual one, whatever the shape: so the learning rate keeps its meaning."""
    torch.manual_seed(0)
    for shape in [(16, 16), (64, 16), (16, 8, 3, 3)]:
        update = muon_update(torch.randn(shape), {}, {"momentum": 0.95})
        assert update.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.2)


def test_hidden_layers_get_muon_and_everything_else_adamw():
    from helpers.tiny_sd.unet import TinyUNet, UNetConfig

    unet = TinyUNet(UNetConfig(widths=(8, 16), attention=(False, True), head_width=8, vocab_size=9))
    names = {id(weight): name for name, weight in unet.named_parameters()}
    muon = {names[id(weight)] for weight in hidden_weights(unet)}
    assert {"down.0.residual.0.conv_1.weight", "middle.transformer.0.mlp.0.weight", "downsample.0.weight"} <= muon
    assert not muon & {"stem.weight", "head.weight", "classes.weight", "text.token_embedding.weight", "text.positions"}
    assert not [name for name in muon if name.endswith("bias") or "norm" in name]
    groups = CONFIG.optimizer(unet).param_groups
    assert {names[id(p)] for p in groups[-1]["params"]} == muon and groups[-1]["muon"]
    assert not any(group["muon"] for group in groups[:-1])
    assert sum(len(group["params"]) for group in groups) == len(names), "each parameter in one group"
    undecayed = [group["params"] for group in groups if not group["weight_decay"]]
    assert len(undecayed) == 1 and all(p.ndim == 1 for p in undecayed[0])


def test_it_learns():
    states = list(train(network(), losses, TrainConfig(steps=150, warmup=5, learning_rate=2e-2, optimizer_name="muon")))
    assert states[-1].loss < 0.2 * states[0].loss


def test_adamw_is_what_nobody_has_to_ask_for():
    assert type(TrainConfig().optimizer(network())) is torch.optim.AdamW
    with pytest.raises(ValueError, match="choose one of adamw, muon"):
        TrainConfig(optimizer_name="sgd")


def test_stopping_and_going_on_changes_no_number(tmp_path):
    whole = network()
    ema = EMA(network())
    list(train(whole, losses, CONFIG, ema=ema))
    model = network()
    ema = EMA(network())
    optimizer = CONFIG.optimizer(model)
    for state in train(model, losses, CONFIG, optimizer=optimizer, ema=ema):
        if state.step == 11:
            break
    save_checkpoint(tmp_path / "c.safetensors", 11, model, ema.module, optimizer, {})
    fresh = nn.Sequential(*network())
    average = EMA(network())
    optimizer = CONFIG.optimizer(fresh)
    load_checkpoint(tmp_path / "c.safetensors", fresh, average.module, optimizer)
    list(train(fresh, losses, CONFIG, optimizer=optimizer, ema=average, first_step=11))
    assert same(whole, fresh)


def test_matrix_products_are_in_bf16_where_the_training_is(monkeypatch):
    seen = []

    def watching(matrix):
        seen.append((matrix @ matrix.T).dtype)
        return matrix

    for name in ("orthogonalized", "orthogonalized_by_gram"):
        monkeypatch.setattr(f"helpers.training.optimizers.{name}", watching)
    for bf16 in (False, True):
        model = nn.Linear(4, 3)
        easy = lambda m, g: (m(torch.ones(2, 4)).square().mean(1), None)  # noqa: E731
        list(train(model, easy, TrainConfig(steps=1, optimizer_name="muon"), bf16=bf16))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert seen == [torch.float32, torch.bfloat16]
