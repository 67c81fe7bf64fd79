"""What single files and folders may hold: numbers that cannot be used, shards, variants, pointers, other endings."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.paligemma.reference import reference, write_folder
from helpers.autoencoders.load import load_autoencoder
from helpers.text.bpe import BytePairTokenizer
from helpers.vlm.pipeline import PaliGemma
from helpers.weights.causes import drop_unused, guess_cause
from helpers.weights.folders import find_part
from helpers.weights.pretrained import read_checkpoint, read_json_config

STEMS = ("diffusion_pytorch_model",)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265146304\n"


def spoil(path, name_part: str, value: float) -> str:
    """Give one number of the first tensor whose name holds this part a value; returns the tensor's name."""
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if name_part in name and tensors[name].ndim > 1)
    tensors[name].view(-1)[0] = value
    save_file(tensors, path)
    return name


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize(("part", "stem"), [("text_encoder", "model"), ("vae", "diffusion_pytorch_model")])
def test_sd1_names_tensor_and_file_of_a_number_that_is_none(sd1, sd1_folder, part, stem, value):
    path = sd1_folder / part / f"{stem}.safetensors"
    name = spoil(path, "weight", value)
    with pytest.raises(ValueError, match="holds NaN or infinity in 1 of .* places: download it again") as refusal:
        sd1.load(sd1_folder)
    assert name in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.fault("checkpoints", refused=True)
def test_sd3_names_tensor_and_file_of_a_number_that_is_none(sd3, sd3_folder):
    path = sd3_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    name = spoil(path, "transformer_blocks.1.attn.to_k", float("nan"))
    with pytest.raises(ValueError, match="every image would be NaN") as refusal:
        sd3.load(sd3_folder, t5=False)
    assert name in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize(("value", "dtype"), [(7e4, torch.float16), (-1e5, torch.float16)])
def test_a_number_too_large_for_the_dtype_is_named(sd3, sd3_folder, value, dtype):
    path = sd3_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    name = spoil(path, "transformer_blocks.0.ff.net.2", value)
    with pytest.raises(ValueError, match=r"torch.float16 ends at 6.55e\+04: load with dtype=torch.float32") as refusal:
        sd3.load(sd3_folder, t5=False, dtype=dtype)
    assert name in str(refusal.value)
    assert sd3.load(sd3_folder, t5=False, dtype=torch.bfloat16)


@pytest.mark.fault("checkpoints", refused=True)
def test_an_autoencoder_alone_names_its_file(sd1_folder):
    path = sd1_folder / "vae" / "diffusion_pytorch_model.safetensors"
    name = spoil(path, "decoder.conv_in", float("inf"))
    with pytest.raises(ValueError, match="holds NaN or infinity") as refusal:
        load_autoencoder(sd1_folder / "vae")
    assert name in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.fault("checkpoints", refused=True)
def test_paligemma_names_its_folder(tmp_path):
    folder = write_folder(reference(), tmp_path / "x", 2025)
    spoil(folder / "model.safetensors", "mlp.gate_proj", float("nan"))
    with pytest.raises(ValueError, match=f"PaliGemma cannot be used.*mlp.gate_proj.weight holds NaN.*in {folder}"):
        PaliGemma.from_checkpoint(folder)


# --- one reader ------------------------------------------------------------------------------------------------------


def touch(folder, *names: str):
    (folder / "unet").mkdir(exist_ok=True)
    for name in names:
        save_file({"x": torch.zeros(1)}, folder / "unet" / name)


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"], 1),
        (["diffusion_pytorch_model.bf16.safetensors"], 0),
        (["diffusion_pytorch_model.non_ema.safetensors", "diffusion_pytorch_model.bf16.safetensors"], 1),
        (["diffusion_pytorch_model.SAFETENSORS"], 0),
        (["diffusion_pytorch_model.fp16.Safetensors"], 0),
    ],
)
def test_the_best_file_is_taken(tmp_path, names, expected):
    touch(tmp_path, *names)
    assert [path.name for path in find_part(tmp_path, "unet", STEMS)] == [names[expected]]


@pytest.mark.fault("checkpoints", refused=True)
def test_shards_are_found_without_their_index(tmp_path):
    names = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    touch(tmp_path, *names)
    assert [path.name for path in find_part(tmp_path, "unet", STEMS)] == names
    (tmp_path / "unet" / names[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"comes in 3 shards without an index: \[2\].*download the rest"):
        find_part(tmp_path, "unet", STEMS)


@pytest.mark.fault("checkpoints")
def test_shards_of_a_variant(tmp_path):
    names = [f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    touch(tmp_path, *names)
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    for variant in (None, "fp16"):
        assert [path.name for path in find_part(tmp_path, "unet", STEMS, variant)] == names


@pytest.mark.fault("checkpoints", refused=True)
def test_a_variant_that_only_some_parts_of_sd1_have(sd1, sd1_folder):
    unet = sd1_folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert sd1.load(sd1_folder, variant="fp16")
    with pytest.raises(FileNotFoundError, match="holds no part as variant 'int4': leave variant= out"):
        sd1.load(sd1_folder, variant="int4")


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", POINTER.encode(), "a git-lfs pointer, not the checkpoint itself .git lfs pull"),
        ("x.bin", POINTER.encode(), "a git-lfs pointer"),
        ("x.safetensors", b"<!doctype html><p>Sign in</p>", "a web page, not a checkpoint: download it again"),
        ("x.safetensors", b"PK\x03\x04" + bytes(60), "a pickle under another name: let its name end in .ckpt"),
        ("x.ckpt", b"GGUF" + bytes(60), "a GGUF file: it is quantised"),
        ("x.gguf", b"GGUF" + bytes(60), "x.gguf cannot be read: it is quantised"),
        ("x.tflite", bytes(60), "is no checkpoint the course can read"),
    ],
)
def test_a_file_that_is_none_says_what_it_is(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / name)


