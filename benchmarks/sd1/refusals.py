"""Bad input for Stable Diffusion 1: files that are something else or damaged, arguments that make no sense.

Each case is a call that must raise, and a pattern its message must match: what is wrong, where, what to do.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.refusals import Call, CheckpointFiles, Fault, FileFault, Malware, prepare_all
from benchmarks.sd1.reference import SMALL
from helpers.sd1.pipeline import StableDiffusion1

UNET = "model.diffusion_model."
STEM = UNET + "input_blocks.0.0.weight"
HEAD = UNET + "out.2.weight"


def argument_faults(model: StableDiffusion1) -> dict[str, Fault]:
    """Arguments of `generate`."""

    def ask(prompt: Any = "a cat", **options: Any) -> Callable[[], Any]:
        return lambda: model.generate(prompt, progress=False, **options)

    image = torch.zeros(3, 64, 64)
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
        "no images": Fault(ask(num_images=0), "num_images must be .* got 0"),
        "an unknown sampler": Fault(ask(sampler="unipc"), "unknown sampler 'unipc': choose one of ddpm, ddim"),
        "no prompt": Fault(ask([]), r"prompt must be a text or a list of texts, got \[\]"),
        "a prompt that is no text": Fault(ask(7), "prompt must be a text or a list of texts, got 7"),
        "negative prompts that do not match": Fault(
            ask(["a", "b", "c"], negative_prompt=["x", "y"]),
            "one negative_prompt for all or one per prompt: got 2, prompts 3",
        ),
        "too much strength": Fault(
            ask(init_image=image, strength=1.5), "strength must be a number from 0 to 1, got 1.5"
        ),
        "a mask without an image": Fault(ask(mask_image=mask), "mask_image needs an init_image"),
        "a path for an image": Fault(
            ask(init_image="cat.png"), "init_image must be a PIL image or a tensor .* got str", TypeError
        ),
        "an image in 0..255": Fault(ask(init_image=image + 200), r"init_image must be \(3, H, W\) floats in \[-1, 1\]"),
        "an image with NaN": Fault(ask(init_image=image / 0), "init_image is empty or holds NaN"),
        "a grey image": Fault(ask(init_image=image[:1]), r"init_image must be \(3, H, W\).* got .*\(1, 64, 64\)"),
        "an image of another size": Fault(
            ask(init_image=image, width=128), r"init_image is 64x64 pixels .* the output 128x64: resize one"
        ),
        "a mask of another size": Fault(
            ask(init_image=image, mask_image=Image.new("L", (32, 32))), "mask_image is 32x32 pixels"
        ),
        "a mask beyond 1": Fault(
            ask(init_image=image, mask_image=mask * 255), r"mask_image must be \(H, W\) in \[0, 1\]"
        ),
        "too much clip skip": Fault(ask(clip_skip=3), "clip_skip must be a whole number from 0 to 2, got 3"),
    }


class SD1Files(CheckpointFiles):
    """Bad checkpoints of a small Stable Diffusion 1; `layouts` holds its good files by layout."""

    def __init__(self, layouts: dict[str, Path], tensors: dict[str, Tensor], into: Path):
        super().__init__(into, layouts["diffusers"], tensors)
        self.layouts = layouts
        self.single = layouts["safetensors"]

    def load(self, path: str | Path, **options: Any) -> Call:
        """The call of `from_checkpoint`, for the small sizes and with their tokenizer."""
        options = {"config": SMALL, "tokenizer": self.layouts["tokenizer"], **options}
        return lambda: StableDiffusion1.from_checkpoint(path, **options)

    def first_half(self, layout: str) -> bytes:
        """The first half of a good file."""
        data = self.layouts[layout].read_bytes()
        return data[: len(data) // 2]

    def merges(self, name: str, text: str) -> Path:
        """A list of merges."""
        path = self.into / name
        path.write_text(text)
        return path

    def without_unet(self) -> Path:
        """A folder whose U-Net has no weights."""
        folder = self.copy_folder("broken")
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        return folder

    def sdxl_folder(self) -> Path:
        """A folder whose index says SDXL."""
        folder = self.copy_folder("xl")
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
        return folder

    def sd2_folder(self) -> Path:
        """A folder whose text encoder and cross-attention are as wide as OpenCLIP's."""
        folder = self.copy_folder("second")
        text_file = folder / "text_encoder" / "model.safetensors"
        save_file({name: torch.zeros(1024) for name in load_file(text_file)}, text_file)
        unet_file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(unet_file)
        for name, tensor in tensors.items():
            if name.endswith("attn2.to_k.weight"):
                tensors[name] = tensor.new_zeros(len(tensor), 1024)
        save_file(tensors, unet_file)
        return folder


def file_faults(layouts: dict[str, Path], tensors: dict[str, Tensor], into: Path) -> dict[str, Fault]:
    """Checkpoints that are not what they should be; files are written into the folder `into`."""
    return prepare_all((*FOLDERS, *DAMAGED, *FOREIGN, *OPTIONS), SD1Files(layouts, tensors, into))


Row = FileFault

