"""Published autoencoders are loaded from every layout in which they come; anything else is refused with a reason."""

import json

import pytest
import torch
from safetensors.torch import save_file

from helpers.autoencoders.kl import KLAutoencoder, KLConfig, published_names
from helpers.autoencoders.load import SDXL_SCALE, load_autoencoder
from helpers.autoencoders.vq import VQAutoencoder
from helpers.weights.pretrained import checkpoint_keys

SMALL = dict(
    block_out_channels=(8, 16),
    norm_num_groups=4,
    layers_per_block=1,
    latent_channels=4,
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    scaling_factor=0.13025,
)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def peer():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(**SMALL).eval()


@torch.no_grad()
def assert_same(model, peer, images):
    latents = model.to_latents(images)
    torch.testing.assert_close(latents, peer.encode(images).latent_dist.mean * 0.13025, atol=1e-5, rtol=0)
    reconstruction = peer.decode(latents / 0.13025).sample.clamp(-1, 1)
    torch.testing.assert_close(model.to_images(latents), reconstruction, atol=1e-5, rtol=0)


def test_a_diffusers_folder_brings_its_own_sizes_and_scale(peer, images, tmp_path):
    peer.save_pretrained(tmp_path)
    assert_same(load_autoencoder(tmp_path), peer, images)


def test_half_precision_on_disk_is_computed_in_float32(peer, tmp_path):
    import copy

    copy.deepcopy(peer).half().save_pretrained(tmp_path)
    assert {p.dtype for p in load_autoencoder(tmp_path).parameters()} == {torch.float32}


def test_sdxl_vae_is_looked_for_where_the_environment_says(peer, images, tmp_path, monkeypatch):
    peer.save_pretrained(tmp_path)
    monkeypatch.setenv("SDXL_VAE", str(tmp_path))
    assert_same(load_autoencoder("sdxl-vae"), peer, images)


def test_sdxl_vae_out_of_reach_says_what_to_do(monkeypatch, hub_out_of_reach):
    monkeypatch.delenv("SDXL_VAE", raising=False)
    with pytest.raises(FileNotFoundError, match="stabilityai/sdxl-vae.*Download it elsewhere"):
        load_autoencoder("sdxl-vae")


def test_a_tiny_autoencoder_of_diffusers(images, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.AutoencoderTiny().eval()
    peer.save_pretrained(tmp_path)
    with torch.no_grad():
        latents = load_autoencoder(tmp_path).to_latents(images)
        torch.testing.assert_close(latents, peer.encode(images).latents, atol=1e-5, rtol=0)


def test_a_single_file_in_compvis_layout(tmp_path, monkeypatch):
    small = KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, scale=SDXL_SCALE)
    monkeypatch.setattr("helpers.autoencoders.load.KLConfig", lambda **_: small)
    torch.manual_seed(0)
    model = KLAutoencoder(small)
    state = {}
    for name, tensor in model.state_dict().items():
        sources = checkpoint_keys(name, published_names(small, "compvis"))
        state |= {source: part.clone() for source, part in zip(sources, tensor.chunk(len(sources)), strict=True)}
    save_file(state, tmp_path / "sdxl_vae.safetensors")
    loaded = load_autoencoder(tmp_path / "sdxl_vae.safetensors")
    assert loaded.config.scale == 0.13025
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_pair_of_taesd(images, tmp_path):
    from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig

    torch.manual_seed(0)
    model = TinyAutoencoder(TinyConfig(latent_channels=6, width=16, pooled=True))
    for half in ("encoder", "decoder"):
        torch.save(getattr(model, half).state_dict(), tmp_path / f"some_{half}.pth")
    loaded = load_autoencoder(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.to_latents(images), model.to_latents(images))


def test_our_own_weights_by_name_and_by_file(tmp_path):
    assert isinstance(load_autoencoder("vq"), VQAutoencoder)
    model = KLAutoencoder(KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4))
    model.save(tmp_path / "mine.safetensors", {})
    assert load_autoencoder(tmp_path / "mine.safetensors").config == model.config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "neither a config.json of diffusers nor one pair"),
        (lambda folder: "no_such_name", "Train them with|The course knows weights for"),
        (lambda folder: folder / "absent.safetensors", "no weights"),
        (lambda folder: _unet(folder), "holds a UNet2DConditionModel"),
        (lambda folder: _lone(folder), "no autoencoder in CompVis's layout"),
    ],
)
def test_what_is_no_autoencoder_is_refused(make, message, tmp_path, hub_out_of_reach):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load_autoencoder(make(tmp_path))


def _unet(folder):
    (folder / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    save_file({"x": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors")
    return folder


def _lone(folder):
    save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
    return folder / "x.safetensors"
