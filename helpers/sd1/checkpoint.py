"""Published Stable Diffusion 1 checkpoints: where the parts are, what the tensors are called, what else a file may be.

Three layouts are in use: a diffusers folder (or the hub repository it came from), and CompVis's single file, as
safetensors or as a pickle.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from helpers.diffusion.schedules import DDPMPath
from helpers.sd1.schedule import Schedule, read_schedule, zero_terminal_snr
from helpers.sd1.unet import UNetConfig
from helpers.text.bpe import published_merges
from helpers.text.clip import published_text
from helpers.weights.causes import drop_unused, guess_cause
from helpers.weights.configs import PublishedConfig
from helpers.weights.folders import download_parts, find_parts, modern_attention, place_of, read_part
from helpers.weights.pretrained import PICKLES, SAFETENSORS, KeyMapping, read_checkpoint, read_json_config
from helpers.weights.single_files import find_single_file

Tensors = dict[str, Tensor]


class PretrainedParts(NamedTuple):
    """A checkpoint's contents: each part's tensors under their published names."""

    layout: str  # "compvis" or "diffusers"
    text: Tensors
    unet: Tensors
    autoencoder: Tensors
    schedule: Schedule
    tokenizer: Path  # merges.txt, tokenizer.json, or the folder that holds one
    places: Mapping[str, Path]  # of each part, for error messages
    configs: Mapping[str, PublishedConfig]  # each part's config.json, without entries for a single file


def read(
    source: str | Path, *, variant: str | None = None, ema: bool = False, tokenizer: str | Path | None = None
) -> PretrainedParts:
    """Read a checkpoint.

    Args:
        source: a diffusers folder, a single file, the folder of one, or a hub repository such as
            "stable-diffusion-v1-5/stable-diffusion-v1-5".
        variant: "fp16" takes the half-precision files of a folder or repository, of parts that come in it; None takes
            the full ones where they are, and the others where they are not.
        ema: take the averaged U-Net of a single file that holds both.
        tokenizer: where its merges are; None: in the folder, else CLIP's, which the course brings.

    Raises:
        FileNotFoundError, ValueError: the message says what was looked for, or what the file probably is.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not _has_parts(path):
        path = find_single_file(path, lambda name: name.startswith(UNET)) or path
    if path.is_file():
        if variant:
            raise ValueError(f"variant={variant!r} chooses among a folder's files; {path.name} is a single file")
        return _single_file(path, ema, tokenizer)
    if path.suffix.lower() in (SAFETENSORS, *PICKLES):
        raise FileNotFoundError(f"no checkpoint at {source}: no such file")
    if ema:
        raise ValueError("ema=True is for single files that hold two U-Nets; diffusers folders hold one")
    if not path.is_dir():
        path = download_parts(str(source), PARTS, ["model_index.json", "scheduler/*.json", "tokenizer/*"], variant)
    return _folder(path, variant, tokenizer)


# --- a diffusers folder ---------------------------------------------------------------------------------------------

PARTS = {
    "text": ("text_encoder", ("model", "pytorch_model")),
    "unet": ("unet", ("diffusion_pytorch_model",)),
    "autoencoder": ("vae", ("diffusion_pytorch_model",)),
}


def _has_parts(folder: Path) -> bool:
    """Whether this is a diffusers folder, complete or not."""
    return (folder / "model_index.json").is_file() or any((folder / part).is_dir() for part, _ in PARTS.values())


def _folder(folder: Path, variant: str | None, tokenizer: str | Path | None) -> PretrainedParts:
    index = folder / "model_index.json"
    if index.is_file():
        pipeline = read_json_config(index).get("_class_name", "")
        if not pipeline.startswith("StableDiffusion") or re.search("XL|3|Upscale|Inpaint|InstructPix2Pix", pipeline):
            raise ValueError(f"{folder} holds a {pipeline or 'pipeline without a name'}, not Stable Diffusion 1")
    schedule = read_schedule(folder / "scheduler" / "scheduler_config.json")
    files = find_parts(folder, PARTS, variant)
    configs = {name: PublishedConfig(folder / subfolder / "config.json") for name, (subfolder, _) in PARTS.items()}
    if tokenizer is None:
        tokenizer = folder / "tokenizer"
        tokenizer = tokenizer if tokenizer.is_dir() else published_merges()
    tensors = {name: drop_unused(read_part(paths)) for name, paths in files.items()}
    return PretrainedParts(
        "diffusers",
        text=_text_states(tensors["text"]),
        unet=tensors["unet"],
        autoencoder=modern_attention(tensors["autoencoder"]),
        schedule=schedule,
        tokenizer=Path(tokenizer),
        places={name: place_of(paths) for name, paths in files.items()},
        configs=configs,
    )


def _text_states(tensors: Tensors) -> Tensors:
    """What Stable Diffusion 1 uses of CLIP: the hidden states, and so no projection and no image encoder."""
    unused = ("text_projection", "visual_projection", "vision_model.")
    return published_text({name: tensor for name, tensor in tensors.items() if not name.startswith(unused)})