FOLDERS: tuple[FileFault[SD1Files], ...] = (
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
        "no complete folder of weights.* it holds nothing",
        FileNotFoundError,
    ),
    Row(
        "a folder without its U-Net",
        lambda f: f.load(f.without_unet()),
        "none of unet/diffusion_pytorch_model",
        FileNotFoundError,
    ),
    Row(
        "an SDXL folder",
        lambda f: f.load(f.sdxl_folder()),
        "holds a StableDiffusionXLPipeline, not Stable Diffusion 1",
    ),
    Row(
        "a Stable Diffusion 2 folder",
        lambda f: f.load(f.sd2_folder()),
        "not the text encoder.*Likeliest cause: Stable Diffusion 2",
    ),
)
DAMAGED: tuple[FileFault[SD1Files], ...] = (
    Row("an image", lambda f: f.read("cat.png", b"\x89PNG"), "cat.png is no checkpoint the course can read"),
    Row(
        "an empty file",
        lambda f: f.read("empty.safetensors", b""),
        "damaged or no safetensors file, download it again",
    ),
    Row(
        "a truncated file",
        lambda f: f.read("short.safetensors", f.first_half("safetensors")),
        "damaged or no safetensors file",
    ),
    Row("a truncated pickle", lambda f: f.read("short.ckpt", f.first_half("ckpt")), "damaged or no checkpoint"),
    Row(
        "a pickle that runs code",
        lambda f: f.read_pickle("evil.ckpt", {"state_dict": {"a": Malware()}}),
        "is refused: reading it would run .*system",
    ),
    Row(
        "a pickle of a list",
        lambda f: f.read_pickle("list.ckpt", [torch.zeros(1)]),
        "holds a list, not a table of named tensors",
    ),
    Row(
        "a web page",
        lambda f: f.read("page.ckpt", b"<!doctype html><title>404</title>"),
        "a web page, not a checkpoint",
    ),
    Row(
        "a git-lfs pointer",
        lambda f: f.read("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1"),
        "a git-lfs pointer.*git lfs pull",
    ),
    Row(
        "a missing tensor",
        lambda f: f.read("missing.safetensors", f.without(HEAD)),
        "not the U-Net.*missing out.2.weight",
    ),
    Row(
        "a tensor too many",
        lambda f: f.read("extra.safetensors", {**f.tensors, UNET + "out.9.bias": torch.zeros(3)}),
        "unexpected out.9.bias",
    ),
    Row(
        "a tensor of another shape",
        lambda f: f.read("shape.safetensors", {**f.tensors, HEAD: torch.zeros(4, 16, 3, 3)}),
        r"out.2.weight is \(4, 16, 3, 3\), made for \(4, 32, 3, 3\)",
    ),
    Row(
        "no text encoder",
        lambda f: f.read("deaf.safetensors", f.without("cond_stage_model.")),
        "not the text encoder.*missing",
    ),
    Row(
        "no autoencoder",
        lambda f: f.read("blind.safetensors", f.without("first_stage_model.")),
        "not the autoencoder.*missing",
    ),
)
FOREIGN: tuple[FileFault[SD1Files], ...] = (
    Row(
        "an inpainting model",
        lambda f: f.read("inpaint.safetensors", f.with_shape(STEM, 1, 9)),
        "Likeliest cause: an inpainting model",
    ),
    Row(
        "InstructPix2Pix",
        lambda f: f.read("pix2pix.safetensors", f.with_shape(STEM, 1, 8)),
        "Likeliest cause: InstructPix2Pix",
    ),
    Row(
        "Stable Diffusion 2",
        lambda f: f.read("sd2.safetensors", f.with_shape("attn2.to_k.weight", 1, 1024)),
        "Likeliest cause: Stable Diffusion 2, whose text states are 1024 wide",
    ),
    Row(
        "SDXL",
        lambda f: f.read("xl.safetensors", {**f.tensors, "conditioner.embedders.0.x": torch.zeros(1)}),
        "unexpected tensors.*conditioner.*Likeliest cause: SDXL",
    ),
    Row(
        "a LoRA",
        lambda f: f.read("lora.safetensors", {"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(2, 2)}),
        "no Stable Diffusion checkpoint.*a LoRA, a small addition",
    ),
    Row(
        "a ControlNet",
        lambda f: f.read("control.safetensors", {"control_model.zero_convs.0.0.weight": torch.zeros(2)}),
        "a ControlNet",
    ),
    Row(
        "Stable Diffusion 3",
        lambda f: f.read("sd3.safetensors", {"joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(2)}),
        "Stable Diffusion 3: see notebook 06",
    ),
    Row(
        "an autoencoder alone",
        lambda f: f.read("vae.safetensors", {"decoder.conv_in.weight": torch.zeros(2)}),
        "an autoencoder alone",
    ),
    Row(
        "averaged weights alone",
        lambda f: f.read("ema.safetensors", {"model_ema.diffusion_modeloutweight": torch.zeros(2)}),
        "averaged weights only",
    ),
)
OPTIONS: tuple[FileFault[SD1Files], ...] = (
    Row(
        "a variant that is not there",
        lambda f: f.load(f.diffusers, variant="fp16"),
        "holds no part as variant 'fp16': leave variant= out",
        FileNotFoundError,
    ),
    Row("a variant of a single file", lambda f: f.load(f.single, variant="fp16"), "chooses among a folder's files"),
    Row("an average of a folder", lambda f: f.load(f.diffusers, ema=True), "ema=True is for single files"),
    Row(
        "an average that is not there",
        lambda f: f.load(f.single, ema=True),
        "no averaged U-Net.*load it with ema=False",
    ),
    Row(
        "another model's tokenizer",
        lambda f: f.load(f.single, tokenizer=f.merges("short_merges.txt", "#version: 0.2\na b</w>\n")),
        "knows 515 tokens, the text encoder",
    ),
    Row(
        "no tokenizer",
        lambda f: f.load(f.single, tokenizer=f.into / "nowhere"),
        "no tokenizer at .*merges.txt",
        FileNotFoundError,
    ),
    Row(
        "a tokenizer without merges",
        lambda f: f.load(f.single, tokenizer=f.merges("empty_merges.txt", "#version: 0.2\n")),
        "is no list of merges",
    ),
)
