"""Published Stable Diffusion 1 checkpoints: where the parts are, what the tensors are called, what else a file may be.

Three layouts are in use: a diffusers folder (or the hub repository it came from), and CompVis's single file, as
safetensors or as a pickle.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from helpers.sd1.unet import UNetConfig
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import published_text
from helpers.weights.pretrained import (
    KeyMapping,
    fetch,
    folder_part,
    guess_cause,
    modern_attention,
    read_checkpoint,
    read_json_config,
)

Tensors = dict[str, Tensor]


class PretrainedParts(NamedTuple):
    """A checkpoint's contents: each part's tensors under their published names."""

    layout: str  # "compvis" or "diffusers"
    text: Tensors
    unet: Tensors
    autoencoder: Tensors
    prediction: str  # what the U-Net predicts: "epsilon", or "v" in some fine-tunes
    tokenizer: Path  # merges.txt, tokenizer.json, or the folder that holds one


def read(
    source: str | Path, *, variant: str | None = None, ema: bool = False, tokenizer: str | Path | None = None
) -> PretrainedParts:
    """Read a checkpoint.

    Args:
        source: a diffusers folder, a single file, or a hub repository such as
            "stable-diffusion-v1-5/stable-diffusion-v1-5".
        variant: "fp16" takes the half-precision files of a folder or repository; None takes the full ones where they
            are, and the others where they are not.
        ema: take the averaged U-Net of a single file that holds both.
        tokenizer: where its merges are; None: in the folder, else CLIP's from the hub.

    Raises:
        FileNotFoundError, ValueError: the message says what was looked for, or what the file probably is.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if variant:
            raise ValueError(f"variant={variant!r} chooses among a folder's files; {path.name} is a single file")
        return _single_file(path, ema, tokenizer)
    if ema:
        raise ValueError("ema=True is for single files that hold two U-Nets; diffusers folders hold one")
    if not path.is_dir():
        path = _download(str(source), variant)
    return _folder(path, variant, tokenizer)


# --- a diffusers folder ---------------------------------------------------------------------------------------------

PARTS = {
    "text": ("text_encoder", ("model", "pytorch_model")),
    "unet": ("unet", ("diffusion_pytorch_model",)),
    "autoencoder": ("vae", ("diffusion_pytorch_model",)),
}
PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}  # diffusers' name -> the course's


def _download(repo: str, variant: str | None) -> Path:
    """Fetch safetensors before pickles, full precision before half: later ones only where the earlier are missing."""
    for ending in ("safetensors", "bin"):
        for dot in [f".{variant}"] if variant else ["", ".fp16"]:
            weights = []
            for part, stems in PARTS.values():
                weights += [f"{part}/{stem}{dot}.{ending}" for stem in stems]
            folder = fetch(repo, [*weights, "model_index.json", "scheduler/*.json", "tokenizer/*"])
            if sum((folder / name).is_file() for name in weights) == len(PARTS):
                return folder
    return folder


def _folder(folder: Path, variant: str | None, tokenizer: str | Path | None) -> PretrainedParts:
    index = folder / "model_index.json"
    if index.is_file():
        pipeline = read_json_config(index).get("_class_name", "")
        if not pipeline.startswith("StableDiffusion") or re.search("XL|3|Upscale|Inpaint|InstructPix2Pix", pipeline):
            raise ValueError(f"{folder} holds a {pipeline or 'pipeline without a name'}, not Stable Diffusion 1")
    prediction = _prediction_type(folder / "scheduler" / "scheduler_config.json")
    tensors = {}
    for name, (part, stems) in PARTS.items():
        tensors[name] = read_checkpoint(folder_part(folder, part, stems, variant))
    if tokenizer is None:
        tokenizer = folder / "tokenizer"
        tokenizer = tokenizer if tokenizer.is_dir() else BytePairTokenizer.download()
    return PretrainedParts(
        "diffusers",
        text=published_text(tensors["text"]),
        unet=tensors["unet"],
        autoencoder=modern_attention(tensors["autoencoder"]),
        prediction=prediction,
        tokenizer=Path(tokenizer),
    )


