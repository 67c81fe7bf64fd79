"""The loop, the average and the checkpoints, on a network of a few numbers."""

import itertools
import warnings

import pytest
import torch
from torch import nn

from helpers.training import EMA, TrainConfig, step_generator, train
from helpers.training.checkpoint import load_checkpoint, previous, save_checkpoint


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.SiLU(), nn.Linear(16, 1))


def losses(model, generator):
    x = torch.randn(32, 4, generator=generator)
    return (model(x) - x.sum(1, keepdim=True)).square().mean(1), x


CONFIG = TrainConfig(steps=40, warmup=5)


def weights(module: nn.Module) -> list:
    return [p.detach().clone() for p in module.parameters()]


def same(a: list, b: list) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_learns_and_yields_every_step():
    states = list(train(network(), losses, TrainConfig(steps=300, warmup=10)))
    assert [state.step for state in states] == list(range(1, 301))
    assert states[-1].loss < 0.5 * states[0].loss


def test_every_step_runs_in_train_mode_whatever_happens_in_between():
    """The predecessor sampled once, which called eval(), and trained on without dropout."""
    model = network()
    seen = []

    def watching(model, generator):
        seen.append(model.training)
        return losses(model, generator)

    for _ in train(model, watching, TrainConfig(steps=3)):
        model.eval()
    assert seen == [True, True, True]


def test_dropout_and_the_callers_random_numbers_do_not_meet():
    a = network()
    b = network()
    list(train(a, losses, CONFIG))
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    list(train(b, losses, CONFIG))
    assert same(weights(a), weights(b)), "the numbers depend on (seed, step) alone"
    assert torch.equal(before, torch.random.get_rng_state()), "training leaves the caller's generator alone"


@pytest.mark.parametrize("stop", [1, 17, 39])
def test_resuming_gives_the_numbers_of_an_uninterrupted_run(tmp_path, stop):
    whole = network()
    whole_ema = EMA(network(), CONFIG.ema_decay)
    list(train(whole, losses, CONFIG, ema=whole_ema))
    model = network()
    ema = EMA(network(), CONFIG.ema_decay)
    optimizer = CONFIG.optimizer(model)
    for state in train(model, losses, CONFIG, optimizer=optimizer, ema=ema):
        if state.step == stop:
            break
    save_checkpoint(tmp_path / "c.safetensors", stop, model, ema.module, optimizer, {"a": 1})
    fresh = nn.Sequential(*network())
    fresh_ema = EMA(network(), CONFIG.ema_decay)
    optimizer = CONFIG.optimizer(fresh)
    checkpoint = load_checkpoint(tmp_path / "c.safetensors", fresh, fresh_ema.module, optimizer)
    assert checkpoint.step == stop and checkpoint.description == {"a": 1}
    list(train(fresh, losses, CONFIG, optimizer=optimizer, ema=fresh_ema, first_step=checkpoint.step))
    assert same(weights(whole), weights(fresh)) and same(weights(whole_ema.module), weights(fresh_ema.module))


def test_a_loss_that_is_not_a_number_stops_the_training_and_changes_nothing():
    model = network()
    kept = []

    def spoiled(model, generator):
        values, details = losses(model, generator)
        return (values * float("nan") if len(kept) == 3 else values), details

    with pytest.raises(FloatingPointError, match="at step 4 the loss is nan"):
        for _ in train(model, spoiled, TrainConfig(steps=9)):
            kept.append(weights(model))
    assert len(kept) == 3 and same(kept[-1], weights(model))


def test_an_infinite_gradient_of_a_finite_loss_does_the_same():
    """Clipping would turn it into NaN, and every weight with it; the loss would tell one step too late."""
    model = nn.Linear(1, 1)
    steep = lambda m, g: (m(torch.zeros(4, 1)).square().flatten().sqrt() + 1, None)  # noqa: E731
    nn.init.zeros_(model.bias)
    before = weights(model)
    with pytest.raises(FloatingPointError, match="at step 1 the loss is 1.0 and its gradient nan"):
        list(train(model, steep, TrainConfig(steps=1)))
    assert same(before, weights(model)) and model.bias.grad is None


