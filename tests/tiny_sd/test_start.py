"""Fine-tuning: a training that starts from trained weights, with `--start`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.data import Faces
from helpers.tiny_sd.augment import PARAMETERS
from helpers.tiny_sd.codecs import PixelCodec, PretrainedCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.start import copy_network
from helpers.tiny_sd.train import main, new_model, parse_options
from helpers.weights import read_metadata, read_tensors
from tests.tiny_sd.conftest import SMALL

COMMON = "--limit 30 --batch-size 8 --log-every 1 --sample-every 0 --precision fp32".split()
LICENCE = "non-commercial use only"

pytestmark = pytest.mark.usefixtures("one_home")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The weights of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    network = "--size 16 --widths 8 16 --shift 2".split()
    assert main([*COMMON, *network, "--steps", "40", "--out", str(folder)]) == 0
    return folder / "weights.safetensors"


@pytest.fixture(scope="module")
def autoencoders() -> list[KLAutoencoder]:
    """Two that differ in their weights alone."""
    torch.manual_seed(0)
    config = KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, latent_channels=6, patch=4)
    return [KLAutoencoder(config) for _ in range(2)]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_command_takes_the_network_from_the_weights_and_goes_on_from_them(trained, tmp_path):
    for name, options in (("tuned", ["--start", str(trained)]), ("new", "--size 16 --widths 8 16 --shift 2".split())):
        assert main([*COMMON, *options, "--seed", "1", "--steps", "2", "--out", str(tmp_path / name)]) == 0
    assert losses(tmp_path / "tuned")[0] < 0.9 * losses(tmp_path / "new")[0], "the very first step knows something"
    metadata = read_metadata(tmp_path / "tuned" / "weights.safetensors")
    assert metadata["start_sha256"] == read_metadata(trained)["sha256"]
    assert "--start weights.safetensors" in metadata["command"] and "--widths 8 16" in metadata["command"]
    assert TinySD.from_weights(tmp_path / "tuned" / "weights.safetensors").shift == 2


def test_it_can_be_interrupted_and_resumed(trained, tmp_path):
    start = [*COMMON, "--start", str(trained), "--schedule", "inverse-sqrt"]
    assert main([*start, "--steps", "4", "--out", str(tmp_path / "whole")]) == 0
    assert main([*start, "--steps", "2", "--out", str(tmp_path / "run")]) == 0
    assert main([*start, "--steps", "4", "--resume", "--out", str(tmp_path / "run")]) == 0
    whole, resumed = (read_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_before_the_first_step_it_is_the_trained_network(trained, faces):
    options = parse_options([*COMMON, "--start", str(trained)])
    model = new_model(options, faces, PixelCodec())
    state = model.unet.state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in read_tensors(trained)[0].items())


def test_explicit_options_that_do_not_change_the_network_win(trained):
    options = parse_options([*COMMON, "--start", str(trained), "--shift", "1", "--size", "32", "--dropout", "0.2"])
    assert (options.shift, options.size, options.dropout, options.widths) == (1, 32, 0.2, [8, 16])


def test_classes_are_known_by_name_and_new_ones_begin_as_any_class(model):
    names = ("wild", "rabbit", "cat", "dog")
    config = replace(model.unet.config, classes=4)
    tuned = TinySD(config, "flow", names, 16, PixelCodec())
    copy_network(model, tuned)
    cat, dog, wild, any_class = model.unet.classes.weight
    expected = torch.stack([wild, any_class, cat, dog, any_class])
    torch.testing.assert_close(tuned.unet.classes.weight, expected, rtol=0, atol=0)


def test_an_input_for_augmentations_has_no_effect_at_first(model):
    augmented = TinySD(
        replace(model.unet.config, augmentation=PARAMETERS), "flow", ("cat", "dog", "wild"), 16, PixelCodec()
    )
    copy_network(model, augmented)
    x, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.8]), torch.tensor([0, 2])
    expected = model.eval().unet(x, t, labels)
    torch.testing.assert_close(augmented.eval().unet(x, t, labels, None, torch.ones(2, PARAMETERS)), expected)


def test_latents_keep_the_normalisation_that_the_network_knows(autoencoders):
    def system(autoencoder, mean):
        codec = PretrainedCodec(autoencoder, torch.full((6,), mean), torch.full((6,), 1 + mean))
        config = replace(new_config(), channels=6)
        return TinySD(config, "flow", ("cat", "dog", "wild"), 16, codec)

    start, tuned = system(autoencoders[0], 0.5), system(autoencoders[0], 0.0)
    copy_network(start, tuned)
    assert tuned.describe()["codec"]["mean"] == [0.5] * 6 and tuned.describe()["codec"]["std"] == [1.5] * 6
    with pytest.raises(ValueError, match="latents of the autoencoder .* mean something else"):
        copy_network(start, system(autoencoders[1], 0.0))


def new_config():
    from helpers.tiny_sd.unet import UNetConfig

    return UNetConfig(**SMALL | {"patch": 1, "detail_channels": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--widths 8 8", "was trained with --widths 8 16, not 8 8: leave --widths out"),
        ("--patch 2", "was trained with --patch 4, not 2"),
        ("--objective epsilon --shift 1", "was trained with --objective flow, not epsilon"),
        ("--method pretrained", "was trained with --method pixels, not pretrained"),
    ],
)
def test_options_that_contradict_the_weights_are_refused(trained, tmp_path, options, message):
    with pytest.raises(SystemExit, match=f"--start: .*{message}"):
        main([*COMMON, "--start", str(trained), *options.split(), "--out", str(tmp_path)])


def test_weights_that_are_not_there_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(SystemExit, match="--start: .*nowhere"):
        main([*COMMON, "--start", "nowhere", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="--start: "):
        main([*COMMON, "--start", "scorer", "--out", str(tmp_path)])


def test_captions_cannot_be_added_or_lost(trained, faces):
    images = np.array(faces.images)
    without = Faces(images, faces.labels, faces.class_names, None, None, "animal-faces", "train")
    options = parse_options([*COMMON, "--start", str(trained)])
    with pytest.raises(SystemExit, match="trained with captions, and these images have no captions"):
        new_model(options, without, PixelCodec())


def test_a_licence_stays_with_the_weights(trained, tmp_path):
    from helpers.weights import write_tensors

    tensors, metadata = read_tensors(trained)
    write_tensors(tmp_path / "licensed.safetensors", tensors, metadata | {"licence": LICENCE})
    start = ["--start", str(tmp_path / "licensed.safetensors")]
    assert main([*COMMON, *start, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    assert read_metadata(tmp_path / "run" / "weights.safetensors")["licence"] == LICENCE
