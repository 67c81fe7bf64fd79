"""The patch discriminator and its adaptive weight."""

import pytest
import torch

from helpers.autoencoders.adversarial import PatchDiscriminator, adaptive_weight, hinge


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_the_receptive_field_is_a_patch(layers, field):
    """The central logit depends on as many pixels per side as published, and on no more."""
    discriminator = PatchDiscriminator(8, layers).eval()
    x = torch.randn(1, 3, 128, 128, requires_grad=True)
    logits = discriminator(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert len(rows) == rows[-1] - rows[0] + 1 == field


def test_hinge_has_nothing_to_gain_beyond_one():
    assert hinge(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -9.0])) == 0
    assert hinge(torch.tensor([0.0]), torch.tensor([0.0])) == 1


def test_the_adaptive_weight_balances_the_gradients():
    weight = torch.randn(4, 4, requires_grad=True)
    error = (3 * weight).square().sum()
    adversarial = weight.sum()
    balance = adaptive_weight(error, adversarial, weight)
    assert (balance * 4).item() == pytest.approx((18 * weight).norm().item(), rel=1e-3)  # |grad of the sum| is 4
    assert adaptive_weight(error, 0 * weight.sum(), weight) == 1e4
    assert not balance.requires_grad


def test_no_layer_is_refused():
    with pytest.raises(ValueError, match="needs a layer or more, got 0"):
        PatchDiscriminator(layers=0)
