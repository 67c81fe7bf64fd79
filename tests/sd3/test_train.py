"""The command that trains the tiny system, a few steps."""

import pytest
import torch

from helpers.autoencoders.kl import KLConfig
from helpers.autoencoders.train import main as train_autoencoder
from helpers.sd3.mmdit import MMDiT
from helpers.sd3.pipeline import StableDiffusion3
from helpers.sd3.train import Learner, tiny_config
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


def test_the_parts_make_a_system_that_draws(files):
    model = StableDiffusion3.from_weights(files["sd3"], files["clip"], files["autoencoder"])
    pictures = model.generate("a striped orange cat", steps=2, progress=False)
    assert pictures.shape == (1, 3, 64, 64) and pictures.isfinite().all()
    assert model.preview.shape == (16, 3)
    words = model.encoders.t5_words(["a striped orange cat"])[0]
    assert words[:4].min() > 2 and words[4] == model.encoders.t5_words.end  # every word is a token of its own


def test_parts_that_were_trained_apart_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="trained with other weights of the clip"):
        StableDiffusion3.from_weights(files["sd3"], files["autoencoder"], files["autoencoder"])


def test_all_three_networks_learned(files):
    about = read_metadata(files["sd3"])
    assert about["command"].startswith("python -m helpers.sd3.train --limit 60 --clip clip.safetensors")
    model = StableDiffusion3.from_weights(files["sd3"], files["clip"], files["autoencoder"])
    assert model.transformer.head.weight.abs().max() > 0  # began at zero
    assert torch.isfinite(model.encoders(["a cat"]).text).all()


def test_both_new_text_encoders_learn_with_the_transformer():
    """Once the gates have opened, the loss reaches every one of their weights."""
    clip = CLIPTowerConfig(width=16, layers=1, heads=2, mlp=16, vocabulary=20, length=6, projection=8)
    config = tiny_config(clip, 30, KLConfig(width=8, multipliers=(1, 2), groups=4, latent_channels=16), size=16)
    learner = Learner(MMDiT(config.transformer), TextTower(config.clip_g), T5Encoder(config.t5))
    first = torch.randn(2, 6, 16), torch.randn(2, 8)
    ids = (torch.tensor([[1, 5, 19, 0, 0, 0]] * 2), torch.ones(2, 24).long())
    heard = torch.tensor([True, True])
    learner(torch.randn(2, 16, 8, 8), torch.rand(2), first, ids, 19, heard).square().sum().backward()
    for part in ("clip_g", "t5", "transformer"):
        still = [name for name, weight in getattr(learner, part).named_parameters() if weight.grad is None]
        assert not still, f"{part}: no gradient reaches {still}"
    third = learner.t5.layers[0].gate.weight.grad.clone()
    learner.zero_grad()
    learner(torch.randn(2, 16, 8, 8), torch.rand(2), first, ids, 19, ~heard).square().sum().backward()
    assert third.any() and not learner.t5.layers[0].gate.weight.grad.any()
