"""Pixels, perception and critic: what each of them moves, and when."""

import copy

import pytest
import torch
from torch import nn

from helpers.autoencoders.losses import ReconstructionLoss
from helpers.autoencoders.perceptual import VGG16, PerceptualDistance, load_perceptual, lpips, vgg_path


class Painter(nn.Module):
    """A decoder of one layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 3, 3, padding=1)


@pytest.fixture
def pictures():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _gradients(loss, pictures):
    """Of the decoder's last layer and of the critic, after one step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        painter = Painter()
        codes = torch.randn(4, 4, 32, 32)
    loss(pictures, painter.head(codes), painter.head.weight).mean().backward()
    discriminator = None if loss.discriminator is None else loss.discriminator[0].weight.grad
    return painter.head.weight.grad, discriminator


def test_errors_of_the_pixels(pictures):
    off = pictures + 0.1
    assert ReconstructionLoss("l1")(pictures, off, None).tolist() == pytest.approx([0.1] * 4)
    assert ReconstructionLoss("mse")(pictures, off, None).tolist() == pytest.approx([0.01] * 4, rel=1e-4)


def test_the_critic_waits_and_then_joins(pictures):
    plain, _ = _gradients(ReconstructionLoss("mse"), pictures)
    loss = ReconstructionLoss("mse", adversarial=0.5, start=2).train()
    for _ in range(2):
        before, discriminator = _gradients(loss, pictures)
        torch.testing.assert_close(before, plain)
        assert discriminator is None
    after, discriminator = _gradients(loss, pictures)
    assert not torch.allclose(after, plain) and discriminator.abs().sum() > 0


def test_neither_moves_the_other(pictures):
    """The critic learns from its own loss alone: with no say in the pictures it is moved just as much."""
    torch.manual_seed(0)
    loud = ReconstructionLoss("mse", adversarial=1.0).train()
    quiet = copy.deepcopy(loud)
    quiet.weights = (0.0, 0.0)
    (ours, discriminator), (plain, same_critic) = (_gradients(loss, pictures) for loss in (loud, quiet))
    torch.testing.assert_close(discriminator, same_critic)
    assert not torch.allclose(ours, plain)
    torch.testing.assert_close(plain, _gradients(ReconstructionLoss("mse"), pictures)[0])


def test_the_critics_pull_is_as_strong_as_its_weight_says(pictures):
    plain, _ = _gradients(ReconstructionLoss("mse"), pictures)
    torch.manual_seed(0)
    both, _ = _gradients(ReconstructionLoss("mse", adversarial=0.5).train(), pictures)
    assert ((both - plain).norm() / plain.norm()).item() == pytest.approx(0.5, rel=0.02)


def test_a_resumed_training_knows_whether_the_critic_has_joined(pictures):
    loss = ReconstructionLoss("mse", adversarial=0.5, start=1).train()
    _gradients(loss, pictures)
    again = ReconstructionLoss("mse", adversarial=0.5, start=1).train()
    again.load_state_dict(loss.state_dict())
    assert _gradients(again, pictures)[1] is not None


def test_settings_are_checked():
    with pytest.raises(ValueError, match="'l1' or 'mse', got 'l2'"):
        ReconstructionLoss("l2")
    with pytest.raises(ValueError, match="not negative"):
        ReconstructionLoss(perceptual=-1)


def test_the_stand_in_says_that_it_is_one(pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distance = load_perceptual()
    assert "stand-in" in distance.name and "not LPIPS" in distance.name
    assert distance(pictures, pictures).tolist() == [0] * 4
    near, far = (distance(pictures, pictures + off * torch.randn(pictures.shape)) for off in (0.05, 0.5))
    assert (near < far).all()
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert not distance.train().training


def test_perceptual_distance_reaches_the_pictures_and_is_not_saved(pictures):
    loss = ReconstructionLoss("mse", perceptual=1.0)
    plain, seen = (_gradients(one, pictures)[0] for one in (ReconstructionLoss("mse"), loss))
    assert not torch.allclose(plain, seen)
    assert set(loss.state_dict()) == {"steps"} and not list(loss.parameters())


@torch.no_grad()
def test_lpips_is_torchmetrics(pictures):
    """The same VGG16, with weights of no training: the published ones need a download, the formula does not."""
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    theirs = _LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()
    convolutions = [layer for layer in theirs.net.modules() if isinstance(layer, nn.Conv2d)]
    sees = VGG16()
    for ours, other in zip([x for x in sees.features if isinstance(x, nn.Conv2d)], convolutions, strict=True):
        ours.load_state_dict(other.state_dict())
    others = pictures.flip(-1)
    torch.testing.assert_close(lpips(sees)(pictures, others), theirs(pictures, others).flatten(), atol=1e-5, rtol=1e-4)


def test_features_of_length_one():
    """Twice as strong features are the same features."""

    class Sees(nn.Module):
        def forward(self, x):
            return [x]

    distance = PerceptualDistance(Sees(), None, "pixels")
    x = torch.rand(2, 3, 8, 8) + 0.1
    assert distance(x, 2 * x).abs().max() < 1e-6


def test_vgg_file_is_looked_for_where_torch_keeps_it():
    assert vgg_path().name.startswith("vgg16-") and vgg_path().parent.name == "checkpoints"
