"""Bad input for Stable Diffusion 3: files that are something else or incomplete, arguments that make no sense.

Each case is a call that must raise, and a pattern its message must match: what is wrong, where, what to do.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.sd1.refusals import Fault
from benchmarks.sd3.reference import SMALL
from helpers.sd3.checkpoint import PREFIXES
from helpers.sd3.pipeline import StableDiffusion3

CORE = PREFIXES["transformer"]


def argument_faults(model: StableDiffusion3) -> dict[str, Fault]:
    """Arguments of `generate` that Stable Diffusion 1 does not have, or has with other limits."""

    def ask(prompt: Any = "a cat", **options: Any) -> Callable[[], Any]:
        return lambda: model.generate(prompt, progress=False, **options)

    return {
        "no steps": Fault(ask(steps=0), "steps must be a whole number from 1 to 999, got 0"),
        "a width that patches do not cover": Fault(ask(width=56), "width must be a multiple of 16 pixels, got 56"),
        "a shift of nothing": Fault(ask(shift=0), "shift must be a number from 0.01 to 100, got 0"),
        "a shift in words": Fault(ask(shift="more"), "shift must be a number .* got 'more'"),
        "a layer that is not there": Fault(ask(skip_layers=[3]), "skip_layers must be a whole number from 0 to 2"),
        "a picture beyond the table of positions": Fault(ask(height=208), "height must be at most 192 pixels, got 208"),
        "skipping in no step": Fault(
            ask(steps=4, skip_layers=[1]), "skip_layers would act in none of the 4 steps: take more steps, or widen"
        ),
        "a prompt for a T5 that is switched off": Fault(
            ask(prompt_3="a dog", use_t5=False), "prompt_3 is for T5, which is not loaded or switched off"
        ),
        "skipping without guidance": Fault(
            ask(skip_layers=[1], guidance_scale=1), "skip_layers adds to guidance: set a guidance_scale other than 1"
        ),
        "skipping beyond the end": Fault(ask(skip_until=1.5), "skip_until must be a number from 0 to 1, got 1.5"),
        "second prompts that do not match": Fault(
            ask(["a", "b", "c"], prompt_2=["x", "y"]), "one prompt_2 for all or one per prompt: got 2, prompts 3"
        ),
        "a third prompt that is no text": Fault(ask(prompt_3=7), "prompt_3 must be a text or a list of texts, got 7"),
        "too much clip skip": Fault(ask(clip_skip=2), "clip_skip must be a whole number from 0 to 1, got 2"),
        "an unknown sampler": Fault(ask(sampler="flow"), "unknown sampler 'flow': choose one of ddpm, ddim, euler"),
    }


def file_faults(made: Any, tensors: dict[str, Tensor], into: Path) -> dict[str, Fault]:
    """Checkpoints that are not what they should be; files are written into the folder `into`.

    Args:
        made: has `layouts` and `words` of a small Stable Diffusion 3.
        tensors: of its single file.
    """

    def load(path: str | Path, **options: Any) -> Callable[[], Any]:
        options = {"config": SMALL, "tokenizers": made.words, **options}
        return lambda: StableDiffusion3.from_checkpoint(path, **options)

    def file(name: str, content: dict[str, Tensor] | bytes, **options: Any) -> Callable[[], Any]:
        path = into / name
        path.write_bytes(content) if isinstance(content, bytes) else save_file(content, path)
        return load(path, **options)

    def folder(name: str) -> Path:
        shutil.copytree(made.layouts["diffusers"], into / name)
        return into / name

    def without(start: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}

    first = folder("sd1")
    lame = folder("lame")
    sharded = folder("sharded")
    single = made.layouts["single"]
    (first / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    shutil.rmtree(lame / "transformer")
    (lame / "transformer").mkdir()
    whole = sharded / "transformer" / "diffusion_pytorch_model.safetensors"
    index = {"weight_map": dict.fromkeys(load_file(whole), "diffusion_pytorch_model-00001-of-00002.safetensors")}
    whole.with_suffix(".safetensors.index.json").write_text(json.dumps(index))
    (into / "empty").mkdir()
    core = {name: tensor for name, tensor in tensors.items() if not name.startswith("text_encoders.")}
    table = tensors[CORE + "pos_embed"]
    return {
        "no such file": Fault(load(into / "nowhere.safetensors"), "no checkpoint at .*nowhere", FileNotFoundError),
        "a hub id out of reach": Fault(load("nobody-here/nothing-there"), "the hub did not give it", FileNotFoundError),
        "an empty folder": Fault(
            load(into / "empty"), "no complete folder of weights.*it holds nothing|none of", FileNotFoundError
        ),
        "a Stable Diffusion 1 folder": Fault(load(first), "holds a StableDiffusionPipeline, not Stable Diffusion 3"),
        "a folder without its transformer": Fault(load(lame), "none of transformer/", FileNotFoundError),
        "a folder with half its shards": Fault(
            load(sharded), "lists diffusion_pytorch_model-00001.*lacks: download the rest", FileNotFoundError
        ),
        "a variant of a single file": Fault(load(single, variant="fp16"), "chooses among a folder's files"),
        "encoders of a folder": Fault(
            load(made.layouts["diffusers"], encoders=into), "encoders= is for single files that come without"
        ),
        "a file without text encoders": Fault(
            file("core.safetensors", core), "comes without text encoders: pass the folder of clip_l.safetensors"
        ),
        "text encoders that are not there": Fault(
            file("core2.safetensors", core, encoders=into / "empty"),
            "lacks the text encoders clip_l, clip_g, t5",
            FileNotFoundError,
        ),
        "encoders for a file that has its own": Fault(load(single, encoders=into), "holds its own text encoders"),
        "a mistyped file with encoders": Fault(
            load(into / "typo.safetensors", encoders=into),
            "no checkpoint at .*typo.safetensors: no such file",
            FileNotFoundError,
        ),
        "a variant that is not there": Fault(
            load(made.layouts["diffusers"], variant="fp16"), "holds no part as variant 'fp16'", FileNotFoundError
        ),
        "another encoder's tokenizer": Fault(
            load(single, config=replace(SMALL, clip_l=replace(SMALL.clip_l, vocabulary=99))),
            "tokenizers of .* tokens do not belong to text encoders of 99 and 64: pass others as tokenizers=",
        ),
        "a truncated file": Fault(file("short.safetensors", single.read_bytes()[:999]), "damaged or no safetensors"),
        "a missing tensor": Fault(
            file("missing.safetensors", without(CORE + "final_layer.linear.bias")),
            "not the transformer of Stable Diffusion 3.*missing final_layer.linear.bias",
        ),
        "a tensor too many": Fault(
            file("extra.safetensors", {**tensors, CORE + "register_tokens": torch.zeros(3)}),
            "unexpected register_tokens",
        ),
        "a stranger beside the parts": Fault(
            file("strange.safetensors", {**tensors, "control_model.x": torch.zeros(3)}), "holds 1 unexpected tensors"
        ),
        "another table of positions": Fault(
            file("table.safetensors", {**tensors, CORE + "pos_embed": table + 0.1}), "not the table of positions"
        ),
        "no autoencoder": Fault(
            file("blind.safetensors", without("first_stage_model.")), "not the autoencoder.*missing"
        ),
        "Stable Diffusion 1": Fault(
            file("sd1.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}),
            "no Stable Diffusion 3 checkpoint.*notebook 03",
        ),
        "Flux": Fault(file("flux.safetensors", {"double_blocks.0.x": torch.zeros(2)}), "Flux, another architecture"),
        "a LoRA": Fault(file("lora.safetensors", {"lora_te1.weight": torch.zeros(2)}), "a LoRA, a small addition"),
        "another model's sizes": Fault(
            load(single, config=replace(SMALL, t5=replace(SMALL.t5, layers=3))), "not the t5 of Stable Diffusion 3"
        ),
        "no tokenizer": Fault(
            load(single, tokenizers=(into / "none", into / "none")), "no tokenizer at .*merges.txt", FileNotFoundError
        ),
        "no tokenizer for T5": Fault(
            load(single, tokenizers=(made.words[0], into / "none")),
            "no tokenizer at .*tokenizer.json",
            FileNotFoundError,
        ),
        "a tokenizer that is none": Fault(load(single, tokenizers=(made.words[0], single)), "is no tokenizer"),
    }
