"""The one object that the three methods differ in."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from helpers.autoencoders import load
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import cache_latents, fingerprint
from helpers.tiny_sd import codecs
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import CODECS, PixelCodec, PretrainedCodec, TrainedCodec, load_codec
from helpers.tiny_sd.model import TinySD, vocabulary_size
from helpers.tiny_sd.unet import UNetConfig
from helpers.weights import read_config

from .conftest import SIZE, SMALL

CONFIG = KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, latent_channels=5, patch=4, quant_convs=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An untrained autoencoder in a file."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("autoencoder") / "mine.safetensors"
    KLAutoencoder(CONFIG).save(path, {})
    return path


@pytest.fixture(scope="module")
def latents(faces, saved, tmp_path_factory):
    model = KLAutoencoder.from_weights(saved)
    return cache_latents(model, faces, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture
def codec(saved, latents):
    return TrainedCodec(KLAutoencoder.from_weights(saved), latents.mean, latents.std, saved)


@pytest.fixture
def system(codec, faces):
    torch.manual_seed(0)
    config = UNetConfig(channels=5, patch=1, detail_channels=0, vocab_size=vocabulary_size(), **SMALL)
    return TinySD(config, "flow", faces.class_names, SIZE, codec)


def test_three_methods_three_names():
    assert CODECS == {"pixels": PixelCodec, "pretrained": PretrainedCodec, "own": TrainedCodec}


def test_codes_have_unit_variance_in_every_channel(codec, faces):
    codes = codec.encode(faces.tensor())
    assert codes.shape == (60, 5, 4, 4) and codec.downsampling_factor == 4
    torch.testing.assert_close(codes.std((0, 2, 3)), torch.ones(5), atol=0.1, rtol=0)


def test_decoding_undoes_the_normalisation(codec, faces):
    images = faces.tensor(slice(0, 7))
    with torch.no_grad():
        expected = codec.autoencoder.to_images(codec.autoencoder.to_latents(images))
    torch.testing.assert_close(codec.decode(codec.encode(images)), expected, atol=1e-5, rtol=0)


def test_large_images_are_decoded_a_few_at_a_time(codec, monkeypatch):
    seen = []

    def blank(z: torch.Tensor) -> torch.Tensor:
        seen.append(len(z))
        return torch.zeros(len(z), 3, 4 * z.shape[2], 4 * z.shape[3])

    assert codec.decode(torch.zeros(1, 5, 4, 4)).shape == blank(torch.zeros(1, 5, 4, 4)).shape
    seen.clear()
    monkeypatch.setattr(codec.autoencoder, "to_images", blank)
    assert codec.decode(torch.zeros(3, 5, 128, 128)).shape == (3, 3, 512, 512)
    codec.decode(torch.zeros(3, 5, 256, 256))
    assert seen == [3, 1, 1, 1]


def test_the_autoencoder_is_no_part_of_the_network(system):
    assert not any("autoencoder" in name for name in system.state_dict())
    assert copy.deepcopy(system).codec is system.codec, "an average of the network shares it"
    assert not any(p.requires_grad for p in system.codec.autoencoder.parameters())


def test_a_network_for_other_channels_is_refused(codec, faces):
    with pytest.raises(ValueError, match="gives 5 channels, the network takes 3"):
        TinySD(UNetConfig(**SMALL), "flow", faces.class_names, SIZE, codec)


def test_saved_and_loaded_it_generates_the_same(system, saved, tmp_path):
    system.save(tmp_path / "w.safetensors", {})
    loaded = TinySD.from_weights(tmp_path / "w.safetensors", autoencoder=saved)
    assert loaded.codec.name == "own"
    loaded.unet.load_state_dict(system.unet.state_dict())  # the file is fp16
    assert torch.equal(system.generate(["cat"], steps=2), loaded.generate(["cat"], steps=2))
    assert loaded.generate(["cat"], steps=2).shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("place", ["{name}", "autoencoder/{name}", "autoencoder/weights.safetensors"])
def test_an_autoencoder_beside_the_weights_is_found(system, saved, tmp_path, place):
    system.save(tmp_path / "w.safetensors", {})
    beside = tmp_path / place.format(name=saved.name)
    beside.parent.mkdir(exist_ok=True)
    beside.write_bytes(saved.read_bytes())
    assert TinySD.from_weights(tmp_path / "w.safetensors").codec.source == str(beside)


def test_another_autoencoder_beside_the_weights_is_passed_over(system, saved, tmp_path):
    system.save(tmp_path / "w.safetensors", {})
    (tmp_path / "autoencoder").mkdir()
    KLAutoencoder(CONFIG).save(tmp_path / "autoencoder" / "weights.safetensors", {})
    (tmp_path / saved.name).write_bytes(saved.read_bytes())
    assert TinySD.from_weights(tmp_path / "w.safetensors").codec.source == str(tmp_path / saved.name)


def test_a_copy_of_a_shipped_autoencoder_is_recognised_by_its_fingerprint(tmp_path):
    model = load.load_autoencoder("general_autoencoder")
    C = model.config.latent_channels
    description = PretrainedCodec(model, torch.zeros(C), torch.ones(C), "/home/somebody/mine.safetensors").describe()
    assert description["autoencoder"] == "mine.safetensors"
    assert load_codec(description, weights=tmp_path / "w.safetensors").source == "general_autoencoder"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("general_autoencoder", "general_autoencoder"),
        ("stabilityai/sdxl-vae", "stabilityai/sdxl-vae"),
        ("owner/name/vae", "owner/name/vae"),
        ("/data/of/somebody/vae.safetensors", "vae.safetensors"),
        ("~/vae.safetensors", "vae.safetensors"),
        ("../runs/vae", "vae"),
        ("./taef2", "taef2"),
    ],
)
def test_saved_weights_name_no_folder_of_a_computer(source, name):
    assert codecs.portable_name(source) == name


def test_another_autoencoder_than_the_trained_one_is_refused(system, saved, tmp_path):
    system.save(tmp_path / "w.safetensors", {})
    KLAutoencoder(CONFIG).save(tmp_path / "other.safetensors", {})
    with pytest.raises(ValueError, match="not the one this network was trained with"):
        TinySD.from_weights(tmp_path / "w.safetensors", autoencoder=tmp_path / "other.safetensors")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(saved.read_bytes())
    assert TinySD.from_weights(tmp_path / "w.safetensors", autoencoder=moved).codec.source == str(moved)


def test_an_autoencoder_that_is_gone_says_what_to_pass(system, saved, tmp_path):
    copy_of = tmp_path / "copy.safetensors"
    copy_of.write_bytes(saved.read_bytes())
    system.codec.source = str(copy_of)
    system.save(tmp_path / "w.safetensors", {})
    copy_of.unlink()
    with pytest.raises(FileNotFoundError, match="pass autoencoder="):
        TinySD.from_weights(tmp_path / "w.safetensors")


def test_shipped_weights_take_no_autoencoder_from_the_working_directory(tmp_path, monkeypatch):
    """A name has no folder; `Path("tiny_sd_own").parent` is the working directory."""
    (tmp_path / "autoencoder").mkdir()
    (tmp_path / "autoencoder" / "weights.safetensors").write_bytes(b"of something else")
    monkeypatch.chdir(tmp_path)
    assert TinySD.from_weights("tiny_sd_own").codec.source == "faces_autoencoder"


def test_a_distilled_autoencoder_that_ships_takes_the_place_of_its_absent_teacher(system, saved, tmp_path, monkeypatch):
    system.codec.source = "large-autoencoder"  # a name that nothing is found by
    system.save(tmp_path / "w.safetensors", {})
    teacher = KLAutoencoder.from_weights(saved)
    torch.manual_seed(4)
    student = KLAutoencoder(replace(CONFIG, width=4, groups=2, latents_of=fingerprint(teacher)))
    shipped = tmp_path / "distilled_autoencoder.safetensors"
    student.save(shipped, {})
    for module in (codecs, load):
        monkeypatch.setattr(module, "weights_path", lambda name: tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(codecs, "read_config", lambda name: read_config(tmp_path / f"{name}.safetensors"))
    loaded = TinySD.from_weights(tmp_path / "w.safetensors")
    assert loaded.codec.source == "distilled_autoencoder" and loaded.codec.autoencoder.config.width == 4
    assert loaded.codec.describe()["fingerprint"] == fingerprint(teacher), "saved anew, it still names the latent space"
    student.save(shipped, {"model": json.dumps(vars(replace(CONFIG, width=4, groups=2)))})
    with pytest.raises(FileNotFoundError, match="pass autoencoder="):
        TinySD.from_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("move", [lambda m: m.to(torch.float64), lambda m: m.double(), lambda m: m.cpu()])
def test_the_codec_goes_where_the_network_goes(system, monkeypatch, move):
    moved = []
    monkeypatch.setattr(system.codec, "to", moved.append)
    move(system)
    assert moved == [torch.device("cpu")]


def test_unknown_codecs_are_refused():
    assert isinstance(load_codec("pixels"), PixelCodec)
    with pytest.raises(ValueError, match="unknown codec 'wavelets': this version knows pixels, pretrained, own"):
        load_codec("wavelets")


def test_cached_latents_train_as_fresh_ones_do_and_never_ask_the_autoencoder(system, faces, latents, monkeypatch):
    cached = Batches(faces, 8, latents=latents)
    fresh = Batches(faces, 8)
    draws = [torch.Generator().manual_seed(5) for _ in range(2)]
    expected, _ = fresh.losses(system.eval(), draws[1])
    monkeypatch.setattr(system.codec.autoencoder, "to_latents", lambda *_: pytest.fail("the autoencoder was asked"))
    values, _ = cached.losses(system, draws[0])
    torch.testing.assert_close(values, expected, atol=2e-2, rtol=2e-2)


def test_the_codec_alone_says_how_latents_are_normalised(system, faces, latents):
    """Its mean and std are stored with the network; those of the encoded images may be another dataset's."""
    indices = torch.arange(8)
    mirrored = torch.zeros(8, dtype=torch.bool)
    device = torch.device("cpu")
    ours = Batches(faces, 8, latents=latents).latents_of(system, indices, mirrored, device)
    others = replace(latents, mean=latents.mean + 1, std=2 * latents.std)
    assert torch.equal(Batches(faces, 8, latents=others).latents_of(system, indices, mirrored, device), ours)
    system.codec.mean = system.codec.mean + 1
    shifted = Batches(faces, 8, latents=latents).latents_of(system, indices, mirrored, device)
    torch.testing.assert_close(shifted, ours - 1 / system.codec.std[:, None, None], atol=1e-4, rtol=1e-4)


def test_encoded_latents_need_a_codec_of_latents(model, faces, latents):
    with pytest.raises(ValueError, match="the codec 'pixels' has none"):
        Batches(faces, 8, latents=latents).losses(model, torch.Generator())


def test_latents_of_other_images_are_refused(faces, latents):
    with pytest.raises(ValueError, match="latents of 60 images, but 20 faces"):
        Batches(faces[:20], 8, latents=latents)
