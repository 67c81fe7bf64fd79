"""The commands that train the tiny system, a few steps each, one after the other as a person would run them."""

from pathlib import Path

import pytest
import torch

from helpers.autoencoders.kl import KLAutoencoder
from helpers.autoencoders.train import fitted_preview
from helpers.autoencoders.train import main as train_autoencoder
from helpers.sd1.pipeline import StableDiffusion1
from helpers.sd1.train import main as train_unet
from helpers.text.contrastive import CLIP
from helpers.text.train import main as train_clip

QUICK = ["--steps", "3", "--batch-size", "4", "--sample-every", "0", "--log-every", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Weights of the three commands."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", str(folder / "home"))
        files = {name: str(folder / f"{name}.safetensors") for name in ("clip", "autoencoder", "sd1")}
        assert train_clip([*QUICK, "--faces", "60", "--export", files["clip"]]) == 0
        assert train_autoencoder([*QUICK, "--limit", "60", "--export", files["autoencoder"]]) == 0
        parts = ["--clip", files["clip"], "--autoencoder", files["autoencoder"], "--limit", "60"]
        assert train_unet([*QUICK, *parts, "--export", files["sd1"], "--out", str(folder / "run")]) == 0
    return files


def test_the_three_parts_make_a_system_that_draws(files):
    model = StableDiffusion1.from_weights(files["sd1"], files["clip"], files["autoencoder"])
    pictures = model.generate("a striped orange cat", steps=2, progress=False)
    assert pictures.shape == (1, 3, 64, 64) and pictures.isfinite().all()
    assert model.preview.shape == (4, 3)


def test_every_word_of_a_caption_is_one_token(files):
    _, tokenizer = CLIP.from_weights(files["clip"])
    caption = "a striped orange cat with green eyes on a blue background"
    assert tokenizer.split(caption) == [word + "</w>" for word in caption.split()]


def test_the_scale_is_measured(files):
    autoencoder = KLAutoencoder.from_weights(files["autoencoder"])
    assert autoencoder.config.scale not in (1.0, 0.18215)


def test_parts_that_were_trained_apart_are_refused(files, tmp_path):
    pair, tokenizer = CLIP.from_weights(files["clip"])
    other = tmp_path / "other.safetensors"
    pair.log_scale.data += 1
    pair.save(tokenizer, other, {})
    with pytest.raises(ValueError, match="trained with other weights of the clip"):
        StableDiffusion1.from_weights(files["sd1"], other, files["autoencoder"])


def test_the_command_is_recorded_without_anybodys_paths(files):
    from helpers.weights import read_metadata

    assert read_metadata(files["autoencoder"])["command"].startswith("python -m helpers.autoencoders.train --limit 60")
    assert str(Path(files["clip"]).parent) not in read_metadata(files["clip"])["command"]


def test_the_preview_is_the_best_linear_map():
    torch.manual_seed(0)
    latents, mixing = torch.randn(3, 4, 4, 4), torch.randn(4, 3)
    pictures = torch.einsum("bchw,cr->brhw", latents, mixing).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(fitted_preview(latents, pictures), mixing, atol=1e-4, rtol=1e-4)