def test_gradients_are_clipped():
    model = nn.Linear(1, 1)
    huge = lambda m, g: (1e6 * m(torch.ones(4, 1)).square().flatten(), None)  # noqa: E731
    config = TrainConfig(steps=1, max_grad_norm=0.5, warmup=0, learning_rate=1.0)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    before = weights(model)
    list(train(model, huge, config, optimizer=optimizer))
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, weights(model), strict=True)]).norm()
    assert moved.item() == pytest.approx(0.5, rel=1e-3)


def test_learning_rate_warms_up_and_falls_to_zero():
    config = TrainConfig(steps=100, warmup=10, learning_rate=2.0)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0) and rates[100] == pytest.approx(0, abs=1e-12)


def test_neighbouring_steps_and_seeds_have_nothing_in_common():
    pairs = itertools.product(range(3), range(5))
    draws = [torch.randn(1000, generator=step_generator(seed, step)) for seed, step in pairs]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(15)
    assert correlations.abs().max() < 0.15


def test_ema_ramps_up_then_follows_its_decay():
    model = nn.Linear(1, 1, bias=False)
    ema = EMA(model, 0.9)
    nn.init.constant_(ema.module.weight, 0.0)
    nn.init.constant_(model.weight, 1.0)
    ema.update(model, 1)
    assert ema.module.weight.item() == pytest.approx(1 - 2 / 11)
    nn.init.constant_(ema.module.weight, 0.0)
    ema.update(model, 10_000)
    assert ema.module.weight.item() == pytest.approx(0.1, abs=1e-6)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EMA(model, 1.0)


def test_no_weight_decay_on_biases():
    groups = CONFIG.optimizer(network()).param_groups
    assert groups[0]["weight_decay"] > 0 == groups[1]["weight_decay"]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])


def saved_twice(folder):
    model = network()
    path = folder / "c.safetensors"
    ema = EMA(model)
    optimizer = CONFIG.optimizer(model)
    for state in train(model, losses, TrainConfig(steps=2), optimizer=optimizer, ema=ema):
        save_checkpoint(path, state.step, model, ema.module, optimizer, {})
    return path, model, ema, optimizer


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_is_never_loaded_and_the_one_before_it_is(tmp_path, damage):
    path, model, ema, optimizer = saved_twice(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[-9] ^= 1
        path.write_bytes(data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_checkpoint(path, model, ema.module, optimizer).step == 1
    assert damage == "gone" or "damaged checkpoint" in str(caught[0].message)


def test_no_good_checkpoint_is_an_error_and_none_at_all_is_not(tmp_path):
    path, model, ema, optimizer = saved_twice(tmp_path)
    path.write_bytes(b"")
    previous(path).write_bytes(b"nonsense")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="without --resume"):
        load_checkpoint(path, model, ema.module, optimizer)
    assert load_checkpoint(tmp_path / "other.safetensors", model, ema.module, optimizer) is None


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path, _, _, _ = saved_twice(tmp_path)
    other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="another network"):
        load_checkpoint(path, other, EMA(other).module, CONFIG.optimizer(other))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        TrainConfig(steps=0)


def test_inverse_sqrt_knows_no_last_step():
    short, long = (TrainConfig(steps=steps, warmup=10, schedule="inverse-sqrt", decay_from=100) for steps in (50, 5000))
    assert [short.learning_rate_at(step) for step in range(50)] == [long.learning_rate_at(step) for step in range(50)]
    assert long.learning_rate_at(10) == long.learning_rate_at(100) == long.learning_rate
    assert long.learning_rate_at(400) == pytest.approx(long.learning_rate / 2) and long.learning_rate_at(4999) > 0


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="inverse-sqrt"):
        TrainConfig(schedule="linear")
