"""Images that are not square, `--size HEIGHT WIDTH`: every training, and what is generated afterwards."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.autoencoders import train as train_autoencoder
from helpers.autoencoders import train_prior, train_vq
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.generate import generate
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import main
from helpers.weights import read_config, read_metadata

FAST = "--widths 8 16 --batch-size 4 --steps 4 --sample-every 4 --autoencoder-steps 2 --precision fp32".split()
SHAPE = ["--size", "48", "32"]


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty portraits of 60 x 90 pixels in two classes."""
    generator = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / "portraits" / ("light", "dark")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = generator.integers(0, 128, (90, 60, 3)) + 127 * (i % 2 == 0)
        Image.fromarray(values.astype(np.uint8)).save(path)
    return tmp_path / "portraits"


@pytest.fixture
def autoencoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "general.safetensors"
    KLAutoencoder(KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, latent_channels=6, patch=4)).save(path, {})
    return path


@pytest.mark.parametrize("method", ["pixels", "pretrained", "own"])
def test_every_method_trains_and_generates(method, images, autoencoder, tmp_path):
    borrowed = ["--autoencoder", str(autoencoder)] if method == "pretrained" else []
    perceptual = ["--perceptual", "0.1", "--perceptual-encoder", str(autoencoder), "--augment", "0.5"]
    options = ["--source", str(images), "--method", method, *borrowed, *(perceptual if method == "pixels" else [])]
    run = tmp_path / "run"
    assert main([*options, *SHAPE, *FAST, "--out", str(run)]) == 0
    weights = run / "weights.safetensors"
    assert list(read_config(weights)["size"]) == [48, 32]
    assert "--size 48 32" in read_metadata(weights)["command"]
    model = TinySD.from_weights(weights)
    assert model.generate(["light", "dark"], steps=2).shape == (2, 3, 48, 32)
    with pytest.raises(ValueError, match="48x32 pixels are not square"):
        _ = model.size
    with Image.open(next(run.glob("samples-*.png"))) as samples:
        assert samples.width > samples.height, "two rows of eight portraits"


def test_a_training_goes_on_and_is_fine_tuned_at_its_size(images, tmp_path):
    options = ["--source", str(images), *FAST, "--schedule", "inverse-sqrt"]
    assert main([*options, *SHAPE, "--out", str(tmp_path / "run")]) == 0
    assert main([*options, *SHAPE, "--out", str(tmp_path / "run"), "--resume", "--steps", "6"]) == 0
    weights = tmp_path / "run" / "weights.safetensors"
    assert main(["--start", str(weights), *options, "--out", str(tmp_path / "tuned")]) == 0
    assert list(read_config(tmp_path / "tuned" / "weights.safetensors")["size"]) == [48, 32]
    assert main(["--start", str(weights), *options, "--size", "64", "--out", str(tmp_path / "square")]) == 0
    assert read_config(tmp_path / "square" / "weights.safetensors")["size"] == 64
    (image,) = generate(str(weights), "light", steps=2)
    assert image.size == (32, 48)


def test_the_autoencoders_of_the_course_train(images, tmp_path):
    fast = ["--source", str(images), "--steps", "2", "--batch-size", "4", "--sample-every", "2", *SHAPE]
    for command in (train_autoencoder, train_vq):
        assert command.main([*fast, "--out", str(tmp_path / command.__name__)]) == 0
    codes = tmp_path / train_vq.__name__ / "weights.safetensors"
    with pytest.raises(SystemExit, match="--size: images of 48x32 pixels are not square"):
        train_prior.main([*fast, "--autoencoder", str(codes), "--out", str(tmp_path / "prior")])


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ("48 30", "--size must be a multiple of 8 with these --patch and --widths, got 48x30"),
        ("48 32 16", "argument --size: one number, or height and width, got 3 numbers"),
        ("48 0", "argument --size: .*8"),
    ],
)
def test_sizes_that_cannot_be(size, message, images, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--source", str(images), *FAST, "--size", *size.split()])
    assert re.search(message, f"{stopped.value} {capsys.readouterr().err}")


def test_the_check_of_a_folder_knows_the_shape(images, capsys):
    from helpers.data.__main__ import main as command

    for i in range(8):
        Image.effect_noise((40, 200), 90).convert("RGB").save(images / "light" / f"narrow-{i}.png")
    assert command(["check", str(images)]) == 1
    assert "less than half is used of 8 files" in capsys.readouterr().out
    assert command(["check", str(images), "--size", "64", "16"]) == 1
    printed = capsys.readouterr().out
    assert "less than half is used of 20 files" in printed, "of the portraits, which are wider"
    assert f"--source {images} --size 64 16" in printed
    assert command(["check", "--size", "64", str(images)]) == 1
    assert f"--source {images} --size 64\n" in capsys.readouterr().out
    assert command(["check", str(images), "--size", "tall"]) == 1
    assert "--size takes pixels a side, or height and width, got tall" in capsys.readouterr().err
    assert command(["--source", str(images), "--size", "48", "32"]) == 0
    assert "of 48x32 px" in capsys.readouterr().out


def test_synthetic_faces_are_square(capsys):
    with pytest.raises(SystemExit, match="the images of toy-faces are square"):
        main([*SHAPE, *FAST])


def test_two_equal_numbers_are_one(images, tmp_path):
    assert main(["--source", str(images), *FAST, "--size", "32", "32", "--out", str(tmp_path / "run")]) == 0
    assert read_config(tmp_path / "run" / "weights.safetensors")["size"] == 32
    assert " --size 32 " in read_metadata(tmp_path / "run" / "weights.safetensors")["command"]


@pytest.mark.parametrize("command", [main, train_autoencoder.main, train_vq.main], ids=["tiny_sd", "train", "train_vq"])
def test_a_folder_without_images_is_named_without_a_traceback(command, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="--source: .*empty holds no images"):
        command(["--source", str(tmp_path / "empty"), "--steps", "1", "--out", str(tmp_path / "run")])