@pytest.mark.fault("checkpoints", refused=True)
def test_a_safetensors_file_under_the_name_of_a_pickle(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="a safetensors file under another name: let its name end in .safetensors"):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize("ending", [".SAFETENSORS", ".CKPT"])
def test_an_ending_in_capitals_is_an_ending(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    if ending == ".CKPT":
        torch.save({"a": torch.ones(2)}, path)
    else:
        save_file({"a": torch.ones(2)}, path)
    assert read_checkpoint(path)["a"].tolist() == [1, 1]


@pytest.mark.fault("checkpoints")
def test_configurations_and_merges_may_begin_with_a_mark_of_their_encoding(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    (tmp_path / "merges.txt").write_bytes(b"\xef\xbb\xbf" + b"#version: 0.2\na b</w>\n")
    assert read_json_config(tmp_path / "config.json") == {"a": 1}
    assert BytePairTokenizer.from_file(tmp_path / "merges.txt").merges == [("a", "b</w>")]


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize("name", ["config.json", "merges.txt", "tokenizer.json"])
def test_a_pointer_in_place_of_a_text_is_one(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    read = read_json_config if name == "config.json" else BytePairTokenizer.from_file
    with pytest.raises(ValueError, match=f"{name} is a git-lfs pointer"):
        read(tmp_path / name)


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    "name",
    [
        "text_encoders.clip_l.logit_scale",
        "text_encoders.t5xxl.logit_scale",
        "denoiser.sigmas",
        "first_stage_model.loss.x",
    ],
)
def test_sd3_leaves_out_what_nobody_needs(sd3, tmp_path, name):
    save_file(load_file(sd3.single_file) | {name: torch.zeros(2)}, tmp_path / "more.safetensors")
    assert sd3.load(tmp_path / "more.safetensors", tokenizers=sd3.tokenizers, t5=False)


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize("name", ["loss.discriminator.main.0.weight", "model_ema.decay", "scale_factor"])
def test_what_training_left_in_an_autoencoder_is_left_out(name):
    assert (
        "decoder.conv_in.weight" in drop_unused({name: torch.zeros(1), "decoder.conv_in.weight": torch.zeros(1)})
    ) and (name == "model_ema.decay" or name not in drop_unused({name: torch.zeros(1)}))


@pytest.mark.fault("checkpoints")
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("down_blocks.0.attentions.0.to_k.weight.absmax", "quantised"),
        ("transformer_blocks.0.attn.to_q.SCB", "quantised"),
        ("motion_modules.0.weight", "AnimateDiff"),
        ("ip_adapter.1.to_k_ip.weight", "IP-Adapter"),
        ("string_to_param", "textual inversion"),
        ("cond_stage_model.model.ln_final.weight", "Stable Diffusion 2"),
    ],
)
def test_the_cause_is_named(name, cause):
    assert cause in guess_cause({name: torch.zeros(1)})


@pytest.mark.fault("checkpoints", refused=True)
def test_integers_in_place_of_fractions_are_quantised(sd1, tmp_path):
    tensors = load_file(sd1.single_file)
    name = next(name for name in tensors if name.endswith("attn1.to_q.weight"))
    tensors[name] = tensors[name].to(torch.int8)
    save_file(tensors, tmp_path / "int8.safetensors")
    with pytest.raises(ValueError, match="to_q.weight is stored as torch.int8: it is quantised"):
        sd1.load(tmp_path / "int8.safetensors")


@pytest.mark.fault("checkpoints", refused=True)
def test_a_repository_of_single_files_on_the_hub_says_what_to_do(sd3, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.weights.folders.fetch", lambda *_: tmp_path)
    with pytest.raises(FileNotFoundError, match="if it holds single files, download one of them .hf download some/sd3"):
        sd3.load("some/sd3")


@pytest.mark.fault("checkpoints", refused=True)
def test_a_repository_of_several_single_files_asks_for_one(sd1, tmp_path):
    tensors = load_file(sd1.single_file)
    for name in ("dreams", "anime"):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="several single files, anime.safetensors, dreams.safetensors: pass the path"):
        sd1.load(tmp_path)


@pytest.mark.fault("checkpoints", refused=True)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": torch.float8_e4m3fn}, ValueError, "dtype must be one of .*got torch.float8"),
        ({"dtype": "bfloat16"}, TypeError, "got 'bfloat16', which is no torch.dtype"),
        ({"device": "gpu"}, ValueError, "device must be one that PyTorch knows, .*got 'gpu'"),
        ({"prediction": "noise"}, ValueError, "prediction must be 'epsilon' or 'v'.*got 'noise'"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_read(sd1, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        sd1.load(tmp_path / "not read.safetensors", **options)


@pytest.mark.fault("checkpoints", refused=True)
def test_one_tokenizer_is_not_two(sd3):
    with pytest.raises(ValueError, match="tokenizers must be two, CLIP's and T5's"):
        sd3.load(sd3.single_file, tokenizers="folder")
