"""The quantised autoencoder beside diffusers', in the published architecture with random weights."""

import pytest
import torch

from benchmarks.autoencoders.vq import kl_pair, vq_pair
from benchmarks.parity import difference
from helpers.autoencoders.kl import KLAutoencoder
from helpers.autoencoders.vq import VQAutoencoder, VQConfig


@pytest.fixture(scope="module")
def pair():
    return vq_pair()


@torch.no_grad()
def test_parity_with_diffusers(pair):
    ours, theirs = pair
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = theirs.encode(images).latents
    assert difference(ours.encode(images), z) < 1e-5
    assert difference(ours.decode(z), theirs.decode(z).sample) < 1e-5
    assert (ours.quantize(z).indices.flatten() == theirs.quantize(z)[2][2].flatten()).all()


@torch.no_grad()
def test_the_same_halves_without_a_codebook():
    ours, theirs = kl_pair()
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = theirs.encode(images).latent_dist.mean
    assert difference(ours.encode(images).mean, z) < 1e-5
    assert difference(ours.decode(z), theirs.decode(z).sample) < 1e-5


@torch.no_grad()
def test_indices_determine_the_image(pair):
    ours, _ = pair
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    decoded, quantized = ours(images)
    assert quantized.indices.shape == (2, 8, 8)
    torch.testing.assert_close(ours.decode_indices(quantized.indices), decoded, atol=1e-4, rtol=1e-4)


def test_published_size():
    """vq-f4 has as many parameters here as in diffusers."""
    from diffusers import VQModel

    with torch.device("meta"):
        ours = VQAutoencoder(VQConfig())
        theirs = VQModel(
            block_out_channels=(128, 256, 512),
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            layers_per_block=2,
            latent_channels=3,
            num_vq_embeddings=8192,
            vq_embed_dim=3,
        )
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1] and ours.config.downsampling_factor == 4


def test_weights_come_back(tmp_path):
    model = VQAutoencoder(VQConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, K=16, ema=True)).eval()
    model.save(tmp_path / "x.safetensors", {})
    loaded = VQAutoencoder.from_weights(tmp_path / "x.safetensors")
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():  # each half by itself: between two codes, half precision may choose the other
        z = model.encode(images)
        torch.testing.assert_close(loaded.encode(images), z, atol=1e-2, rtol=1e-2)
        indices = model.quantize(z).indices
        torch.testing.assert_close(loaded.decode_indices(indices), model.decode_indices(indices), atol=1e-2, rtol=1e-2)
    with pytest.raises(ValueError, match="belong to another network: .*code_width.*, which is no KLConfig"):
        KLAutoencoder.from_weights(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="a codebook has at least one code, got K = 0"):
        VQConfig(K=0)
    with pytest.raises(ValueError, match="multiples of 2, got \\(1, 3, 15, 16\\)"):
        model.encode(torch.zeros(1, 3, 15, 16))
