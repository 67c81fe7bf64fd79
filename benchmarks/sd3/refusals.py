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
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.refusals import Call, CheckpointFiles, Fault, FileFault, prepare_all
from benchmarks.sd3.reference import SMALL
from helpers.sd3.checkpoint import PREFIXES
from helpers.sd3.pipeline import StableDiffusion3

CORE = PREFIXES["transformer"]
TABLE = CORE + "pos_embed"


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
        "an image beyond the table of positions": Fault(ask(height=208), "height must be at most 192 pixels, got 208"),
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


class SD3Files(CheckpointFiles):
    """Bad checkpoints of a small Stable Diffusion 3.

    Attributes:
        single: its good single file.
        tokenizers: the folders of its two tokenizers.
    """

    def __init__(self, layouts: dict[str, Path], tokenizers: tuple[Path, Path], tensors: dict[str, Tensor], into: Path):
        super().__init__(into, layouts["diffusers"], tensors)
        self.single = layouts["single"]
        self.tokenizers = tokenizers

    def load(self, path: str | Path, **options: Any) -> Call:
        """The call of `from_checkpoint`, for the small sizes and with their tokenizers."""
        options = {"config": SMALL, "tokenizers": self.tokenizers, **options}
        return lambda: StableDiffusion3.from_checkpoint(path, **options)

    def core(self) -> dict[str, Tensor]:
        """All tensors but those of the text encoders."""
        return self.without("text_encoders.")

    def sd1_folder(self) -> Path:
        """A folder whose index says Stable Diffusion 1."""
        folder = self.copy_folder("sd1")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
        return folder

    def without_transformer(self) -> Path:
        """A folder whose transformer has no files."""
        folder = self.copy_folder("lame")
        shutil.rmtree(folder / "transformer")
        (folder / "transformer").mkdir()
        return folder

    def half_the_shards(self) -> Path:
        """A folder whose index lists a shard of the transformer that is not there."""
        folder = self.copy_folder("sharded")
        whole = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        index = {"weight_map": dict.fromkeys(load_file(whole), "diffusion_pytorch_model-00001-of-00002.safetensors")}
        whole.with_suffix(".safetensors.index.json").write_text(json.dumps(index))
        whole.unlink()  # which would be read in its place
        return folder


def file_faults(
    layouts: dict[str, Path], tokenizers: tuple[Path, Path], tensors: dict[str, Tensor], into: Path
) -> dict[str, Fault]:
    """Checkpoints that are not what they should be; files are written into the folder `into`.

    Args:
        layouts: the good files of a small Stable Diffusion 3, see `benchmarks.sd3.reference.write_layouts`.
        tokenizers: the folders of its tokenizers, CLIP's and T5's.
        tensors: of its single file.
        into: an existing folder.
    """
    return prepare_all((*FOLDERS, *ENCODERS, *DAMAGED, *FOREIGN), SD3Files(layouts, tokenizers, tensors, into))


Row = FileFault

