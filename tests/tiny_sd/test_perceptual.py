"""The perceptual loss on the predicted image: its features, where it counts, and what it leaves alone."""

import copy
import json

import pytest
import torch

from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.load import load_autoencoder
from helpers.autoencoders.perceptual import EncoderFeatures
from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.perceptual import PerceptualLoss
from helpers.tiny_sd.train import main
from helpers.training import step_generator
from helpers.weights import read_metadata, read_tensors, write_tensors

TINY = [
    "--size",
    "16",
    "--limit",
    "60",
    "--widths",
    "8",
    "16",
    "--dropout",
    "0.1",
    "--batch-size",
    "8",
    "--log-every",
    "1",
    "--steps",
    "12",
    "--sample-every",
    "0",
    "--checkpoint-every",
    "5",
    "--precision",
    "fp32",  # "auto" measures, and so small a network is as fast in either
]


@pytest.fixture
def encoder() -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder(TinyConfig(latent_channels=4, width=8, blocks=(1, 1, 1)))


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(4, 3, 16, 16) * 2 - 1


def test_features_after_each_resolution_of_the_small_autoencoder(encoder, images):
    features = EncoderFeatures(encoder)(images)
    assert [tuple(feature.shape) for feature in features] == [(4, 8, 16, 16), (4, 8, 8, 8), (4, 8, 4, 4)]
    torch.testing.assert_close(encoder.encoder[-1](features[-1]), encoder.to_latents(images))


def test_features_after_each_resolution_of_the_large_one(images):
    torch.manual_seed(0)
    model = KLAutoencoder(KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, patch=2)).eval()
    features = EncoderFeatures(model)(images)
    assert [tuple(feature.shape) for feature in features] == [(4, 8, 8, 8), (4, 16, 4, 4)]
    rest = model.encoder.head(torch.nn.functional.silu(model.encoder.norm(model.encoder.middle(features[-1]))))
    torch.testing.assert_close(rest, model.encoder(images))


@pytest.mark.parametrize("name", ["general_autoencoder", "vq"])
def test_shipped_autoencoders_can_be_used(name, images):
    features = EncoderFeatures(load_autoencoder(name))(images)
    assert len({feature.shape for feature in features}) == len(features) >= 1


def test_it_is_zero_for_the_truth_and_proportional_to_its_weight(encoder, images):
    t = torch.full((4,), 0.5)
    other = images.flip(0)
    assert torch.equal(PerceptualLoss(encoder, 1.0)(images, images, t), torch.zeros(4))
    once, twice = (PerceptualLoss(encoder, weight)(other, images, t) for weight in (0.1, 0.2))
    assert (once > 1e-3).all()
    torch.testing.assert_close(2 * once, twice)


def test_above_the_time_it_neither_counts_nor_computes(encoder, images):
    loss = PerceptualLoss(encoder, 1.0, until=0.5)
    t = torch.tensor([0.1, 0.9, 0.5, 0.6])
    counted = []
    loss.distance.backbone.register_forward_hook(lambda module, inputs, output: counted.append(len(inputs[0])))
    values = loss(images.flip(0), images, t)
    assert (values > 0).tolist() == [True, False, True, False] and counted == [2, 2]
    torch.testing.assert_close(values[::2], PerceptualLoss(encoder, 1.0)(images.flip(0), images, t)[::2])
    assert torch.equal(loss(images.flip(0), images, torch.ones(4)), torch.zeros(4)) and counted == [2, 2]


def test_a_crop_is_compared_at_one_place_in_both_images(encoder, images):
    loss = PerceptualLoss(encoder, 1.0, crop=8)
    t = torch.zeros(4)
    seen = []
    loss.distance.backbone.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    torch.manual_seed(3)
    value = loss(images.flip(0), images, t)
    assert seen[0].shape == (4, 3, 8, 8) and torch.equal(seen[0].flip(0), seen[1]) and (value > 0).all()
    torch.manual_seed(3)
    assert torch.equal(loss(images.flip(0), images, t), value)
    torch.manual_seed(4)
    assert not torch.equal(loss(images.flip(0), images, t), value), "another step, another place"


@pytest.mark.parametrize("objective", ["flow", "epsilon"])
def test_the_gradient_reaches_the_network_and_not_the_encoder(encoder, faces, model, objective):
    system = TinySD(model.unet.config, objective, faces.class_names, 16, model.codec)
    system.load_state_dict(model.state_dict())
    system.eval()
    plain, details = Batches(faces, 8).losses(system, step_generator(0, 0))
    system.perceptual = PerceptualLoss(encoder, 0.1, until=0.6)
    with_term, _ = Batches(faces, 8).losses(system, step_generator(0, 0))
    counted = details.times <= 0.6
    assert counted.any() and not counted.all()
    assert (with_term - plain)[counted].min() > 1e-4 and torch.equal(with_term[~counted], plain[~counted])
    (with_term - plain).sum().backward()
    assert system.unet.head.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in encoder.parameters())


def test_it_is_no_part_of_the_network(encoder, model):
    names = set(model.state_dict())
    model.perceptual = PerceptualLoss(encoder, 0.1)
    assert set(model.state_dict()) == names
    assert copy.deepcopy(model).perceptual is model.perceptual, "the average shares it"


@pytest.mark.usefixtures("one_home")
def test_a_run_with_it_stops_and_goes_on(tmp_path):
    argv = [
        *TINY,
        "--perceptual",
        "0.1",
        "--perceptual-encoder",
        "general_autoencoder",
        "--perceptual-until",
        "0.7",
        "--perceptual-crop",
        "8",
    ]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    rows = (tmp_path / "log.jsonl").read_text().splitlines()
    (tmp_path / "checkpoint.previous.safetensors").replace(tmp_path / "checkpoint.safetensors")  # of step 10
    assert main([*argv, "--out", str(tmp_path), "--resume"]) == 0
    losses = [[json.loads(row)["loss"] for row in some] for some in (rows, (tmp_path / "log.jsonl").open())]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert "--perceptual 0.1 --perceptual-encoder general_autoencoder --perceptual-until 0.7" in metadata["command"]
    with pytest.raises(SystemExit, match="--perceptual was 0.1, is 0.2"):
        main([*argv, "--perceptual", "0.2", "--out", str(tmp_path), "--resume"])


@pytest.mark.usefixtures("one_home")
def test_what_it_lacks_is_said_before_training(tmp_path):
    with pytest.raises(SystemExit, match="needs --perceptual-encoder"):
        main([*TINY, "--perceptual", "0.1", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="--method pixels only"):
        main([*TINY, "--method", "pretrained", "--perceptual", "0.1", "--out", str(tmp_path)])


@pytest.mark.usefixtures("one_home")
def test_an_older_checkpoint_goes_on_with_what_was_usual_then(tmp_path):
    """It does not know the options, and was trained with their defaults."""
    assert main([*TINY, "--out", str(tmp_path)]) == 0
    path = tmp_path / "checkpoint.safetensors"
    tensors, metadata = read_tensors(path)
    description = json.loads(metadata["description"])
    for name in ("optimizer", "augment", "perceptual", "perceptual_encoder", "perceptual_until", "perceptual_crop"):
        del description["settings"][name]
    about = {"step": metadata["step"], "description": json.dumps(description)}
    write_tensors(path, {name: tensor.contiguous() for name, tensor in tensors.items()}, about)
    assert main([*TINY, "--out", str(tmp_path), "--resume"]) == 0
    with pytest.raises(SystemExit, match="--optimizer was adamw, is muon"):
        main([*TINY, "--optimizer", "muon", "--out", str(tmp_path), "--resume"])
