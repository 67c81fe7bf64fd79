"""TAESD's architecture: the numbers of diffusers' AutoencoderTiny, and the published weights where they are at hand."""

import os
from pathlib import Path

import pytest
import torch

from helpers.autoencoders.load import tiny_from_pair
from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig, published_names
from helpers.data import load_faces
from helpers.weights.pretrained import load_pretrained


@pytest.fixture(scope="module")
def peer():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.AutoencoderTiny().eval()


def test_latents_and_images_are_those_of_diffusers(peer):
    model = TinyAutoencoder(TinyConfig()).eval()
    load_pretrained(model, peer.state_dict(), published_names("diffusers"), what="AutoencoderTiny")
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = model.to_latents(images)
        assert latents.shape == (2, 4, 4, 6)
        torch.testing.assert_close(latents, peer.encode(images).latents, atol=1e-5, rtol=0)
        wild = 20 * torch.randn(2, 4, 4, 6)
        torch.testing.assert_close(model.to_images(wild), peer.decode(wild).sample.clamp(-1, 1), atol=1e-5, rtol=0)


def test_sides_that_cannot_be_halved_three_times_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        TinyAutoencoder(TinyConfig()).to_latents(torch.zeros(1, 3, 32, 36))


def test_the_published_pair_gives_faces_back(tmp_path):
    folder = Path(os.environ.get("TAESD", "."))
    if not (folder / "taef2_encoder.pth").exists():
        pytest.skip("TAESD does not name a folder with taef2_encoder.pth and taef2_decoder.pth (madebyollin/taesd)")
    model = tiny_from_pair(folder / "taef2_encoder.pth", folder / "taef2_decoder.pth")
    assert model.config == TinyConfig(latent_channels=32, pooled=True)
    faces = load_faces("toy-faces", "val", 64, limit=12, cache_dir=tmp_path, progress=False).tensor()
    with torch.no_grad():
        latents = model.to_latents(faces)
        reconstruction = model.to_images(latents)
    assert 0.5 < latents.std() < 1.5, "its latents need no scale"
    assert -10 * torch.log10(((reconstruction - faces) / 2).square().mean()) > 25
