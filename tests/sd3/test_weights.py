"""The shipped tiny system: it reconstructs faces, follows prompts with and without T5, and names its commands."""

import pytest
import torch

from helpers.data import load_faces
from helpers.data.captions import caption
from helpers.data.toy_faces import toy_attributes
from helpers.scoring.attributes import load_classifier
from helpers.sd3.pipeline import StableDiffusion3
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

FILES = ("autoencoder_16", "sd3")
ENOUGH = {"steps": 10, "guidance_scale": 4.0, "progress": False}


@pytest.fixture(scope="module")
def system() -> StableDiffusion3:
    return StableDiffusion3.from_weights()


def test_the_autoencoder_keeps_the_face(system):
    unseen = load_faces("toy-faces", "val", 64, limit=100, progress=False)
    images = unseen.tensor()
    with torch.no_grad():
        reconstruction = system.autoencoder.decode(system.autoencoder.encode(images).mean).clamp(-1, 1)
    assert -10 * ((reconstruction - images) / 2).square().mean().log10() > 27.5  # decibels
    agreement = load_classifier().agreement(reconstruction, unseen.attributes)
    assert min(agreement.values()) >= 0.95, agreement


@pytest.mark.parametrize("use_t5", [True, False])
def test_it_generates_what_the_prompt_says(system, use_t5):
    expected = toy_attributes(24, seed=4321)
    images = system.generate([caption(face) for face in expected], use_t5=use_t5, **ENOUGH)
    agreement = load_classifier().agreement(images, expected)
    assert agreement["species"] >= 0.9 and min(agreement.values()) >= 0.7, agreement


def test_an_empty_prompt_fixes_nothing(system):
    expected = toy_attributes(24, seed=4321)
    agreement = load_classifier().agreement(system.generate([""] * 24, **ENOUGH), expected)
    assert agreement["background"] < 0.5, agreement


def test_the_files_are_small_and_name_their_command():
    assert sum(weights_path(name).stat().st_size for name in FILES) < 12e6
    for name in FILES:
        metadata = read_metadata(name)
        assert metadata["command"].startswith(TRAINING_COMMANDS[name].split(" --export")[0]), metadata["command"]
        assert float(metadata["core_minutes"]) > 0