def _prediction_type(scheduler: Path) -> str:
    """What a scheduler's config says that the U-Net predicts, in the course's names."""
    prediction_type = "epsilon"
    if scheduler.is_file():
        prediction_type = read_json_config(scheduler).get("prediction_type", "epsilon")
    if prediction_type not in PREDICTION_TYPES:
        known = ", ".join(PREDICTION_TYPES)
        raise ValueError(f"{scheduler} says prediction_type {prediction_type!r}; the course knows {known}")
    return PREDICTION_TYPES[prediction_type]


# --- CompVis's single file ------------------------------------------------------------------------------------------

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
# tables that follow from the schedule, what only training needs, and the averaged copy of the U-Net
IGNORED = re.compile(r"(model_ema\.|first_stage_model\.loss\.|betas$|logvar$|alphas_cumprod|sqrt_|log_one|posterior_)")


def _single_file(path: Path, ema: bool, tokenizer: str | Path | None) -> PretrainedParts:
    tensors = read_checkpoint(path)
    if not any(name.startswith(UNET) for name in tensors):
        cause = guess_model(tensors, OTHER_MODELS | SINGLE_PARTS)
        raise ValueError(
            f"{path} is no Stable Diffusion checkpoint, it has no {UNET}*: "
            f"{cause or f'its first tensors are {sorted(tensors)[:3]}'}"
        )
    unexpected = [name for name in tensors if not name.startswith((UNET, VAE, CLIP)) and not IGNORED.match(name)]
    if unexpected:
        cause = guess_model(tensors) or "unknown"
        raise ValueError(
            f"{path} holds more than Stable Diffusion 1: {len(unexpected)} unexpected tensors, such as "
            f"{sorted(unexpected)[:3]}. Likeliest cause: {cause}"
        )
    unet = _select(tensors, UNET)
    text = _select(tensors, CLIP)
    autoencoder = _select(tensors, VAE)
    if ema:
        # the dots of the names are lost there
        averaged = {name: "model_ema.diffusion_model" + name.replace(".", "") for name in unet}
        if not set(averaged.values()) <= tensors.keys():
            raise ValueError(f"{path} holds no averaged U-Net (model_ema.*): load it with ema=False")
        unet = {name: tensors[source] for name, source in averaged.items()}
    tokenizer = Path(tokenizer or BytePairTokenizer.download())
    return PretrainedParts("compvis", published_text(text), unet, autoencoder, "epsilon", tokenizer)


