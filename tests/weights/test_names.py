"""Weights written with older names load, and are rewritten with today's, without a changed number."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.tiny_sd.unet import TinyUNet, UNetConfig
from helpers.training.checkpoint import load_checkpoint, save_checkpoint
from helpers.weights import checksum, read_metadata, read_tensors, save_weights, weights_path
from helpers.weights.migration import main, migrate
from helpers.weights.names import current_config, current_name, current_tensors

SMALL = UNetConfig(widths=(8, 16), attention=(False, True), head_width=8, vocab_size=9, caption_length=5, patch=4)
OLD = {
    "text.token_embedding.": "text.words.",
    "detail.": "fine.",
    "downsample.": "shrink.",
    "upsample.": "grow.",
    "logit_scale": "log_scale",
    "class_embedding": "whole",
}
AGED = ("clip", "sd1", "tiny_sd_pixels")  # SD1's weights name CLIP's by their checksum


def _old_name(name: str) -> str:
    for today, old in OLD.items():
        name = name.replace(today, old)
    return name


def test_configurations_get_the_keys_of_today_at_every_depth():
    old = {"unet": {"words": 36, "fine": 20, "widths": [1, 2]}, "preview": [[0.1]], "text": "words fine"}
    assert current_config(old) == {
        "unet": {"vocab_size": 36, "detail_channels": 20, "widths": [1, 2]},
        "latent_rgb_factors": [[0.1]],
        "text": "words fine",
    }


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("unet.text.words.weight", "unet.text.token_embedding.weight"),
        ("transformer.words.bias", "transformer.context_embedder.bias"),
        ("transformer.blocks.3.picture.mlp.0.weight", "transformer.blocks.3.image.mlp.0.weight"),
        ("image.whole", "image.class_embedding"),
        ("unet.grow.0.weight", "unet.upsample.0.weight"),
        ("vision.patches.weight", "vision.patches.weight"),
    ],
)
def test_tensors_get_the_names_of_today(old, today):
    assert current_name(old) == today
    assert current_name(today) == today


def test_a_name_that_a_network_uses_today_stays():
    assert list(current_tensors({"fine.weight": torch.zeros(1)}, {"fine.weight"})) == ["fine.weight"]


def test_a_checkpoint_with_old_names_is_resumed(tmp_path):
    class Old(nn.Module):
        def __init__(self, network: TinyUNet):
            super().__init__()
            self.network = network

        def state_dict(self, *_, **__):
            return {_old_name(name): tensor for name, tensor in self.network.state_dict().items()}

    torch.manual_seed(0)
    written, resumed, average = TinyUNet(SMALL), TinyUNet(SMALL), TinyUNet(SMALL)
    optimizer = torch.optim.AdamW(resumed.parameters())
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, 3, Old(written), Old(written), torch.optim.AdamW(written.parameters()), {})
    assert any(".words." in name for name in read_tensors(path)[0])
    assert load_checkpoint(path, resumed, average, optimizer).step == 3
    for name, tensor in written.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]) and torch.equal(tensor, average.state_dict()[name])


def _age(name: str, folder: Path) -> None:
    """Write shipped weights as older versions did: with old names and without a checksum of the metadata."""
    tensors, metadata = read_tensors(weights_path(name))
    old = {_old_name(key): tensor for key, tensor in tensors.items()}
    del metadata["sha256_metadata"]
    metadata["model"] = metadata["model"].replace('"vocab_size"', '"words"')
    metadata["sha256"] = checksum(old)
    for path in folder.glob("*.safetensors"):  # those that were written before and are named by this one
        sha256 = read_metadata(weights_path(path.stem))["sha256"]
        metadata["model"] = metadata["model"].replace(sha256, read_metadata(path)["sha256"])
    save_file(old, folder / f"{name}.safetensors", metadata)


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory):
    """Shipped weights, aged and rewritten."""
    folder = tmp_path_factory.mktemp("weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in AGED:
            _age(name, folder)
        assert migrate(sorted(folder.glob("*.safetensors"))) == sorted(folder.glob("*.safetensors"))
    return folder


@pytest.mark.parametrize("name", AGED)
def test_rewritten_weights_are_the_shipped_ones(rewritten, name):
    tensors, metadata = read_tensors(rewritten / f"{name}.safetensors")
    shipped, shipped_metadata = read_tensors(weights_path(name))
    assert metadata == shipped_metadata
    assert tensors.keys() == shipped.keys()
    assert all(torch.equal(tensor, shipped[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize("path", sorted(weights_path("clip").parent.glob("*.safetensors")), ids=lambda path: path.stem)
def test_shipped_weights_have_the_names_of_today(path, tmp_path):
    copy = Path(shutil.copy(path, tmp_path))
    assert migrate([copy]) == []


def test_a_second_time_nothing_is_left_to_do(rewritten, capsys):
    before = {path: path.read_bytes() for path in rewritten.glob("*.safetensors")}
    assert main([str(path) for path in before]) == 0
    assert capsys.readouterr().out == ""
    assert all(path.read_bytes() == content for path, content in before.items())


def test_two_tensors_of_one_name_are_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "both.safetensors"
    save_weights({"fine.bias": torch.zeros(1), "detail.bias": torch.ones(1)}, path, {})
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"both.safetensors: two tensors would get the same name"):
        migrate([path])
    assert path.read_bytes() == content
