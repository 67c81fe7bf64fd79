"""Augmentation that does not leak: what it does to images, and that the network can tell."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.autoencoders.latents import Latents
from helpers.tiny_sd.augment import PARAMETERS, STANDARD_DEVIATIONS, apply_augmentation, sample_augmentation
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import main, parser
from helpers.tiny_sd.unet import TinyUNet, UNetConfig
from helpers.training import step_generator
from helpers.weights import read_metadata

NAMES = list(STANDARD_DEVIATIONS)


def only(**amounts: float) -> torch.Tensor:
    """(1, PARAMETERS) that change one thing by so much, in the units of STANDARD_DEVIATIONS' values."""
    parameters = torch.zeros(1, PARAMETERS)
    for name, amount in amounts.items():
        name = name.replace("_", " ")
        parameters[0, NAMES.index(name)] = amount / STANDARD_DEVIATIONS[name]
    return parameters


def spot(row: int, column: int, size: int = 32) -> torch.Tensor:
    """A bright square of 4x4 pixels on black, its upper left corner there."""
    image = torch.full((1, 3, size, size), -1.0)
    image[:, :, row : row + 4, column : column + 4] = 0.8
    return image


def centre(image: torch.Tensor) -> list[float]:
    weights = image[0, 0] + 1
    positions = torch.arange(image.shape[-1]) + 0.5
    return [(weights.sum(axis) @ positions / weights.sum()).item() for axis in (1, 0)]


def test_a_rotation_keeps_distances_where_height_and_width_differ():
    image = torch.full((1, 3, 32, 64), -1.0)
    image[:, :, 14:18, 42:46] = 0.8  # 12 pixels to the right of the centre
    turned = apply_augmentation(image, only(rotation=torch.pi / 2))[0, 0] + 1  # clockwise: now below it
    row = (turned.sum(1) @ (torch.arange(32) + 0.5) / turned.sum()).item()
    column = (turned.sum(0) @ (torch.arange(64) + 0.5) / turned.sum()).item()
    assert [row, column] == pytest.approx([28, 32], abs=0.1)


def test_parameters_of_zero_change_nothing():
    images = torch.rand(4, 3, 16, 16) * 2 - 1
    assert torch.equal(apply_augmentation(images, torch.zeros(4, PARAMETERS)), images)
    parameters = torch.zeros(4, PARAMETERS)
    parameters[1] = 1.0
    out = apply_augmentation(images, parameters)
    assert torch.equal(out[[0, 2, 3]], images[[0, 2, 3]]) and (out[1] - images[1]).abs().max() > 0.1


def test_shift_rotation_and_scale_move_as_they_say():
    assert centre(spot(10, 6)) == pytest.approx([12, 8], abs=1e-4)
    shifted = apply_augmentation(spot(10, 6), only(shift_right=0.125, shift_down=-0.1))
    assert centre(shifted) == pytest.approx([8.8, 12], abs=0.05)
    # clockwise by 90 degrees around the centre: left of the centre becomes above it
    assert centre(apply_augmentation(spot(14, 6), only(rotation=torch.pi / 2))) == pytest.approx([8, 16], abs=0.05)
    # twice as large around the centre: the distance from it doubles
    assert centre(apply_augmentation(spot(12, 11), only(scale=1.0))) == pytest.approx([12, 10], abs=0.05)


