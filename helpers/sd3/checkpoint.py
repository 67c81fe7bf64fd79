"""Published Stable Diffusion 3 and 3.5 checkpoints: where the parts are, what the tensors are called, their sizes.

Two layouts are in use: a diffusers folder (or its hub repository), and Stability's single file, with or without the
text encoders. They disagree in one thing beside names: which half of the last modulations shifts and which scales.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.sd3.mmdit import MMDiTConfig, positions
from helpers.text.bpe import published_merges
from helpers.text.clip import published_text
from helpers.text.t5 import T5Tokenizer, published_t5
from helpers.weights.causes import drop_unused, guess_cause
from helpers.weights.configs import PublishedConfig
from helpers.weights.folders import download_parts, find_parts, modern_attention, place_of, read_part
from helpers.weights.pretrained import PICKLES, SAFETENSORS, KeyMapping, read_checkpoint, read_json_config
from helpers.weights.single_files import find_single_file

Tensors = dict[str, Tensor]
Tokenizers = tuple[str | Path | None, str | Path | None]  # CLIP's and T5's
HEAD_WIDTH = 64  # in every published size


class PretrainedParts(NamedTuple):
    """A checkpoint's contents: each part's tensors under their published names."""

    layout: str  # "stability" or "diffusers"
    transformer: Tensors
    autoencoder: Tensors
    clip_l: Tensors
    clip_g: Tensors
    t5: Tensors | None  # None: the checkpoint comes without
    shift: float
    tokenizers: tuple[Path, Path | None]  # CLIP's merges, T5's tokenizer.json
    places: Mapping[str, Path]  # of each part, for error messages
    configs: Mapping[str, PublishedConfig]  # each part's config.json, without entries for a single file


def read(
    source: str | Path,
    *,
    variant: str | None = None,
    t5: bool = True,
    encoders: str | Path | None = None,
    tokenizers: Tokenizers | None = None,
) -> PretrainedParts:
    """Read a checkpoint.

    Args:
        source: a diffusers folder, a single file, the folder of one, or a hub repository such as
            "stabilityai/stable-diffusion-3-medium-diffusers".
        variant: "fp16" takes the half-precision files of a folder or repository, of parts that come in it.
        t5: False leaves T5 on the disk: 9.5 GB less in half precision.
        encoders: for a single file without text encoders: the folder of clip_l.safetensors, clip_g.safetensors and
            t5xxl*.safetensors; None: beside the file, or in the folder text_encoders beside it.
        tokenizers: CLIP's and T5's, where the checkpoint brings none; None: CLIP's is the one that the course brings,
            T5's comes from the hub.

    Raises:
        FileNotFoundError, ValueError: the message says what was looked for, or what the file probably is.
    """
    path = Path(source).expanduser()
    if path.is_dir() and not _has_parts(path):
        path = find_single_file(path, lambda name: "joint_blocks." in name) or path
    if path.is_file():
        if variant:
            raise ValueError(f"variant={variant!r} chooses among a folder's files; {path.name} is a single file")
        return _single_file(path, t5, encoders, tokenizers)
    if path.suffix.lower() in (SAFETENSORS, *PICKLES):
        raise FileNotFoundError(f"no checkpoint at {source}: no such file")
    if encoders is not None:
        raise ValueError("encoders= is for single files that come without; diffusers folders hold theirs")
    if not path.is_dir():
        parts = {part: place for part, place in PARTS.items() if t5 or part != "t5"}
        others = ["model_index.json", "scheduler/*.json", "tokenizer/*", "tokenizer_3/*"]
        path = download_parts(str(source), parts, others, variant)
    return _folder(path, variant, t5, tokenizers)


# --- a diffusers folder ---------------------------------------------------------------------------------------------

PARTS = {
    "transformer": ("transformer", ("diffusion_pytorch_model",)),
    "clip_l": ("text_encoder", ("model",)),
    "autoencoder": ("vae", ("diffusion_pytorch_model",)),
    "clip_g": ("text_encoder_2", ("model",)),
    "t5": ("text_encoder_3", ("model",)),
}


def _has_parts(folder: Path) -> bool:
    """Whether this is a diffusers folder, complete or not: a repository of 3.5 may hold both layouts."""
    return (folder / PARTS["transformer"][0]).is_dir() or (
        (folder / "model_index.json").is_file() and not list(folder.glob("*[sS][dD]3*"))
    )


def _folder(folder: Path, variant: str | None, t5: bool, tokenizers: Tokenizers | None) -> PretrainedParts:
    index = folder / "model_index.json"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if index.is_file():
        pipeline = read_json_config(index).get("_class_name", "")
        if not pipeline.startswith("StableDiffusion3"):
            raise ValueError(f"{folder} holds a {pipeline or 'pipeline without a name'}, not Stable Diffusion 3")
    shift = read_shift(PublishedConfig(scheduler))
    t5 = t5 and (folder / PARTS["t5"][0]).is_dir()
    present = {part: place for part, place in PARTS.items() if t5 or part != "t5"}
    files = find_parts(folder, present, variant)
    configs = {part: PublishedConfig(folder / subfolder / "config.json") for part, (subfolder, _) in PARTS.items()}
    parts = {part: drop_unused(read_part(paths)) for part, paths in files.items()}
    if tokenizers is None:
        clip_folder = folder / "tokenizer"
        t5_folder = folder / "tokenizer_3"
        tokenizers = (clip_folder if clip_folder.is_dir() else None, t5_folder if t5_folder.is_dir() else None)
    return PretrainedParts(
        "diffusers",
        transformer=parts["transformer"],
        autoencoder=modern_attention(parts["autoencoder"]),
        clip_l=published_text(parts["clip_l"]),
        clip_g=published_text(parts["clip_g"]),
        t5=published_t5(parts["t5"]) if t5 else None,
        shift=shift,
        tokenizers=_tokenizer_files(tokenizers, t5),
        places={part: place_of(paths) for part, paths in files.items()},
        configs=configs,
    )


def read_shift(scheduler: PublishedConfig) -> float:
    """The shift of the times, which a scheduler_config.json says; that of Stable Diffusion 3 without one.

    Raises:
        ValueError: for a scheduler that the course does not follow.
    """
    if not scheduler.entries:
        return 3.0
    name = scheduler.get("_class_name", SCHEDULERS[0])
    if name not in SCHEDULERS:
        raise scheduler.refusal("_class_name", name, f"rectified flow ({' or '.join(SCHEDULERS)})")
    scheduler.require(SCHEDULER_ENTRIES)
    return scheduler.number("shift", 1.0, low=0)


SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
SCHEDULER_ENTRIES = {
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": False,
    "invert_sigmas": False,
    "shift_terminal": None,
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "stochastic_sampling": False,
}


def follow_transformer_config(sizes: MMDiTConfig, published: PublishedConfig) -> MMDiTConfig:
    """The sizes with the heads and the table of positions that a config.json says, which no tensor shows.

    Raises:
        ValueError: for an entry that the course does not follow.
    """
    published.require({"qk_norm": ("rms_norm", None)})
    heads = published.heads("num_attention_heads", sizes.heads, sizes.width)
    base = sizes.pos_embed_base_size
    sample_size = published.number("sample_size", base * sizes.patch, low=0)
    return replace(sizes, heads=heads, pos_embed_base_size=int(sample_size) // sizes.patch)


def _tokenizer_files(tokenizers: Tokenizers, t5: bool) -> tuple[Path, Path | None]:
    """Where CLIP's and T5's tokenizers are; where None, CLIP's is the course's own copy and T5's the hub's."""
    clip, long = tokenizers
    clip_file = Path(clip or published_merges())
    return clip_file, Path(long or T5Tokenizer.download()) if t5 else None


# --- Stability's single file ----------------------------------------------------------------------------------------

PREFIXES = {
    "transformer": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "clip_l": "text_encoders.clip_l.transformer.",
    "clip_g": "text_encoders.clip_g.transformer.",
    "t5": "text_encoders.t5xxl.transformer.",
}


def _single_file(path: Path, t5: bool, encoders: str | Path | None, tokenizers: Tokenizers | None) -> PretrainedParts:
    tensors = drop_unused(read_checkpoint(path))
    _check_names(path, tensors)
    parts = {part: drop_unused(_select(tensors, prefix)) for part, prefix in PREFIXES.items()}
    places = dict.fromkeys(PARTS, path)
    missing = [part for part in ENCODER_FILES if not parts[part] and (t5 or part != "t5")]
    if encoders is not None and not missing:
        raise ValueError(f"{path} holds its own text encoders: leave encoders= out")
    if encoders is None and missing:
        encoders = _encoders_beside(path, missing)
    if encoders is None and {"clip_l", "clip_g"} & set(missing):
        raise ValueError(
            f"{path} comes without text encoders: pass the folder of clip_l.safetensors, "
            "clip_g.safetensors and t5xxl_fp16.safetensors as encoders= (in notebook 06: SD3_ENCODERS)"
        )
    if encoders is not None:
        places |= _encoder_files(Path(encoders).expanduser(), missing)
        parts |= {part: drop_unused(read_checkpoint(places[part])) for part in missing}
    clip_l = published_text(parts["clip_l"])
    # the first tower's pooled embedding goes in as it is: in diffusers' folders its projection is the identity
    norm = clip_l.get("text_model.final_layer_norm.weight")
    if norm is not None:
        clip_l["text_projection.weight"] = torch.eye(len(norm))
    t5_tensors = published_t5(parts["t5"]) if t5 and parts["t5"] else None
    return PretrainedParts(
        "stability",
        transformer=parts["transformer"],
        autoencoder=parts["autoencoder"],
        clip_l=clip_l,
        clip_g=published_text(parts["clip_g"]),
        t5=t5_tensors,
        shift=3.0,
        tokenizers=_tokenizer_files(tokenizers or (None, None), t5_tensors is not None),
        places=places,
        configs={part: PublishedConfig(path, {}) for part in PARTS},
    )


def _check_names(path: Path, tensors: Tensors) -> None:
    """Raise ValueError for a file that is not Stable Diffusion 3, or holds more."""
    if not any("joint_blocks." in name for name in tensors):
        raise ValueError(
            f"{path} is no Stable Diffusion 3 checkpoint, it has no joint_blocks.*: "
            f"{guess_cause(tensors) or 'no layout the course knows'}"
        )
    prefixes = tuple(PREFIXES.values())
    unexpected = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}
    if unexpected:
        cause = guess_cause(unexpected, "sd3") or "a model that was made from Stable Diffusion 3 and has further parts"
        raise ValueError(
            f"{path} holds {len(unexpected)} unexpected tensors, such as {sorted(unexpected)[:3]}. Likeliest cause: "
            f"{cause}"
        )


def _select(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


ENCODER_FILES = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"}  # part -> how its file's name begins


def _files_of(folder: Path, part: str) -> list[Path]:
    """The files of a text encoder in a folder, full precision first."""
    if not folder.is_dir():
        return []
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == SAFETENSORS]
    files = [path for path in files if path.name.lower().startswith(ENCODER_FILES[part])]
    return sorted(files, key=lambda path: "fp8" in path.name.lower())


def _encoders_beside(path: Path, parts: list[str]) -> Path | None:
    """The folder beside a single file that holds its CLIPs, as downloaded repositories have it; None: there is none."""
    needed = [part for part in parts if part != "t5"] or parts
    for folder in (path.parent / "text_encoders", path.parent):
        if all(_files_of(folder, part) for part in needed):
            return folder
    return None


def _encoder_files(folder: Path, parts: list[str]) -> dict[str, Path]:
    """Where text encoders in files of their own are. Raises FileNotFoundError for those that are not."""
    files = {part: _files_of(folder, part) for part in parts}
    absent = [part for part in parts if not files[part]]
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks the text encoders {', '.join(absent)}: it should hold "
            "clip_l.safetensors, clip_g.safetensors and t5xxl_fp16.safetensors "
            "(or pass t5=False)"
        )
    return {part: files[part][0] for part in parts}


# --- names and sizes ------------------------------------------------------------------------------------------------


def transformer_names(layout: str) -> KeyMapping:
    """The key mapping from the MM-DiT's names to those of a published file, in layout "stability" or "diffusers".

    The patterns apply one after the other, so a later one sees what the earlier ones have replaced. For instance, in
    layout "stability":

    blocks.0.text.attention.to_qkv.weight -> joint_blocks.0.context_block.attn.qkv.weight
    """
    if layout == "stability":
        return [
            (r"^patch_embed\.", "x_embedder.proj."),
            (r"^time\.", "t_embedder.mlp."),
            (r"^pooled_embedder\.", "y_embedder.mlp."),
            (r"^modulation\.", "final_layer.adaLN_modulation.1."),
            (r"^head\.", "final_layer.linear."),
            (r"^blocks\.", "joint_blocks."),
            (r"\.text\.", ".context_block."),
            (r"\.image\.", ".x_block."),
            (r"\.modulation\.", ".adaLN_modulation.1."),
            (r"\.attention\.", ".attn."),
            (r"\.dual\.", ".attn2."),
            (r"\.to_qkv\.", ".qkv."),
            (r"\.to_out\.", ".proj."),
            (r"\.norm_(q|k)\.", r".ln_\1."),
            (r"block\.mlp\.0\.", "block.mlp.fc1."),
            (r"block\.mlp\.2\.", "block.mlp.fc2."),
        ]
    return [
        (r"^patch_embed\.", "pos_embed.proj."),
        (r"^time\.(\d)\.", lambda m: f"time_text_embed.timestep_embedder.linear_{1 + int(m[1]) // 2}."),
        (r"^pooled_embedder\.(\d)\.", lambda m: f"time_text_embed.text_embedder.linear_{1 + int(m[1]) // 2}."),
        (r"^modulation\.", "norm_out.linear."),
        (r"^head\.", "proj_out."),
        (r"^blocks\.", "transformer_blocks."),
        (r"\.text\.modulation\.", ".norm1_context.linear."),
        (r"\.image\.modulation\.", ".norm1.linear."),
        (r"\.text\.attention\.to_qkv\.", ".attn.add_{qkv}_proj."),
        (r"\.text\.attention\.to_out\.", ".attn.to_add_out."),
        (r"\.text\.attention\.norm_", ".attn.norm_added_"),
        (r"\.image\.attention\.", ".attn."),
        (r"\.image\.dual\.", ".attn2."),
        (r"\.to_qkv\.", ".to_{qkv}."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.image\.mlp\.", ".ff.mlp."),
        (r"\.text\.mlp\.", ".ff_context.mlp."),
        (r"\.mlp\.0\.", ".net.0.proj."),
        (r"\.mlp\.2\.", ".net.2."),
    ]


def shift_first(tensors: Tensors, layers: int) -> Tensors:
    """Undo diffusers' order of two modulations: it stores (scale, shift) where everyone else has (shift, scale).

    These two are the final layer's, and those of the last block's text, which nothing reads but attention. Without
    the second one an image is off by a thousandth only: nobody sees it, a test must.
    """
    ends = ("norm_out.linear.", f"transformer_blocks.{layers - 1}.norm1_context.linear.")
    return {
        name: torch.cat(tensor.chunk(2)[::-1]) if name.startswith(ends) else tensor for name, tensor in tensors.items()
    }


def recommended_sampling(config: MMDiTConfig, name: str) -> dict[str, Any]:
    """Steps and guidance scale for a model of version 3.5, as its publisher's sd3_infer.py has them; else nothing.

    Args:
        config: sizes of the transformer.
        name: of the file, folder or repository: the turbo model has the sizes of the large one.
    """
    if config.dual_layers:  # medium
        return {"steps": 50, "guidance_scale": 5.0}
    if not config.qk_norm:
        return {}
    return {"steps": 4, "guidance_scale": 1.0} if "turbo" in name.lower() else {"steps": 40, "guidance_scale": 4.5}


def infer_config(tensors: Mapping[str, Tensor]) -> MMDiTConfig:
    """Infer the sizes of a transformer from its tensors, in either layout.

    Raises:
        ValueError: where these are not the tensors of an MM-DiT.
    """
    names = {
        "patches": ("x_embedder.proj.weight", "pos_embed.proj.weight"),
        "words": ("context_embedder.weight",),
        "summary": ("y_embedder.mlp.0.weight", "time_text_embed.text_embedder.linear_1.weight"),
        "table": ("pos_embed", "pos_embed.pos_embed"),
    }
    shapes: dict[str, torch.Size] = {}
    for part, alternatives in names.items():
        for name in alternatives:
            if name in tensors:
                shapes[part] = tensors[name].shape
    absent = [alternatives[0] for part, alternatives in names.items() if part not in shapes]
    matches = [re.match(r"(?:joint|transformer)_blocks\.(\d+)\.", name) for name in tensors]
    blocks = {int(match[1]) for match in matches if match}
    if absent or not blocks:
        raise ValueError(f"this is no Stable Diffusion 3 transformer: it has no {absent or 'joint_blocks.*'}")
    width, channels, patch, _ = shapes["patches"]
    return MMDiTConfig(
        latent_channels=channels,
        patch=patch,
        width=width,
        layers=1 + max(blocks),
        heads=max(1, width // HEAD_WIDTH),
        text_width=shapes["words"][1],
        pooled_width=shapes["summary"][1],
        pos_embed_max_size=round(shapes["table"][1] ** 0.5),
        qk_norm=any(re.search(r"\.(ln_q|norm_q)\.", name) for name in tensors),
        dual_layers=len({name.split(".attn2.")[0] for name in tensors if ".attn2." in name}),
    )


def normalize_transformer(tensors: Tensors, config: MMDiTConfig, layout: str) -> Tensors:
    """Remove what differs from our module beside names: the table of positions, and diffusers' order of modulations.

    Raises:
        ValueError: for another table of positions.
    """
    tensors = drop_position_table(tensors, config)
    return shift_first(tensors, config.layers) if layout == "diffusers" else tensors


def drop_position_table(tensors: Tensors, config: MMDiTConfig) -> Tensors:
    """The tensors without the table of positions, after a check that it is the one that the course computes.

    Raises:
        ValueError: for another one.
    """
    name = "pos_embed" if "pos_embed" in tensors else "pos_embed.pos_embed"
    expected = positions(config.pos_embed_max_size, config.pos_embed_max_size, config)
    stored = tensors[name][0].float()
    # half precision also rounds the angles, which reach 64; float8 has two or three bits after the first
    tolerance = max(1e-2, torch.finfo(tensors[name].dtype).eps) if tensors[name].is_floating_point() else 1e-2
    if expected.shape != stored.shape or not torch.allclose(expected, stored, atol=tolerance):
        raise ValueError(f"{name} is not the table of positions that Stable Diffusion 3 has")
    return {other: tensor for other, tensor in tensors.items() if other != name}