def _select(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """The tensors whose names begin with the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not IGNORED.match(name)
    }


# --- names, and what else it may be ---------------------------------------------------------------------------------


def unet_names(config: UNetConfig, layout: str) -> KeyMapping:
    """The key mapping from the U-Net's names to those of a published file, in layout "compvis" or "diffusers".

    The patterns apply one after the other, so a later one sees what the earlier ones have replaced. For instance, in
    layout "compvis":

    down.1.residual.0.norm_1.weight -> down.1.residual.0.in_layers.0.weight -> input_blocks.4.0.in_layers.0.weight
    """
    inside: KeyMapping = [
        (r"\.block\.", ".transformer_blocks.0."),
        (r"\.self_attention\.", ".attn1."),
        (r"\.cross_attention\.", ".attn2."),
        (r"\.to_kv\.", ".to_{kv}."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.mlp\.proj\.", ".ff.net.0.proj."),
        (r"\.mlp\.out\.", ".ff.net.2."),
    ]
    if layout == "diffusers":
        return [
            *inside,
            (r"^time\.(\d)\.", lambda m: f"time_embedding.linear_{1 + int(m[1]) // 2}."),
            (r"^stem\.", "conv_in."),
            (r"^norm\.", "conv_norm_out."),
            (r"^head\.", "conv_out."),
            (r"^(down|up)\.(\d+)\.residual\.", r"\1_blocks.\2.resnets."),
            (r"^(down|up)\.(\d+)\.transformer\.", r"\1_blocks.\2.attentions."),
            (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
            (r"^middle\.0\.", "mid_block.resnets.0."),
            (r"^middle\.1\.", "mid_block.attentions.0."),
            (r"^middle\.2\.", "mid_block.resnets.1."),
            (r"\.(norm|conv)_(\d)\.", r".\1\2."),
            (r"\.time\.", ".time_emb_proj."),
            (r"\.skip\.", ".conv_shortcut."),
        ]
    per = config.blocks + 1  # numbers that CompVis spends on one level
    up_attention = config.attention[::-1]
    modules = ("residual", "transformer")  # their order within one number
    residual = r"((?:residual\.\d+|middle\.[02])\.)"
    leaves = {
        "norm_1": "in_layers.0",
        "conv_1": "in_layers.2",
        "time": "emb_layers.1",
        "norm_2": "out_layers.0",
        "conv_2": "out_layers.3",
        "skip": "skip_connection",
    }
    return [
        *inside,
        *((rf"{residual}{ours}\.", rf"\1{theirs}.") for ours, theirs in leaves.items()),
        (r"\.norm_(\d)\.", r".norm\1."),
        (r"^time\.", "time_embed."),
        (r"^stem\.", "input_blocks.0.0."),
        (r"^norm\.", "out.0."),
        (r"^head\.", "out.2."),
        (r"^middle\.", "middle_block."),
        (
            r"^down\.(\d+)\.(residual|transformer)\.(\d+)\.",  # one count over all levels; 0 is the stem
            lambda m: f"input_blocks.{int(m[1]) * per + int(m[3]) + 1}.{modules.index(m[2])}.",
        ),
        (r"^down\.(\d+)\.resample\.conv\.", lambda m: f"input_blocks.{(int(m[1]) + 1) * per}.0.op."),
        (
            r"^up\.(\d+)\.(residual|transformer)\.(\d+)\.",
            lambda m: f"output_blocks.{int(m[1]) * per + int(m[3])}.{modules.index(m[2])}.",
        ),
        (
            r"^up\.(\d+)\.resample\.",  # behind the attention, where there is one
            lambda m: f"output_blocks.{int(m[1]) * per + per - 1}.{1 + up_attention[int(m[1])]}.",
        ),
    ]


OTHER_MODELS = {  # a pattern among the names -> what such a file is
    r"lora[_.]": "a LoRA, a small addition to a model: load the model it was trained on",
    r"^control_model\.|controlnet_": "a ControlNet, which steers a model and is none itself",
    r"joint_blocks|norm1_context": "Stable Diffusion 3: see notebook 06",
    r"double_blocks|single_transformer_blocks": "Flux, another architecture",
    r"^conditioner\.|label_emb|add_embedding": "SDXL: this is a course on SD 1 and 3",
    r"^cond_stage_model\.model\.": "Stable Diffusion 2, whose text encoder is OpenCLIP's",
    r"^emb_params$|^<.*>$": "a textual inversion: a word for a model, not a model",
}
SINGLE_PARTS = {  # of a file that holds no U-Net under CompVis's names
    r"^safety_checker|^vision_model": "an image classifier, CLIP's or the safety checker's",
    r"^model_ema\.diffusion_model": "a file with averaged weights only (EMA keys), the ordinary ones were stripped",
    r"^(down_blocks|time_embedding)\.": "a diffusers U-Net alone: pass its whole folder",
    r"^(encoder|decoder|first_stage_model)\.": "an autoencoder alone: pass the whole checkpoint's folder or file",
    r"^(text_model|embeddings)\.": "a text encoder alone: pass the whole checkpoint's folder or file",
}


def guess_model(tensors: Mapping[str, Tensor], patterns: Mapping[str, str] = OTHER_MODELS) -> str:
    """Guess from its tensors what a checkpoint that does not fit is, for an error message; or ""."""
    channels = _find_size(tensors, ("input_blocks.0.0.weight", "conv_in.weight"), 1)
    by_channels = {8: "InstructPix2Pix", 9: "an inpainting model"}
    if channels in by_channels:
        return (
            f"{by_channels[channels]}, whose U-Net takes {channels} channels instead of 4 "
            "(the course inpaints with ordinary weights)"
        )
    width = _find_size(tensors, ("attn2.to_k.weight",), 1)
    by_width = {1024: "Stable Diffusion 2", 2048: "SDXL"}
    if width in by_width:
        return f"{by_width[width]}, whose text states are {width} wide instead of 768"
    return guess_cause(patterns, tensors)


def _find_size(tensors: Mapping[str, Tensor], ends: tuple[str, ...], axis: int) -> int:
    """The size along an axis of the first tensor whose name ends so; 0 where there is none."""
    for name, tensor in tensors.items():
        if name.endswith(ends):
            return tensor.shape[axis] if tensor.ndim > axis else 0
    return 0
