"""Pixel, perceptual and adversarial loss: which parameters get gradients from each, and when."""

import argparse
import copy

import pytest
import torch
from torch import nn

from helpers.autoencoders.load import load_autoencoder
from helpers.autoencoders.losses import ReconstructionLoss, add_loss_arguments, reconstruction_loss
from helpers.autoencoders.perceptual import (
    VGG16,
    PerceptualDistance,
    encoder_distance,
    load_perceptual,
    lpips,
    vgg_path,
)


class Painter(nn.Module):
    """A decoder of one layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(4, 3, 3, padding=1)


@pytest.fixture
def images():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _gradients(loss, images):
    """Gradients of the decoder's last layer and of the discriminator, after one step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        painter = Painter()
        codes = torch.randn(4, 4, 32, 32)
    loss(images, painter.head(codes), painter.head.weight).mean().backward()
    discriminator = None if loss.discriminator is None else loss.discriminator[0].weight.grad
    return painter.head.weight.grad, discriminator


def test_errors_of_the_pixels(images):
    off = images + 0.1
    assert ReconstructionLoss("l1")(images, off, None).tolist() == pytest.approx([0.1] * 4)
    assert ReconstructionLoss("mse")(images, off, None).tolist() == pytest.approx([0.01] * 4, rel=1e-4)


def test_the_discriminator_starts_when_it_should(images):
    plain, _ = _gradients(ReconstructionLoss("mse"), images)
    loss = ReconstructionLoss("mse", adversarial=0.5, discriminator_start=2).train()
    for _ in range(2):
        before, discriminator = _gradients(loss, images)
        torch.testing.assert_close(before, plain)
        assert discriminator is None
    after, discriminator = _gradients(loss, images)
    assert not torch.allclose(after, plain) and discriminator.abs().sum() > 0


def test_autoencoder_and_discriminator_get_no_gradient_from_each_other(images):
    """The discriminator learns from its own loss alone: without adversarial weight its gradient is the same."""
    torch.manual_seed(0)
    with_weight = ReconstructionLoss("mse", adversarial=1.0).train()
    without_weight = copy.deepcopy(with_weight)
    without_weight.adversarial_weight = 0.0
    (ours, discriminator), (plain, same_discriminator) = (
        _gradients(loss, images) for loss in (with_weight, without_weight)
    )
    torch.testing.assert_close(discriminator, same_discriminator)
    assert not torch.allclose(ours, plain)
    torch.testing.assert_close(plain, _gradients(ReconstructionLoss("mse"), images)[0])


def test_the_adversarial_gradient_is_as_strong_as_its_weight(images):
    plain, _ = _gradients(ReconstructionLoss("mse"), images)
    torch.manual_seed(0)
    both, _ = _gradients(ReconstructionLoss("mse", adversarial=0.5).train(), images)
    assert ((both - plain).norm() / plain.norm()).item() == pytest.approx(0.5, rel=0.02)


def test_a_resumed_training_knows_whether_the_discriminator_has_started(images):
    loss = ReconstructionLoss("mse", adversarial=0.5, discriminator_start=1).train()
    _gradients(loss, images)
    resumed = ReconstructionLoss("mse", adversarial=0.5, discriminator_start=1).train()
    resumed.load_state_dict(loss.state_dict())
    assert _gradients(resumed, images)[1] is not None


def test_settings_are_checked():
    with pytest.raises(ValueError, match="'l1' or 'mse', got 'l2'"):
        ReconstructionLoss("l2")
    with pytest.raises(ValueError, match="must not be negative"):
        ReconstructionLoss(perceptual=-1)


def test_the_substitute_is_named_as_one(images, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distance = load_perceptual()
    assert "substitute" in distance.name and "not LPIPS" in distance.name
    assert distance(images, images).tolist() == [0] * 4
    near, far = (distance(images, images + off * torch.randn(images.shape)) for off in (0.05, 0.5))
    assert (near < far).all()
    assert not any(parameter.requires_grad for parameter in distance.parameters())
    assert not distance.train().training


def test_a_vgg_in_the_cache_changes_nothing_unless_lpips_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("COURSE_LPIPS", raising=False)
    vgg_path().parent.mkdir(parents=True)
    vgg_path().write_bytes(b"would be read")
    assert load_perceptual().weights is None
    monkeypatch.setenv("COURSE_LPIPS", "no")
    assert load_perceptual().weights is None


def test_lpips_that_is_asked_for_says_what_it_needs(monkeypatch, tmp_path):
    from torchvision.models import VGG16_Weights

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", no_network)
    monkeypatch.setenv("COURSE_LPIPS", "yes")
    with pytest.raises(FileNotFoundError, match="LPIPS needs VGG16's weights .528 MB. at .*COURSE_LPIPS=yes"):
        load_perceptual()
    monkeypatch.setattr(VGG16_Weights, "get_state_dict", lambda *_, **__: VGG16().state_dict())
    assert load_perceptual().name == "LPIPS, VGG16"
    monkeypatch.setenv("COURSE_LPIPS", "maybe")
    with pytest.raises(ValueError, match="COURSE_LPIPS is yes or no, got 'maybe'"):
        load_perceptual()


def test_perceptual_distance_reaches_the_images_and_is_not_saved(images):
    loss = ReconstructionLoss("mse", perceptual=1.0)
    plain = _gradients(ReconstructionLoss("mse"), images)[0]
    assert not torch.allclose(plain, _gradients(loss, images)[0])
    assert set(loss.state_dict()) == {"steps"} and not list(loss.parameters())


@torch.no_grad()
def test_lpips_is_torchmetrics(images):
    """The same VGG16, with weights of no training: the published ones need a download, the formula does not."""
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    theirs = _LPIPS(pretrained=True, net="vgg", pnet_rand=True).eval()
    convolutions = [layer for layer in theirs.net.modules() if isinstance(layer, nn.Conv2d)]
    sees = VGG16()
    for ours, other in zip([x for x in sees.features if isinstance(x, nn.Conv2d)], convolutions, strict=True):
        ours.load_state_dict(other.state_dict())
    others = images.flip(-1)
    torch.testing.assert_close(lpips(sees)(images, others), theirs(images, others).flatten(), atol=1e-5, rtol=1e-4)


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


def test_an_autoencoders_encoder_compares_images_instead(images):
    options = argparse.ArgumentParser()
    add_loss_arguments(options, pixel_loss="l1")
    chosen = options.parse_args(["--perceptual", "0.5", "--perceptual-encoder", "distilled_autoencoder"])
    loss = reconstruction_loss(chosen)
    assert loss.perceptual_name == "an autoencoder's encoder"
    off = images.flip(-1)
    expected = (off - images).abs().flatten(1).mean(1) + 0.5 * encoder_distance(
        load_autoencoder("distilled_autoencoder")
    )(images, off)
    torch.testing.assert_close(loss(images, off, None), expected)
    with pytest.raises(SystemExit, match="needs --perceptual"):
        reconstruction_loss(options.parse_args(["--perceptual-encoder", "distilled_autoencoder"]))