def unet_config(config: UNetConfig, published: PublishedConfig) -> UNetConfig:
    """The sizes of the U-Net with what its config.json says and no tensor shows: heads and groups.

    Raises:
        ValueError: for an entry that the course does not follow.
    """
    published.require(UNET_ENTRIES)
    entry = "num_attention_heads" if published.get("num_attention_heads") is not None else "attention_head_dim"
    heads = published.get(entry, config.heads)  # diffusers' old name for the number of heads
    if isinstance(heads, list):
        if len(set(heads)) != 1:
            raise published.refusal(entry, heads, "as many heads at every resolution")
        heads = heads[0]
    if heads != config.heads:
        heads = PublishedConfig(published.file, {entry: heads}).heads(entry, config.heads, config.width)
    groups = PublishedConfig(published.file, published.entries).heads("norm_num_groups", config.groups, config.width)
    return replace(config, heads=heads, groups=groups)


UNET_ENTRIES = {  # what the course's U-Net computes and no tensor shows
    "act_fn": ("silu", "swish"),
    "norm_eps": 1e-5,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": (1, None),
    "downsample_padding": 1,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": (1.0, None),
    "time_embedding_type": "positional",
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "encoder_hid_dim_type": None,
    "cross_attention_norm": None,
    "attention_type": "default",
    "class_embed_type": None,
    "addition_embed_type": None,
}


# --- CompVis's single file ------------------------------------------------------------------------------------------

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
AVERAGED = "model_ema."
V_PREDICTION = "v_pred"  # a tensor by this name marks a file whose U-Net predicts v
ZERO_SNR = "ztsnr"  # and by this one, that its noise ends in zero terminal SNR
CLIP_UNUSED = re.compile(r"cond_stage_model\.(transformer\.)?(text_projection|visual_projection|vision_model)\b")


def _single_file(path: Path, ema: bool, tokenizer: str | Path | None) -> PretrainedParts:
    tensors = {
        name: tensor for name, tensor in drop_unused(read_checkpoint(path)).items() if not CLIP_UNUSED.match(name)
    }
    if not any(name.startswith(UNET) for name in tensors):
        cause = guess_model(tensors, "")
        raise ValueError(
            f"{path} is no Stable Diffusion checkpoint, it has no {UNET}*: "
            f"{cause or f'its first tensors are {sorted(tensors)[:3]}'}"
        )
    schedule = _schedule_of(path, tensors)
    unexpected = [name for name in tensors if not name.startswith((UNET, VAE, CLIP, AVERAGED, V_PREDICTION, ZERO_SNR))]
    if unexpected:
        cause = guess_model(tensors) or "a model that was made from Stable Diffusion 1 and has further parts"
        raise ValueError(
            f"{path} holds more than Stable Diffusion 1: {len(unexpected)} unexpected tensors, such as "
            f"{sorted(unexpected)[:3]}. Likeliest cause: {cause}"
        )
    unet = _select(tensors, UNET)
    if ema:
        # the dots of the names are lost there
        averaged = {name: "model_ema.diffusion_model" + name.replace(".", "") for name in unet}
        if not set(averaged.values()) <= tensors.keys():
            raise ValueError(f"{path} holds no averaged U-Net (model_ema.*): load it with ema=False")
        unet = {name: tensors[source] for name, source in averaged.items()}
    return PretrainedParts(
        "compvis",
        text=published_text(_select(tensors, CLIP)),
        unet=unet,
        autoencoder=_select(tensors, VAE),
        schedule=schedule,
        tokenizer=Path(tokenizer or published_merges()),
        places=dict.fromkeys(PARTS, path),
        configs={name: PublishedConfig(path, {}) for name in PARTS},
    )


def _schedule_of(path: Path, tensors: Tensors) -> Schedule:
    """A single file has no configuration, but may have a table of betas, or tensors that mark how it was trained.

    Raises:
        ValueError: for marks that exclude one another.
    """
    schedule = Schedule()
    if V_PREDICTION in tensors:
        schedule = replace(schedule, prediction="v")
    if ZERO_SNR in tensors:
        if V_PREDICTION not in tensors:
            raise ValueError(f"{path} is marked {ZERO_SNR} but not {V_PREDICTION}: its U-Net cannot predict the noise")
        schedule = replace(schedule, path=DDPMPath(zero_terminal_snr(schedule.path.betas)), spacing="trailing")
    return schedule


def _select(tensors: Mapping[str, Tensor], prefix: str) -> Tensors:
    """The tensors whose names begin with the prefix, without it, and without what only training needs."""
    return drop_unused(
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    )


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


def guess_model(tensors: Mapping[str, Tensor], system: str = "sd1") -> str:
    """Guess from its tensors what a checkpoint that does not fit is, for an error message; or "".

    `system` as for `guess_cause`: "" where the file is none of Stable Diffusion 1's at all.
    """
    if cause := guess_cause({name: tensor for name, tensor in tensors.items() if "scale" in name}):
        return cause
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
    return guess_cause(tensors, system)


def _find_size(tensors: Mapping[str, Tensor], ends: tuple[str, ...], axis: int) -> int:
    """The size along an axis of the first tensor whose name ends so; 0 where there is none."""
    for name, tensor in tensors.items():
        if name.endswith(ends):
            return tensor.shape[axis] if tensor.ndim > axis else 0
    return 0
