"""The tiny Stable Diffusion 1 in diffusers: the same image from the exported folder."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.sd1.claims import exported_difference
from helpers.autoencoders import export as autoencoder_export
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.sd1.export import to_diffusers
from helpers.sd1.pipeline import StableDiffusion1


@pytest.fixture(scope="module")
def model() -> StableDiffusion1:
    return StableDiffusion1.from_weights()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    to_diffusers(model, folder)
    return folder


def test_diffusers_generates_the_same_image(model, folder):
    assert exported_difference(model, folder) <= 1e-3


def test_the_course_reads_its_own_export(model, folder):
    text = replace(model.config.text, projection=None)  # Stable Diffusion 1 uses the hidden states alone
    loaded = StableDiffusion1.from_checkpoint(folder, config=replace(model.config, text=text))
    theirs = loaded.state_dict()
    mine = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("text.projection")}
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(theirs[name], mine[name]) for name in mine)
    assert loaded.tokenizer.ids == model.tokenizer.ids


def test_diffusers_autoencoder_does_what_ours_does(model, folder):
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(folder / "vae").eval()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = theirs.encode(images).latent_dist.mean
        torch.testing.assert_close(mean, model.autoencoder.encode(images).mean, atol=1e-4, rtol=0)
        torch.testing.assert_close(theirs.decode(mean).sample, model.autoencoder.decode(mean), atol=1e-4, rtol=0)
    assert theirs.config.scaling_factor == model.autoencoder.config.scale


def test_what_the_unet_predicts_is_written(model, tmp_path):
    other = StableDiffusion1(model.tokenizer, model.text, model.unet, model.autoencoder, 64, prediction="v")
    to_diffusers(other, tmp_path)
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == "v_prediction"


def test_an_autoencoder_that_diffusers_has_not_is_refused(tmp_path):
    autoencoder = KLAutoencoder(KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, patch=4))
    with pytest.raises(ValueError, match=r"patches of 4x4 pixels: only one with patch=1 can be exported"):
        autoencoder_export.to_diffusers(autoencoder, tmp_path)