FOLDERS: tuple[FileFault[SD3Files], ...] = (
    Row(
        "no such file",
        lambda f: f.load(f.into / "nowhere.safetensors"),
        "no checkpoint at .*nowhere",
        FileNotFoundError,
    ),
    Row(
        "a hub id out of reach",
        lambda f: f.load("nobody-here/nothing-there"),
        "the hub did not give it",
        FileNotFoundError,
    ),
    Row(
        "an empty folder",
        lambda f: f.load(f.empty_folder()),
        "no complete folder of weights.*it holds nothing|none of",
        FileNotFoundError,
    ),
    Row(
        "a Stable Diffusion 1 folder",
        lambda f: f.load(f.sd1_folder()),
        "holds a StableDiffusionPipeline, not Stable Diffusion 3",
    ),
    Row(
        "a folder without its transformer",
        lambda f: f.load(f.without_transformer()),
        "none of transformer/",
        FileNotFoundError,
    ),
    Row(
        "a folder with half its shards",
        lambda f: f.load(f.half_the_shards()),
        "lists diffusion_pytorch_model-00001.*lacks: download the rest",
        FileNotFoundError,
    ),
    Row("a variant of a single file", lambda f: f.load(f.single, variant="fp16"), "chooses among a folder's files"),
    Row(
        "a variant that is not there",
        lambda f: f.load(f.diffusers, variant="fp16"),
        "holds no part as variant 'fp16'",
        FileNotFoundError,
    ),
)
ENCODERS: tuple[FileFault[SD3Files], ...] = (
    Row(
        "encoders of a folder",
        lambda f: f.load(f.diffusers, encoders=f.into),
        "encoders= is for single files that come without",
    ),
    Row(
        "a file without text encoders",
        lambda f: f.read("core.safetensors", f.core()),
        "comes without text encoders: pass the folder of clip_l.safetensors",
    ),
    Row(
        "text encoders that are not there",
        lambda f: f.read("core2.safetensors", f.core(), encoders=f.empty_folder()),
        "lacks the text encoders clip_l, clip_g, t5",
        FileNotFoundError,
    ),
    Row(
        "encoders for a file that has its own",
        lambda f: f.load(f.single, encoders=f.into),
        "holds its own text encoders",
    ),
    Row(
        "a mistyped file with encoders",
        lambda f: f.load(f.into / "typo.safetensors", encoders=f.into),
        "no checkpoint at .*typo.safetensors: no such file",
        FileNotFoundError,
    ),
    Row(
        "another encoder's tokenizer",
        lambda f: f.load(f.single, config=replace(SMALL, clip_l=replace(SMALL.clip_l, vocabulary=99))),
        "tokenizers of .* tokens do not belong to text encoders of 99 and 64: pass others as tokenizers=",
    ),
    Row(
        "no tokenizer",
        lambda f: f.load(f.single, tokenizers=(f.into / "none", f.into / "none")),
        "no tokenizer at .*merges.txt",
        FileNotFoundError,
    ),
    Row(
        "no tokenizer for T5",
        lambda f: f.load(f.single, tokenizers=(f.tokenizers[0], f.into / "none")),
        "no tokenizer at .*tokenizer.json",
        FileNotFoundError,
    ),
    Row(
        "a tokenizer that is none",
        lambda f: f.load(f.single, tokenizers=(f.tokenizers[0], f.single)),
        "is no tokenizer",
    ),
)
DAMAGED: tuple[FileFault[SD3Files], ...] = (
    Row(
        "a truncated file",
        lambda f: f.read("short.safetensors", f.single.read_bytes()[:999]),
        "damaged or no safetensors",
    ),
    Row(
        "a missing tensor",
        lambda f: f.read("missing.safetensors", f.without(CORE + "final_layer.linear.bias")),
        "not the transformer of Stable Diffusion 3.*missing final_layer.linear.bias",
    ),
    Row(
        "a tensor too many",
        lambda f: f.read("extra.safetensors", {**f.tensors, CORE + "register_tokens": torch.zeros(3)}),
        "unexpected register_tokens",
    ),
    Row(
        "a stranger beside the parts",
        lambda f: f.read("strange.safetensors", {**f.tensors, "control_model.x": torch.zeros(3)}),
        "holds 1 unexpected tensors",
    ),
    Row(
        "another table of positions",
        lambda f: f.read("table.safetensors", {**f.tensors, TABLE: f.tensors[TABLE] + 0.1}),
        "not the table of positions",
    ),
    Row(
        "no autoencoder",
        lambda f: f.read("blind.safetensors", f.without("first_stage_model.")),
        "not the autoencoder.*missing",
    ),
)
FOREIGN: tuple[FileFault[SD3Files], ...] = (
    Row(
        "Stable Diffusion 1",
        lambda f: f.read("sd1.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}),
        "no Stable Diffusion 3 checkpoint.*notebook 05",
    ),
    Row(
        "Flux",
        lambda f: f.read("flux.safetensors", {"double_blocks.0.x": torch.zeros(2)}),
        "Flux, another architecture",
    ),
    Row(
        "a LoRA",
        lambda f: f.read("lora.safetensors", {"lora_te1.weight": torch.zeros(2)}),
        "a LoRA, a small addition",
    ),
    Row(
        "another model's sizes",
        lambda f: f.load(f.single, config=replace(SMALL, t5=replace(SMALL.t5, layers=3))),
        "not the t5 of Stable Diffusion 3",
    ),
)
