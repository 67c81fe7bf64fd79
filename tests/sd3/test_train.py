"""The command that trains the tiny system, a few steps."""

import pytest
import torch

from helpers.autoencoders.kl import KLConfig
from helpers.autoencoders.train import main as train_autoencoder
from helpers.sd3.encoders import CLIPStates
from helpers.sd3.mmdit import MMDiT
from helpers.sd3.pipeline import StableDiffusion3
from helpers.sd3.train import TrainedParts, tiny_config
from helpers.sd3.train import main as train_transformer
from helpers.text.clip import CLIPTowerConfig, TextTower
from helpers.text.t5 import T5Encoder
from helpers.text.train import main as train_clip
from helpers.weights import read_metadata

QUICK = ["--steps", "3", "--batch-size", "4", "--sample-every", "0", "--log-every", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Weights of the three commands."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", str(folder / "home"))
        files = {name: str(folder / f"{name}.safetensors") for name in ("clip", "autoencoder", "sd3")}
        assert train_clip([*QUICK, "--faces", "60", "--export", files["clip"]]) == 0
        channels = ["--latent-channels", "16"]
        assert train_autoencoder([*QUICK, *channels, "--limit", "60", "--export", files["autoencoder"]]) == 0
        parts = ["--clip", files["clip"], "--autoencoder", files["autoencoder"], "--limit", "60"]
        assert train_transformer([*QUICK, *parts, "--export", files["sd3"]]) == 0
    return files


def test_the_parts_make_a_system_that_generates(files):
    model = StableDiffusion3.from_weights(files["sd3"], files["clip"], files["autoencoder"])
    images = model.generate("a striped orange cat", steps=2, progress=False)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
    assert model.rgb_factors.shape == (16, 3)
    ids = model.encoders.t5_tokenizer(["a striped orange cat"])[0]
    assert ids[:4].min() > 2 and ids[4] == model.encoders.t5_tokenizer.eos_id  # every word is a token of its own


def test_parts_that_were_trained_apart_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="trained with other weights of the clip"):
        StableDiffusion3.from_weights(files["sd3"], files["autoencoder"], files["autoencoder"])


def test_all_three_networks_learned(files):
    metadata = read_metadata(files["sd3"])
    assert metadata["command"].startswith("python -m helpers.sd3.train --limit 60 --clip clip.safetensors")
    model = StableDiffusion3.from_weights(files["sd3"], files["clip"], files["autoencoder"])
    assert model.transformer.head.weight.abs().max() > 0  # began at zero
    assert torch.isfinite(model.encoders(["a cat"]).text).all()


def test_both_new_text_encoders_learn_with_the_transformer():
    """Once the gates have opened, the loss reaches every one of their weights."""
    clip = CLIPTowerConfig(width=16, layers=1, heads=2, mlp=16, vocabulary=20, length=6, projection=8)
    config = tiny_config(clip, 30, KLConfig(width=8, multipliers=(1, 2), groups=4, latent_channels=16), size=16)
    trained = TrainedParts(MMDiT(config.transformer), TextTower(config.clip_g), T5Encoder(config.t5))
    clip_l = CLIPStates(torch.randn(2, 6, 16), torch.randn(2, 8))
    ids = (torch.tensor([[1, 5, 19, 0, 0, 0]] * 2), torch.ones(2, 24).long())
    with_t5 = torch.tensor([True, True])
    trained(torch.randn(2, 16, 8, 8), torch.rand(2), clip_l, ids, 19, with_t5).square().sum().backward()
    for part in ("clip_g", "t5", "transformer"):
        still = [name for name, weight in getattr(trained, part).named_parameters() if weight.grad is None]
        assert not still, f"{part}: no gradient reaches {still}"
    gate = trained.t5.layers[0].gate.weight.grad.clone()
    trained.zero_grad()
    trained(torch.randn(2, 16, 8, 8), torch.rand(2), clip_l, ids, 19, ~with_t5).square().sum().backward()
    assert gate.any() and not trained.t5.layers[0].gate.weight.grad.any()
