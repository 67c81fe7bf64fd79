"""Validation at fixed noise, measured samples, and the best weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.data import Faces, load_faces
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.samples import copied_share, image_statistics, label_agreement
from helpers.tiny_sd.train import main
from helpers.tiny_sd.unet import UNetConfig
from helpers.tiny_sd.validation import IMAGES, Validation
from helpers.training.measurements import Measurements
from helpers.weights import read_metadata

from .test_train import TINY

pytestmark = pytest.mark.usefixtures("one_home")


def rows(folder: Path, name: str = "measurements") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def model(objective: str = "flow", shift: float = 1.0) -> TinySD:
    torch.manual_seed(0)
    config = UNetConfig(patch=2, widths=(8, 16), attention=(False, False), classes=3, vocab_size=0)
    network = TinySD(config, objective, ("cat", "dog", "wild"), 16, PixelCodec(), shift)
    with torch.no_grad():  # an untrained network predicts zeros whatever it is told
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def faces(one_home) -> Faces:
    drawn = load_faces("toy-faces", "val", 16, limit=2 * IMAGES, progress=False)
    return Faces(drawn.images, drawn.labels)


def test_the_levels_are_quantiles_of_the_trainings_times(faces):
    network = model()
    levels = Validation(network, faces, faces)(network, network)["by_noise_level"]
    assert list(levels) == ["0.22", "0.37", "0.5", "0.63", "0.78"]  # of a logit-normal


def test_the_mean_is_what_a_training_expects_of_the_held_out_images(faces):
    network = model("epsilon")
    measured = Validation(network, faces, faces)(network, network)
    generator = torch.Generator().manual_seed(7)
    x = network.codec.encode(faces[:IMAGES].tensor()).repeat(40, 1, 1, 1)
    t = network.objective.sample_times(len(x), generator)
    labels = torch.from_numpy(faces.labels[:IMAGES]).repeat(40)
    with torch.no_grad():
        losses = network.denoising_losses(x, torch.randn(x.shape, generator=generator), t, labels, None)
    assert measured["loss"] == pytest.approx(losses.mean().item(), rel=0.05)  # five levels for all times


@pytest.mark.parametrize("objective", ["flow", "epsilon"])
def test_equal_weights_have_equal_losses_and_others_do_not(objective, faces):
    network = model(objective)
    validation = Validation(network, faces, faces)
    first = validation(network, network)
    assert validation(network, network) == first
    assert first["loss"] == first["training_loss"] == first["current_loss"] != first["unconditional_loss"]
    other = model(objective)
    with torch.no_grad():
        next(other.unet.parameters()).add_(0.5)
    assert validation(network, other) | {"current_loss": None} == first | {"current_loss": None}
    assert validation(network, other)["current_loss"] != first["current_loss"]


def test_training_images_are_measured_as_well(faces):
    network = model()
    assert Validation(network, faces[IMAGES:], faces)(network, network)["training_loss"] != pytest.approx(
        Validation(network, faces, faces)(network, network)["training_loss"]
    )


@pytest.fixture(scope="module")
def validated(tmp_path_factory, one_home) -> Path:
    """The folder of a run with validations and samples."""
    folder = tmp_path_factory.mktemp("validated")
    assert main([*TINY, "--validate-every", "5", "--sample-every", "12", "--out", str(folder)]) == 0
    return folder


def test_a_run_is_validated_every_so_many_steps_and_at_the_end(validated):
    assert [row["step"] for row in rows(validated) if "validation" in row] == [5, 10, 15, 20, 24]
    assert [row["step"] for row in rows(validated) if "samples" in row] == [12, 24]


def test_measuring_does_not_change_the_training(validated, tmp_path):
    assert main([*TINY, "--validate-every", "0", "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "measurements.jsonl").exists()
    losses = [[row["loss"] for row in rows(folder, "log")] for folder in (validated, tmp_path)]
    assert losses[0] == losses[1]


def test_a_resumed_run_has_the_measurements_of_one_that_was_never_stopped(validated, tmp_path):
    arguments = [*TINY, "--validate-every", "5", "--sample-every", "12", "--out", str(tmp_path)]
    steps = arguments.index("--steps") + 1
    open_ended = [*arguments, "--schedule", "inverse-sqrt"]
    assert main([*open_ended[:steps], "12", *open_ended[steps + 1 :]]) == 0
    assert main([*open_ended, "--resume"]) == 0
    again = tmp_path / "whole"
    assert main([*open_ended, "--out", str(again)]) == 0
    interrupted = [row for row in rows(tmp_path) if row["step"] != 12]
    assert interrupted == [row for row in rows(again) if row["step"] != 12]


def test_the_weights_of_the_lowest_validation_loss_are_kept(validated):
    step, loss = Measurements(validated / "measurements.jsonl").best()
    assert loss == min(row["validation"]["loss"] for row in rows(validated) if "validation" in row)
    assert read_metadata(validated / "best.safetensors")["steps"] == str(step)
    assert TinySD.from_weights(validated / "best.safetensors").class_names == ("cat", "dog", "wild")


def test_rows_after_a_checkpoint_and_about_an_end_are_dropped(tmp_path):
    measurements = Measurements(tmp_path / "measurements.jsonl")
    assert measurements.best() is None
    measurements.add(5, validation={"loss": 0.2})
    measurements.add(5, stopped="no number")
    measurements.add(10, validation={"loss": 0.1})
    assert measurements.best() == (10, 0.1)
    measurements.truncate(5)
    assert measurements.best() == (5, 0.2) and measurements.rows == rows(tmp_path) == [
        {"step": 5, "validation": {"loss": 0.2}}
    ]


def test_a_source_without_held_out_images_is_trained_without_validation(tmp_path, capsys):
    from benchmarks.doctor.faults import write_faces

    write_faces(tmp_path / "images", 9)
    own = [*TINY, "--source", str(tmp_path / "images"), "--validate-every", "5"]
    assert main([*own, "--out", str(tmp_path / "run")]) == 0
    assert "no validation: " in capsys.readouterr().err and not (tmp_path / "run" / "best.safetensors").exists()


def test_statistics_tell_noise_and_clipped_images_from_photographs():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, 3, 32, 32, generator=generator) / 3
    assert image_statistics(noise)["roughness"] == pytest.approx(1, abs=0.05)
    ramp = torch.linspace(-1, 1, 32).expand(8, 3, 32, 32)
    assert image_statistics(ramp)["roughness"] < 0.01 and image_statistics(ramp)["diversity"] == 0
    assert image_statistics(ramp.sign())["saturated"] == 1


def test_copies_of_training_images_are_counted_mirrored_ones_too(faces):
    own = faces.tensor(slice(0, 4))
    noise = 0.02 * torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    assert copied_share(own + noise, faces) == copied_share(own.flip(-1), faces) == 1.0
    others = load_faces("toy-faces", "train", 16, limit=40, progress=False).tensor()
    assert copied_share(others, faces) <= 0.1
    assert copied_share(own, faces[:10]) is None


def test_labels_that_say_nothing_are_no_better_than_chance(faces):
    drawn = load_faces("toy-faces", "train", 16, limit=600, progress=False)
    agreement = label_agreement(drawn)
    assert agreement["chance"] == pytest.approx(1 / 3, abs=0.01) and agreement["nearest"] > 0.6
    shuffled = Faces(drawn.images, np.random.default_rng(0).permutation(drawn.labels))
    agreement = label_agreement(shuffled)
    assert agreement["nearest"] < agreement["chance"] + 3 * agreement["standard_error"]
    assert label_agreement(faces) is None  # too few
