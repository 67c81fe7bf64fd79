"""Training in float16 with a scaled loss: small gradients survive, overflows are skipped, resuming changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.training import TrainConfig, train
from helpers.training.loss_scaling import LARGEST, PATIENCE, LossScale

CONFIG = TrainConfig(steps=150, warmup=0, learning_rate=0.1, weight_decay=0.0)


def regression(size: float = 1.0):
    """A linear regression whose losses are `size` times as large."""

    def losses(model, generator):
        x = torch.randn(32, 4, generator=generator)
        wanted = x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        return size * (model(x)[:, 0].float() - wanted).square(), None

    return losses


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def test_it_trains_as_well_as_float32() -> None:
    ends = []
    for scale in (None, LossScale()):
        model = linear()
        *_, last = train(model, regression(), CONFIG, loss_scale=scale)
        ends.append((last.loss, model.weight.detach().clone()))
    assert ends[1][0] == pytest.approx(ends[0][0], abs=0.01)
    torch.testing.assert_close(ends[1][1], ends[0][1], atol=0.01, rtol=0.01)


def test_gradients_below_the_smallest_float16_survive() -> None:
    """At a size of 1e-9 the gradient of the prediction, in float16, is 0."""
    moved = []
    for scale in (1.0, LARGEST):
        model = linear()
        before = model.weight.detach().clone()
        list(train(model, regression(1e-9), CONFIG, loss_scale=LossScale(scale)))
        moved.append((model.weight - before).abs().max().item())
    assert moved[0] == 0 and moved[1] > 0.5


def test_an_overflow_halves_the_scale_and_skips_the_update() -> None:
    model = linear()
    scale = LossScale(2.0**24)
    before = model.weight.detach().clone()
    states = train(model, regression(), CONFIG, loss_scale=scale)
    first = next(states)
    assert (first.step, first.gradient_norm) == (1, 0.0) and torch.equal(model.weight, before)
    assert scale.value == 2.0**23
    *_, last = states
    assert last.step == CONFIG.steps and last.loss < 0.1 and scale.value < 2.0**20


def test_the_scale_grows_after_a_while() -> None:
    scale = LossScale(4.0)
    for _ in range(PATIENCE):
        scale.updated()
    assert (scale.value, scale.steps) == (8.0, 0)
    scale.updated()
    scale.skipped(1)
    assert (scale.value, scale.steps) == (4.0, 0)


def test_what_no_scale_can_help_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="at step 7 the gradients overflow float16 without any loss scaling"):
        LossScale(1.0).skipped(7)

    def too_large(model, generator):
        return model(torch.full((1, 4), 6e4))[:, 0] * 1e4, None

    with pytest.raises(FloatingPointError, match="at step 1 the loss is"):
        next(train(linear(), too_large, CONFIG, loss_scale=LossScale()))


def test_a_training_command_goes_on_with_its_scale(tmp_path: Path) -> None:
    from safetensors import safe_open

    from helpers.autoencoders.train import main

    common = (
        "--limit 8 --batch-size 2 --precision fp16 --sample-every 0 --validate-every 0 --schedule inverse-sqrt".split()
    )
    main([*common, "--steps", "1", "--out", str(tmp_path)])
    main([*common, "--steps", "2", "--out", str(tmp_path), "--resume"])
    with safe_open(tmp_path / "checkpoint.safetensors", "pt") as file:
        assert '"loss_scale": [65536.0, 2]' in file.metadata()["description"]
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata()["precision"] == "fp16"
