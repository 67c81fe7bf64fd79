"""Targets, their conversions, the loss weights and the schedules, against closed forms and simulation."""

import math

import pytest
import torch

from helpers.diffusion import (
    PREDICTION_TYPES,
    DDPMPath,
    FlowPath,
    Objective,
    convert_prediction,
    min_snr_weight,
    training_target,
)
from helpers.diffusion.schedules import expand

PATHS = [FlowPath(), FlowPath(3.0), DDPMPath.linear(), DDPMPath.cosine(), DDPMPath.sigmoid(), DDPMPath.scaled_linear()]


def batch(seed=0, n=16):
    generator = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, n, 3, 4, 4, generator=generator)
    return x0, eps, torch.linspace(0.05, 0.95, n)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("path", PATHS)
def test_a_perfect_prediction_converts_to_x0_and_eps(prediction_type, path):
    x0, eps, t = batch()
    alpha, sigma = path.alpha_sigma(t)
    x = path.add_noise(x0, eps, t)
    denoised = convert_prediction(
        prediction_type, training_target(prediction_type, x0, eps, alpha, sigma), x, alpha, sigma
    )
    torch.testing.assert_close(denoised.x0, x0, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(denoised.eps, eps, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("path", PATHS)
def test_every_conversion_satisfies_the_path(prediction_type, path):
    """Even a wrong prediction must convert to (x0, eps) with alpha x0 + sigma eps = x."""
    x, prediction, t = batch(1)
    alpha, sigma = path.alpha_sigma(t)
    denoised = convert_prediction(prediction_type, prediction, x, alpha, sigma)
    back = expand(alpha, x) * denoised.x0 + expand(sigma, x) * denoised.eps
    torch.testing.assert_close(back, x, atol=1e-3, rtol=1e-3)


def test_min_snr_weights_are_one_weight_in_four_spaces():
    """With these weights an error costs the same whichever target it is measured in."""
    x0, eps, t = batch()
    for path in (DDPMPath.cosine(), DDPMPath.linear()):
        alpha, sigma = path.alpha_sigma(t)
        x = path.add_noise(x0, eps, t)
        wrong = convert_prediction("x0", x0 + 0.1, x, alpha, sigma)
        costs = []
        for prediction_type in ("epsilon", "x0", "v"):
            error = training_target(prediction_type, *wrong, alpha, sigma) - training_target(
                prediction_type, x0, eps, alpha, sigma
            )
            costs.append(error.square().flatten(1).mean(1) * min_snr_weight(prediction_type, alpha, sigma))
        torch.testing.assert_close(costs[0], costs[1], rtol=2e-3, atol=1e-6)
        torch.testing.assert_close(costs[2], costs[1], rtol=2e-3, atol=1e-6)
    alpha, sigma = FlowPath().alpha_sigma(t)
    wrong = convert_prediction("x0", x0 + 0.1, FlowPath().add_noise(x0, eps, t), alpha, sigma)
    error = (
        (training_target("velocity", *wrong, alpha, sigma) - training_target("velocity", x0, eps, alpha, sigma))
        .square()
        .flatten(1)
    )
    torch.testing.assert_close(
        error.mean(1) * min_snr_weight("velocity", alpha, sigma),
        0.01 * min_snr_weight("x0", alpha, sigma),
        rtol=2e-3,
        atol=1e-6,
    )


def test_min_snr_against_the_paper():
    alpha = torch.tensor([0.995, 0.6])
    sigma = torch.tensor([0.1, 0.8])
    snr = (alpha / sigma) ** 2
    assert min_snr_weight("epsilon", alpha, sigma).tolist() == pytest.approx([5 / snr[0].item(), 1.0])
    expected = [5 / (snr[0] + 1).item(), (snr[1] / (snr[1] + 1)).item()]
    assert min_snr_weight("v", alpha, sigma).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("prediction", PREDICTION_TYPES)
@pytest.mark.parametrize("loss", PREDICTION_TYPES)
@pytest.mark.parametrize("path", [FlowPath(), DDPMPath.cosine()], ids=["flow", "cosine"])
def test_the_loss_of_a_perfect_prediction_is_zero(path, prediction, loss):
    x0, eps, t = batch()
    objective = Objective(path, prediction, loss)
    model_output = training_target(prediction, x0, eps, *path.alpha_sigma(t))
    assert objective.losses(model_output, x0, eps, t).max() < 1e-4


def test_x0_prediction_with_velocity_loss_equals_a_velocity_network():
    x0, eps, t = batch()
    path = FlowPath()
    model_output = x0 + 0.3 * eps.roll(1, 0)
    alpha, sigma = path.alpha_sigma(t)
    velocity = training_target(
        "velocity", *convert_prediction("x0", model_output, path.add_noise(x0, eps, t), alpha, sigma), alpha, sigma
    )
    direct = Objective(path, "velocity", "velocity").losses(velocity, x0, eps, t)
    read = Objective(path, "x0", "velocity").losses(model_output, x0, eps, t)
    torch.testing.assert_close(read, direct, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("path", [FlowPath(), DDPMPath.cosine()], ids=["flow", "cosine"])
def test_the_networks_input_can_be_passed_instead_of_computed(path, monkeypatch):
    x0, eps, t = batch()
    objective = Objective(path, "x0", "velocity")
    model_output = x0 + 0.3 * eps.roll(1, 0)
    x_t = path.add_noise(x0, eps, t)
    computed = objective.losses(model_output, x0, eps, t)
    monkeypatch.setattr(path, "add_noise", lambda *_: pytest.fail("x_t was computed a second time"))
    assert torch.equal(objective.losses(model_output, x0, eps, t, x_t), computed)


@pytest.mark.parametrize("make,last", [("linear", 4.04e-5), ("scaled_linear", 0.00466)])
def test_published_schedules(make, last):
    path = getattr(DDPMPath, make)()
    assert len(path) == 1000
    assert path.alphas_bar[-1].item() == pytest.approx(last, rel=0.01)
    torch.testing.assert_close(path.alphas_bar, torch.cumprod(1 - path.betas, 0))


def test_scaled_linear_has_stable_diffusions_noise_range():
    alpha, sigma = DDPMPath.scaled_linear().alpha_sigma(torch.tensor([0.001, 1.0]))
    assert (sigma / alpha).tolist() == pytest.approx([0.0292, 14.6146], rel=2e-3)


@pytest.mark.parametrize("path", PATHS)
def test_paths_go_from_data_to_noise(path):
    alpha, sigma = path.alpha_sigma(torch.linspace(0, 1, 101))
    assert alpha[0] == 1 and sigma[0] == 0
    assert (alpha.diff() < 0).all() and (sigma.diff() > 0).all()
    assert path.log_snr(torch.tensor([0.2, 0.8])).diff().item() < 0


def test_one_jump_equals_many_small_steps():
    """DDPM eq. 4 against eq. 2, by simulation."""
    path = DDPMPath.linear(100)
    x = torch.full((100_000,), 0.5)
    generator = torch.Generator().manual_seed(0)
    for beta in path.betas[:40].tolist():
        x = (1 - beta) ** 0.5 * x + beta**0.5 * torch.randn(len(x), generator=generator)
    alpha, sigma = path.alpha_sigma(0.4)
    assert x.mean().item() == pytest.approx(0.5 * alpha.item(), abs=0.01)
    assert x.std().item() == pytest.approx(sigma.item(), rel=0.01)


def test_training_times_follow_their_distribution():
    generator = torch.Generator().manual_seed(0)
    logit = torch.logit(Objective(FlowPath()).sample_times(50_000, generator))
    assert logit.mean().item() == pytest.approx(0, abs=0.02) and logit.std().item() == pytest.approx(1, abs=0.02)
    _, shifted = (path := FlowPath(3)).alpha_sigma(Objective(path).sample_times(50_000, generator))  # exercise 04.4
    assert torch.logit(shifted).mean().item() == pytest.approx(math.log(3), abs=0.02)
    uniform = Objective(FlowPath(), times="uniform").sample_times(50_000, generator)
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01) and 0 < uniform.min() and uniform.max() < 1


def test_bad_input_says_what_was_wrong():
    x0, eps, t = batch()
    with pytest.raises(ValueError, match="unknown prediction 'noise'.*epsilon"):
        training_target("noise", x0, eps, t, t)
    with pytest.raises(ValueError, match="betas"):
        DDPMPath(torch.tensor([0.1, 1.2]))
    with pytest.raises(ValueError, match="shift"):
        FlowPath(0)
    with pytest.raises(ValueError, match="unknown objective 'edm'.*flow"):
        Objective.named("edm")
    with pytest.raises(ValueError, match="only the objective 'flow' has a shift"):
        Objective.named("epsilon", shift=3)
