"""The shipped tiny system: it encodes text and images, follows prompts, and its files say where they come from."""

import pytest
import torch

from helpers.data import load_faces
from helpers.data.captions import caption
from helpers.data.toy_faces import toy_attributes
from helpers.scoring.attributes import load_classifier
from helpers.sd1.pipeline import StableDiffusion1
from helpers.text.contrastive import CLIP
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

FILES = ("clip", "autoencoder", "sd1")
ENOUGH = {"steps": 15, "sampler": "dpm_solver_pp_2m", "guidance_scale": 4.0, "progress": False}


@pytest.fixture(scope="module")
def system() -> StableDiffusion1:
    return StableDiffusion1.from_weights()


@pytest.fixture(scope="module")
def unseen():
    return load_faces("toy-faces", "val", 64, limit=100, progress=False)


def test_images_find_their_captions(unseen):
    clip_model, tokenizer = CLIP.from_weights()
    with torch.no_grad():
        similar = clip_model.similarity(unseen.tensor(), tokenizer(list(unseen.captions)))  # (100, 100)
    matches = [unseen.captions[i] == unseen.captions[j] for i, j in enumerate(similar.argmax(1))]
    assert sum(matches) >= 85, f"{sum(matches)} of 100 images find their caption among all"


def test_the_autoencoder_keeps_the_face(system, unseen):
    images = unseen.tensor()
    with torch.no_grad():
        reconstruction = system.autoencoder.decode(system.autoencoder.encode(images).mean).clamp(-1, 1)
    assert -10 * ((reconstruction - images) / 2).square().mean().log10() > 26  # decibels
    agreement = load_classifier().agreement(reconstruction, unseen.attributes)
    assert min(agreement.values()) >= 0.93, agreement


def test_it_generates_what_the_prompt_says(system):
    expected = toy_attributes(24, seed=4321)
    agreement = load_classifier().agreement(system.generate([caption(face) for face in expected], **ENOUGH), expected)
    assert agreement["species"] >= 0.9 and min(agreement.values()) >= 0.7, agreement


def test_an_empty_prompt_fixes_nothing(system):
    expected = toy_attributes(24, seed=4321)
    agreement = load_classifier().agreement(system.generate([""] * 24, **ENOUGH), expected)
    assert agreement["background"] < 0.5, agreement


def test_the_files_are_small_and_name_their_command():
    assert sum(weights_path(name).stat().st_size for name in FILES) < 16e6
    for name in FILES:
        metadata = read_metadata(name)
        assert metadata["command"].startswith(TRAINING_COMMANDS[name].split(" --export")[0]), metadata["command"]
        assert float(metadata["core_minutes"]) > 0
