"""The commands that train the tiny system, a few steps each, one after the other as a person would run them."""

import pytest
import torch

from helpers.autoencoders.kl import KLAutoencoder
from helpers.autoencoders.train import fit_latent_rgb
from helpers.autoencoders.train import main as train_autoencoder
from helpers.data import load_faces
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


def test_the_three_parts_make_a_system_that_generates(files):
    model = StableDiffusion1.from_weights(files["sd1"], files["clip"], files["autoencoder"])
    images = model.generate("a striped orange cat", steps=2, progress=False)
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
    assert model.rgb_factors.shape == (4, 3)


def test_every_word_of_a_caption_is_one_token(files):
    _, tokenizer = CLIP.from_weights(files["clip"])
    caption = "a striped orange cat with green eyes on a blue background"
    assert tokenizer.split(caption) == [word + "</w>" for word in caption.split()]


def test_the_scale_is_measured(files):
    autoencoder = KLAutoencoder.from_weights(files["autoencoder"])
    images = load_faces("toy-faces", "train", 64, limit=60, progress=False).tensor()
    with torch.no_grad():
        assert autoencoder.to_latents(images, torch.Generator().manual_seed(0)).std() == pytest.approx(1, abs=0.02)


def test_parts_that_were_trained_apart_are_refused(files, tmp_path):
    clip_model, tokenizer = CLIP.from_weights(files["clip"])
    other = tmp_path / "other.safetensors"
    clip_model.logit_scale.data += 1
    clip_model.save(tokenizer, other, {})
    with pytest.raises(ValueError, match="trained with other weights of the clip"):
        StableDiffusion1.from_weights(files["sd1"], other, files["autoencoder"])


def test_the_command_is_recorded_without_anybodys_paths(files):
    from helpers.weights import read_metadata

    assert read_metadata(files["autoencoder"])["command"].startswith("python -m helpers.autoencoders.train --limit 60")
    assert "--clip clip.safetensors" in read_metadata(files["sd1"])["command"]


def test_weights_of_something_else_are_refused_in_words(files):
    for system in (KLAutoencoder, CLIP, StableDiffusion1):
        with pytest.raises(ValueError, match="do not say what they belong to"):
            system.from_weights("scorer")


def test_resuming_with_other_parts_is_refused(files, tmp_path):
    clip_model, tokenizer = CLIP.from_weights(files["clip"])
    clip = tmp_path / "clip.safetensors"
    out = ["--out", str(tmp_path / "run"), "--limit", "60"]
    options = [*QUICK, *out, "--clip", str(clip), "--autoencoder", files["autoencoder"]]
    clip_model.save(tokenizer, clip, {})
    assert train_unet(options) == 0
    clip_model.logit_scale.data += 1
    clip_model.save(tokenizer, clip, {})
    with pytest.raises(SystemExit, match="with other parts"):
        train_unet([*options, "--resume"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_samples_and_weights_on_a_gpu(tmp_path):
    parts = []
    for command, name in ((train_clip, "clip"), (train_autoencoder, "autoencoder")):
        assert command([*QUICK, "--sample-every", "3", "--out", str(tmp_path / name)]) == 0
        parts += [f"--{name}", str(tmp_path / name / "weights.safetensors")]
    assert train_unet([*QUICK, *parts, "--sample-every", "3", "--limit", "60", "--out", str(tmp_path / "unet")]) == 0


def test_the_preview_is_the_best_linear_map():
    torch.manual_seed(0)
    latents = torch.randn(3, 4, 4, 4)
    mixing = torch.randn(4, 3)
    images = torch.einsum("bchw,cr->brhw", latents, mixing).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(fit_latent_rgb(latents, images), mixing, atol=1e-4, rtol=1e-4)