def test_contrast_and_brightness_change_colours_alone():
    image = torch.tensor([0.2, -0.4, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    out = apply_augmentation(image, only(contrast=1.0, brightness=0.1))
    torch.testing.assert_close(out[0, :, 3, 3], torch.tensor([0.5, -0.7, 0.1]))
    assert apply_augmentation(image, only(brightness=5.0)).max() == 1, (
        "what leaves the range would be refused as pixels"
    )


def test_each_is_chosen_with_the_probability_and_both_shifts_together():
    parameters = sample_augmentation(20_000, 0.15, step_generator(0, 0))
    chosen = parameters != 0
    assert chosen.float().mean(0).tolist() == pytest.approx([0.15] * PARAMETERS, abs=0.01)
    right = NAMES.index("shift right")
    down = NAMES.index("shift down")
    assert torch.equal(chosen[:, right], chosen[:, down])
    assert parameters[chosen].std().item() == pytest.approx(1, abs=0.02)


@pytest.fixture
def augmenting(model) -> TinySD:
    """The untrained model of the tests, with an input for the augmentation; all other weights are the same."""
    config = replace(model.unet.config, augmentation=PARAMETERS)
    other = TinySD(config, "flow", model.class_names, model.size, model.codec)
    missing = other.unet.load_state_dict(model.unet.state_dict(), strict=False).missing_keys
    assert missing == ["augmentation.weight"]
    return other


def test_the_network_can_tell_and_at_sampling_nothing_is_augmented(model, augmenting):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    t = torch.tensor([0.3, 0.6])
    with torch.no_grad():
        plain = model.unet.eval()(x, t)
        assert torch.equal(augmenting.unet.eval()(x, t), plain)
        assert torch.equal(augmenting.unet(x, t, augmentation=torch.zeros(2, PARAMETERS)), plain)
        assert (augmenting.unet(x, t, augmentation=torch.ones(2, PARAMETERS)) - plain).abs().max() > 1e-3


def test_training_shows_the_network_augmented_images_with_their_parameters(faces, augmenting, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        augmenting,
        "losses",
        lambda *a: (
            seen.update(zip(("latents", "eps", "t", "labels", "captions", "augmentation"), a, strict=True))
            or torch.zeros(8)
        ),
    )
    Batches(faces, 8, augment=0.5).losses(augmenting, step_generator(0, 0))
    augmentation = seen["augmentation"]
    assert augmentation.shape == (8, PARAMETERS) and augmentation.any() and not augmentation.all()
    batches = Batches(faces, 8)
    batches.losses(augmenting, step_generator(0, 0))
    assert seen["augmentation"] is None
    generator = step_generator(0, 0)
    indices = batches.sample_indices(generator)
    batches.sample_conditions(indices, generator)
    mirrored = torch.rand(8, generator=generator) < 0.5
    torch.testing.assert_close(seen["latents"], batches.latents_of(augmenting, indices, mirrored, torch.device("cpu")))


def test_shares_of_an_augmented_batch_are_the_batch(faces, augmenting):
    augmenting.eval()
    whole, _ = Batches(faces, 8, augment=0.5).losses(augmenting, step_generator(0, 3))
    halves = []
    for i in range(2):
        process = SimpleNamespace(process_index=i, num_processes=2)
        batches = Batches(faces, 8, augment=0.5, accelerator=process)
        halves.append(batches.losses(augmenting, step_generator(0, 3))[0])
    torch.testing.assert_close(torch.stack(halves, dim=1).flatten(), whole, atol=1e-5, rtol=1e-4)


def test_latents_cannot_be_augmented(faces, tmp_path):
    values = np.zeros((len(faces), 2, 4, 2, 2), np.float16)
    with pytest.raises(ValueError, match="cannot be augmented"):
        Batches(faces, 8, augment=0.1, latents=Latents(values, torch.zeros(4), torch.ones(4), 0.0))
    with pytest.raises(SystemExit, match="--method pixels only"):
        main(["--method", "pretrained", "--augment", "0.1", "--out", str(tmp_path)])


def test_off_is_what_older_files_describe(model):
    """Files and checkpoints from before the option have no such field, and stay loadable."""
    assert parser().parse_args([]).augment == 0 and TinyUNet(UNetConfig()).augmentation is None
    assert "augmentation" not in model.describe()["config"] and "augmentation" in asdict(model.unet.config)
    assert TinySD.from_description(model.describe()).unet.config == model.unet.config


@pytest.mark.usefixtures("one_home")
def test_a_run_with_augmentation_samples_afterwards(tmp_path):
    argv = [
        "--size",
        "16",
        "--limit",
        "60",
        "--widths",
        "8",
        "16",
        "--batch-size",
        "8",
        "--steps",
        "6",
        "--sample-every",
        "0",
        "--augment",
        "0.3",
    ]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    model = TinySD.from_weights(tmp_path / "weights.safetensors")
    assert model.unet.config.augmentation == PARAMETERS == model.describe()["config"]["augmentation"]
    assert model.generate(["cat"], steps=2).shape == (1, 3, 16, 16)
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert "--augment 0.3" in metadata["command"] and json.loads(metadata["model"])["config"]["augmentation"] == 6
