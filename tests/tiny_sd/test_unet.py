"""The U-Net: shapes, what it listens to, and what it refuses."""

import pytest
import torch

from helpers.tiny_sd.unet import NO_CLASS, Level, TinyUNet, UNetConfig


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(3, 3, 16, 16), torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize("patch,widths", [(1, (8, 16)), (2, (8, 16)), (4, (8,)), (2, (8, 16, 24))])
def test_the_output_has_the_shape_of_the_input(patch, widths, inputs):
    attention = (False,) * (len(widths) - 1) + (True,)
    config = UNetConfig(patch=patch, widths=widths, attention=attention, head_width=8, blocks=2)
    assert TinyUNet(config)(*inputs).shape == inputs[0].shape


@pytest.mark.parametrize("patch,fine", [(4, 20), (4, 0), (2, 20)])
def test_an_untrained_network_predicts_zero(inputs, patch, fine):
    config = UNetConfig(widths=(8, 16), attention=(False, True), head_width=8, patch=patch, detail_channels=fine)
    assert (TinyUNet(config)(*inputs) == 0).all()


def test_time_class_and_caption_each_change_the_output(model, inputs):
    unet = model.unet.eval()
    (x, t) = inputs
    captions = torch.zeros(3, 18, dtype=torch.long)
    labels = torch.tensor([0, 1, 2])
    other_captions = captions.clone()
    other_captions[:, 0] = 5
    with torch.no_grad():
        plain = unet(x, t, labels, captions)
        inputs_changed = [(1 - t / 2, labels, captions), (t, labels.flip(0), captions), (t, labels, other_captions)]
        others = [unet(x, *changed) for changed in inputs_changed]
    assert all((other - plain).abs().max() > 1e-3 for other in others)


def test_no_condition_is_any_class_and_an_empty_caption(model, inputs):
    unet = model.unet.eval()
    with torch.no_grad():
        explicit = unet(*inputs, torch.full((3,), NO_CLASS), torch.zeros(3, 18, dtype=torch.long))
        torch.testing.assert_close(unet(*inputs), explicit)


def test_images_of_a_batch_do_not_meet(model, inputs):
    unet = model.unet.eval()
    with torch.no_grad():
        alone = unet(inputs[0][1:2], inputs[1][1:2])
        torch.testing.assert_close(unet(*inputs)[1:2], alone, atol=1e-5, rtol=1e-4)


def test_every_parameter_learns(model, inputs):
    """No dead weights: the predecessor's cross-attention over one token had 1.4 million of them."""
    captions = torch.randint(1, 30, (3, 18))
    model.unet.train()(*inputs, torch.tensor([0, 1, NO_CLASS]), captions).square().sum().backward()
    dead = [name for name, p in model.unet.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7]
    assert dead == []


def test_hooks_on_every_level_see_its_output(model, inputs):
    """A profiler, torchinfo and a reader's own hooks see what goes through Module.__call__ alone."""
    unet = model.unet
    shapes = {}

    def record(name):
        def hook(module, arguments, outputs):
            shapes[name] = tuple(outputs[-1].shape[1:])

        return hook

    levels = {name: module for name, module in unet.named_modules() if isinstance(module, Level)}
    for name, level in levels.items():
        level.register_forward_hook(record(name))
    with torch.no_grad():
        unet(*inputs)
    first = (8, 4, 4)
    second = (16, 2, 2)
    assert shapes == {"down.0": first, "down.1": second, "middle": second, "up.0": first, "up.1": second}


def test_an_augmentation_needs_an_input(model, inputs):
    with pytest.raises(ValueError, match="no input for an augmentation"):
        model.unet(*inputs, augmentation=torch.zeros(3, 6))


def test_bad_sizes_are_refused(inputs):
    unet = TinyUNet(UNetConfig(widths=(8, 16, 16), head_width=8, patch=4))
    with pytest.raises(ValueError, match="multiples of 16.*8, 8"):
        unet(torch.zeros(1, 3, 8, 8), torch.zeros(1))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        unet(torch.zeros(1, 4, 16, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="one attention flag per width"):
        UNetConfig(widths=(8, 16), attention=(True,))
    with pytest.raises(ValueError, match="patches of 6 pixels cannot be cut into patches of 4"):
        UNetConfig(patch=6, detail_patch=4)
