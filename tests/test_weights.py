"""Files of weights: what goes in comes out, and nothing damaged or ill-fitting gets in unnoticed."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers.weights import load_weights, read_metadata, read_tensors, save_weights, write_tensors
from helpers.weights import shipped as weights
from helpers.weights.causes import guess_cause
from helpers.weights.pretrained import checkpoint_keys, map_key, read_checkpoint


def network(width=8):
    torch.manual_seed(width)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(4, 2))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "folder" / "net.safetensors"
    save_weights(network(), path, {"command": "python -m nothing", "seed": "3"})
    return path


def test_weights_come_back_in_the_modules_own_dtype(saved):
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 2))
    metadata = load_weights(other, saved)
    assert metadata["command"] == "python -m nothing" and metadata["seed"] == "3"
    for name, tensor in network().state_dict().items():
        assert other.state_dict()[name].dtype == tensor.dtype  # num_batches_tracked stays an integer
        torch.testing.assert_close(other.state_dict()[name], tensor.half().to(tensor.dtype), rtol=0, atol=0)


def test_files_are_half_precision_and_bytewise_reproducible(saved, tmp_path):
    assert saved.stat().st_size < 2 * sum(p.numel() for p in network().parameters()) + 2000
    save_weights(network().state_dict(), tmp_path / "again.safetensors", {"seed": "3", "command": "python -m nothing"})
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 2))
    assert load_weights(module, tmp_path / "again.safetensors")["sha256"] == load_weights(network(), saved)["sha256"]


def test_nothing_is_left_of_a_write_that_fails(saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        save_weights(network(4), saved, {})
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_that_fp16_cannot_hold_are_refused(value, tmp_path):
    with pytest.raises(ValueError, match="gain"):
        save_weights({"gain": torch.tensor([1.0, value])}, tmp_path / "x.safetensors", {})
    assert not list(tmp_path.iterdir())


def test_metadata_is_text(tmp_path):
    with pytest.raises(TypeError, match="json.dumps"):
        save_weights({"gain": torch.ones(1)}, tmp_path / "x.safetensors", {"seed": 3})


def test_missing_weights_say_where_and_how(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "repository_root", lambda: tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        load_weights(network(), "scorer")
    assert str(tmp_path / "00_assets" / "weights" / "scorer.safetensors") in str(error.value)
    assert "python -m helpers.scoring.attributes" in str(error.value)
    with pytest.raises(FileNotFoundError, match="no-such.*knows weights for.*scorer"):
        load_weights(network(), "no-such")
    with pytest.raises(FileNotFoundError, match="looked for .*gone.safetensors"):
        load_weights(network(), tmp_path / "gone.safetensors")
    save_weights(network(), tmp_path / "00_assets" / "weights" / "scorer.safetensors", {"seed": "9"})
    assert load_weights(network(), "scorer")["seed"] == "9"


def test_a_name_means_the_courses_weights_whatever_lies_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "repository_root", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    save_weights(network(), tmp_path / "00_assets" / "weights" / "clip.safetensors", {"seed": "shipped"})
    save_weights(network(), tmp_path / "clip", {"seed": "a file of the same name"})
    save_weights(network(), tmp_path / "mine.safetensors", {"seed": "mine"})
    assert read_metadata("clip")["seed"] == load_weights(network(), "clip")["seed"] == "shipped"
    for path in ("./clip", Path("clip"), tmp_path / "clip"):
        assert read_metadata(path)["seed"] == "a file of the same name"
    assert read_metadata("mine.safetensors")["seed"] == "mine"
    (tmp_path / "other").write_bytes((tmp_path / "clip").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"no weights 'other'.*is written \./other"):
        read_metadata("other")


def test_metadata_are_read_without_reading_the_tensors(saved, monkeypatch):
    def never(*_):
        raise AssertionError("the tensors were hashed")

    with monkeypatch.context() as patched:
        patched.setattr(weights, "checksum", never)
        assert read_metadata(saved)["seed"] == "3"
    saved.write_bytes(saved.read_bytes().replace(b'"seed":"3"', b'"seed":"8"'))
    with pytest.raises(ValueError, match="is damaged.*its metadata do not have the checksum"):
        read_metadata(saved)


def flip_last_byte(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def lie_about_a_shape(data):
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["0.weight"]["shape"] = [8, 3, 3, 4]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def swap_two_tensors(data):
    data = data.replace(b'"1.weight"', b'"1.wxight"').replace(b'"1.bias"', b'"1.weight"')
    return data.replace(b'"1.wxight"', b'"1.bias"')


@pytest.mark.parametrize(
    "damage",
    [
        flip_last_byte,
        lie_about_a_shape,
        swap_two_tensors,
        lambda data: data[:-10],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: struct.pack("<Q", 2**60) + data[8:],
        lambda data: b"\x80\x05pickle" * 50,
    ],
)
def test_damaged_files_are_refused_and_the_module_stays_as_it_was(damage, saved):
    saved.write_bytes(damage(saved.read_bytes()))
    module = network(8)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match="is damaged.*train it again"):
        load_weights(module, saved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def unsealed(path):
    """As the course wrote files before their metadata had a checksum."""
    tensors, metadata = weights.read_tensors(path)
    del metadata[weights.METADATA_CHECKSUM]
    save_file(tensors, path, metadata)
    return metadata


def test_files_of_an_older_version_are_taken_with_a_warning(saved):
    metadata = unsealed(saved)
    with pytest.warns(UserWarning, match="older version of the course"):
        assert load_weights(network(8), saved) == metadata


def test_a_file_without_a_checksum_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no checksum"):
        load_weights(network(), tmp_path / "foreign.safetensors")


def test_every_weight_that_does_not_fit_is_named(saved):
    other = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Identity(), nn.Linear(4, 2))
    before = other.state_dict()["1.weight"].clone()
    with pytest.raises(ValueError) as error:
        load_weights(other, saved)
    for part in (
        "0.weight: (8, 3, 3, 3) in the file, (8, 3, 5, 5) in the module",
        "2.bias: unknown to the module",
        "3.bias: missing from the file",
    ):
        assert part in str(error.value)
    assert torch.equal(other.state_dict()["1.weight"], before)


def test_not_strict_passes_over_names_but_never_over_shapes(saved):
    load_weights(nn.Sequential(nn.Conv2d(3, 8, 3)), saved, strict=False)
    with pytest.raises(ValueError, match="0.weight"):
        load_weights(nn.Sequential(nn.Conv2d(3, 8, 5)), saved, strict=False)


def test_checkpoints_keep_their_dtypes_and_metadata_is_read_without_a_module(saved, tmp_path):
    tensors = {"step": torch.tensor(7), "moments": torch.tensor([1e5, 1 / 3])}
    write_tensors(tmp_path / "checkpoint.safetensors", tensors, {"step": "7"})
    read, metadata = read_tensors(tmp_path / "checkpoint.safetensors")
    assert metadata["step"] == "7" and read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)
    assert read_metadata(saved)["seed"] == "3"


MAPPING = [  # the worked example of helpers/weights/pretrained.py
    (r"\.block\.", ".transformer_blocks.0."),
    (r"\.cross_attention\.", ".attn2."),
    (r"\.to_kv\.", ".to_{kv}."),
    (r"^down\.(\d+)\.transformer\.", r"down_blocks.\1.attentions."),
]


def test_a_key_mapping_is_applied_in_order_and_braces_stand_for_several_tensors():
    name = "down.1.transformer.0.block.cross_attention.to_kv.weight"
    prefix = "down_blocks.1.attentions.0.transformer_blocks.0.attn2."
    assert map_key(name, MAPPING) == prefix + "to_{kv}.weight"
    assert checkpoint_keys(name, MAPPING) == [prefix + "to_k.weight", prefix + "to_v.weight"]
    assert checkpoint_keys("norm.bias", MAPPING) == ["norm.bias"]


def test_the_first_cause_that_matches_is_the_likeliest():
    nothing = torch.zeros(1)
    assert guess_cause({"input_blocks.0.lora_up": nothing}).startswith("a LoRA")
    assert guess_cause({"input_blocks.0.weight": nothing}).startswith("Stable Diffusion 1, 2 or XL")
    assert guess_cause({"input_blocks.0.weight": nothing}, "sd1") == "", "no explanation: it is what is being loaded"
    assert guess_cause({"vae.conv": nothing}) == ""


def test_a_flipped_bit_of_a_pickle_is_noticed_although_torch_load_does_not(tmp_path):
    """Why `check_zip` reads the whole archive: PyTorch is built without the CRC checks of zip archives."""
    path = tmp_path / "weights.ckpt"
    torch.save({"a": torch.zeros(1000)}, path)
    data = bytearray(path.read_bytes())
    data[bytes(data).rindex(bytes(4000)) + 100] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["a"].count_nonzero() == 1
    with pytest.raises(ValueError, match="does not have its checksum"):
        read_checkpoint(path)
