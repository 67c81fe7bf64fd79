"""Bad input for Stable Diffusion 1: files that are something else or damaged, arguments that make no sense.

Each case is a call that must raise, and a pattern its message must match: what is wrong, where, what to do.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.sd1.reference import SMALL
from helpers.sd1.pipeline import StableDiffusion1

UNET = "model.diffusion_model."


class Fault(NamedTuple):
    """One case."""

    call: Callable[[], Any]
    message: str  # a pattern of the error's text
    error: type[Exception] = ValueError


class Malware:
    """Unpickling it would run a command: a reader of weights must never come so far."""

    def __reduce__(self):
        import os

        return os.system, ("echo this must never be printed",)


def refused(fault: Fault) -> bool:
    """Whether the call raises what it should, saying what it should."""
    try:
        fault.call()
    except Exception as error:
        return isinstance(error, fault.error) and re.search(fault.message, str(error)) is not None
    return False


def argument_faults(model: StableDiffusion1) -> dict[str, Fault]:
    """Arguments of `generate`."""

    def ask(prompt: Any = "a cat", **options: Any) -> Callable[[], Any]:
        return lambda: model.generate(prompt, progress=False, **options)

    picture = torch.zeros(3, 64, 64)
    mask = torch.ones(64, 64)
    return {
        "no steps": Fault(ask(steps=0), "steps must be a whole number from 1 to 999, got 0"),
        "more steps than training had": Fault(ask(steps=1000), "steps must be .* got 1000"),
        "half a step": Fault(ask(steps=2.5), "steps must be a whole number"),
        "guidance in words": Fault(ask(guidance_scale="strong"), "guidance_scale must be a number .* got 'strong'"),
        "negative guidance": Fault(ask(guidance_scale=-1), "guidance_scale must be a number from 0"),
        "guidance NaN": Fault(ask(guidance_scale=float("nan")), "guidance_scale must be .* got nan"),
        "a seed that is none": Fault(ask(seed="lucky"), "seed must be a whole number .* got 'lucky'"),
        "a negative seed": Fault(ask(seed=-1), "seed must be .* got -1"),
        "a width that does not fit": Fault(ask(width=60), "width must be a multiple of 8 pixels, got 60"),
        "no height": Fault(ask(height=0), "height must be a multiple of 8 pixels, got 0"),
        "no pictures": Fault(ask(num_images=0), "num_images must be .* got 0"),
        "an unknown sampler": Fault(ask(sampler="plms"), "unknown sampler 'plms': choose one of ddpm, ddim"),
        "no prompt": Fault(ask([]), r"prompt must be a text or a list of texts, got \[\]"),
        "a prompt that is no text": Fault(ask(7), "prompt must be a text or a list of texts, got 7"),
        "negative prompts that do not match": Fault(
            ask(["a", "b", "c"], negative_prompt=["x", "y"]),
            "one negative_prompt for all or one per prompt: got 2, prompts 3",
        ),
        "too much strength": Fault(
            ask(init_image=picture, strength=1.5), "strength must be a number from 0 to 1, got 1.5"
        ),
        "a mask without a picture": Fault(ask(mask_image=mask), "mask_image needs an init_image"),
        "a path for a picture": Fault(
            ask(init_image="cat.png"), "init_image must be a PIL picture or a tensor .* got str", TypeError
        ),
        "a picture in 0..255": Fault(
            ask(init_image=picture + 200), r"init_image must be \(3, H, W\) floats in \[-1, 1\]"
        ),
        "a picture with NaN": Fault(ask(init_image=picture / 0), "init_image is empty or holds NaN"),
        "a grey picture": Fault(ask(init_image=picture[:1]), r"init_image must be \(3, H, W\).* got .*\(1, 64, 64\)"),
        "a picture of another size": Fault(
            ask(init_image=picture, width=128), r"init_image is 64x64 pixels .* the picture 128x64: resize one"
        ),
        "a mask of another size": Fault(
            ask(init_image=picture, mask_image=Image.new("L", (32, 32))), "mask_image is 32x32 pixels"
        ),
        "a mask beyond 1": Fault(
            ask(init_image=picture, mask_image=mask * 255), r"mask_image must be \(H, W\) in \[0, 1\]"
        ),
        "too much clip skip": Fault(ask(clip_skip=3), "clip_skip must be a whole number from 0 to 2, got 3"),
    }


def file_faults(layouts: dict[str, Path], tensors: dict[str, Tensor], into: Path) -> dict[str, Fault]:
    """Checkpoints that are not what they should be; files are written into the folder `into`."""
    tokenizer = layouts["tokenizer"]

    def load(path: str | Path, **options: Any) -> Callable[[], Any]:
        return lambda: StableDiffusion1.from_checkpoint(path, **{"config": SMALL, "tokenizer": tokenizer, **options})

    def file(name: str, content: dict[str, Tensor] | bytes) -> Callable[[], Any]:
        path = into / name
        path.write_bytes(content) if isinstance(content, bytes) else save_file(content, path)
        return load(path)

    def pickled(name: str, content: Any) -> Callable[[], Any]:
        torch.save(content, into / name)
        return load(into / name)

    def folder(name: str) -> Path:
        shutil.copytree(layouts["diffusers"], into / name)
        return into / name

    def without(start: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}

    def wider(end: str, axis: int, size: int) -> dict[str, Tensor]:
        """Tensors whose name ends so, as another architecture has them."""
        return {
            name: tensor.new_zeros([size if a == axis else s for a, s in enumerate(tensor.shape)])
            if name.endswith(end)
            else tensor
            for name, tensor in tensors.items()
        }

    stem = UNET + "input_blocks.0.0.weight"
    head = UNET + "out.2.weight"
    good = layouts["safetensors"].read_bytes()
    pickle = layouts["ckpt"].read_bytes()
    index = folder("xl") / "model_index.json"
    broken = folder("broken")
    index.write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (into / "empty").mkdir()
    (into / "empty_merges.txt").write_text("#version: 0.2\n")
    single = layouts["safetensors"]
    second = folder("second")
    text_file = second / "text_encoder" / "model.safetensors"
    save_file({name: torch.zeros(1024) for name in load_file(text_file)}, text_file)  # as wide as OpenCLIP's
    unet_file = second / "unet" / "diffusion_pytorch_model.safetensors"
    crossed = {
        name: tensor.new_zeros(len(tensor), 1024) if name.endswith("attn2.to_k.weight") else tensor
        for name, tensor in load_file(unet_file).items()
    }
    save_file(crossed, unet_file)
    (into / "short_merges.txt").write_text("#version: 0.2\na b</w>\n")
    return {
        "no such file": Fault(load(into / "nowhere.safetensors"), "no checkpoint at .*nowhere", FileNotFoundError),
        "a hub id out of reach": Fault(load("nobody-here/nothing-there"), "the hub did not give it", FileNotFoundError),
        "an empty folder": Fault(
            load(into / "empty"), "no complete folder of weights.* it holds nothing", FileNotFoundError
        ),
        "a folder without its U-Net": Fault(load(broken), "none of unet/diffusion_pytorch_model", FileNotFoundError),
        "an SDXL folder": Fault(load(index.parent), "holds a StableDiffusionXLPipeline, not Stable Diffusion 1"),
        "a variant that is not there": Fault(
            load(layouts["diffusers"], variant="fp16"), "fp16.safetensors", FileNotFoundError
        ),
        "a picture": Fault(file("cat.png", b"\x89PNG"), "cat.png is no checkpoint the course can read"),
        "an empty file": Fault(file("empty.safetensors", b""), "damaged or no safetensors file, download it again"),
        "a truncated file": Fault(file("short.safetensors", good[: len(good) // 2]), "damaged or no safetensors file"),
        "a truncated pickle": Fault(file("short.ckpt", pickle[: len(pickle) // 2]), "damaged or no checkpoint"),
        "a pickle that runs code": Fault(
            pickled("evil.ckpt", {"state_dict": {"a": Malware()}}), "is refused: reading it would run .*system"
        ),
        "a pickle of a list": Fault(
            pickled("list.ckpt", [torch.zeros(1)]), "holds a list, not a table of named tensors"
        ),
        "a web page": Fault(file("page.ckpt", b"<!doctype html><title>404</title>"), "a web page, not a checkpoint"),
        "a git-lfs pointer": Fault(
            file("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1"), "a git-lfs pointer.*git lfs pull"
        ),
        "a Stable Diffusion 2 folder": Fault(load(second), "not the text encoder.*Likeliest cause: Stable Diffusion 2"),
        "a variant of a single file": Fault(load(single, variant="fp16"), "chooses among a folder's files"),
        "an average of a folder": Fault(load(layouts["diffusers"], ema=True), "ema=True is for single files"),
        "another model's tokenizer": Fault(
            load(single, tokenizer=into / "short_merges.txt"), "knows 515 tokens, the text encoder"
        ),
        "a missing tensor": Fault(file("missing.safetensors", without(head)), "not the U-Net.*missing out.2.weight"),
        "a tensor too many": Fault(
            file("extra.safetensors", {**tensors, UNET + "out.9.bias": torch.zeros(3)}), "unexpected out.9.bias"
        ),
        "a tensor of another shape": Fault(
            file("shape.safetensors", {**tensors, head: torch.zeros(4, 16, 3, 3)}),
            r"out.2.weight is \(4, 16, 3, 3\), made for \(4, 32, 3, 3\)",
        ),
        "no text encoder": Fault(
            file("deaf.safetensors", without("cond_stage_model.")), "not the text encoder.*missing"
        ),
        "no autoencoder": Fault(
            file("blind.safetensors", without("first_stage_model.")), "not the autoencoder.*missing"
        ),
        "an inpainting model": Fault(
            file("inpaint.safetensors", wider(stem, 1, 9)), "Likeliest cause: an inpainting model"
        ),
        "InstructPix2Pix": Fault(file("pix2pix.safetensors", wider(stem, 1, 8)), "Likeliest cause: InstructPix2Pix"),
        "Stable Diffusion 2": Fault(
            file("sd2.safetensors", wider("attn2.to_k.weight", 1, 1024)),
            "Likeliest cause: Stable Diffusion 2, whose text states are 1024 wide",
        ),
        "SDXL": Fault(
            file("xl.safetensors", {**tensors, "conditioner.embedders.0.x": torch.zeros(1)}),
            "unexpected tensors.*conditioner.*Likeliest cause: SDXL",
        ),
        "a LoRA": Fault(
            file("lora.safetensors", {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(2, 2)}),
            "no Stable Diffusion checkpoint.*a LoRA, a small addition",
        ),
        "a ControlNet": Fault(
            file("control.safetensors", {"control_model.zero_convs.0.0.weight": torch.zeros(2)}), "a ControlNet"
        ),
        "Stable Diffusion 3": Fault(
            file("sd3.safetensors", {"joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(2)}),
            "Stable Diffusion 3: see notebook 04",
        ),
        "an autoencoder alone": Fault(
            file("vae.safetensors", {"decoder.conv_in.weight": torch.zeros(2)}), "an autoencoder alone"
        ),
        "averaged weights alone": Fault(
            file("ema.safetensors", {"model_ema.diffusion_modeloutweight": torch.zeros(2)}), "averaged weights only"
        ),
        "an average that is not there": Fault(load(single, ema=True), "no averaged U-Net.*load it with ema=False"),
        "no tokenizer": Fault(
            load(single, tokenizer=into / "nowhere"), "no tokenizer at .*merges.txt", FileNotFoundError
        ),
        "a tokenizer without merges": Fault(load(single, tokenizer=into / "empty_merges.txt"), "is no list of merges"),
    }
