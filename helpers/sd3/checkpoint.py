"""Published Stable Diffusion 3 and 3.5 checkpoints: where the parts are, how tensors are called, what sizes they have.

Two layouts are in use: a diffusers folder (or its hub repository), and Stability's single file, with or without the
text encoders. They disagree in one thing beside names: which half of the last modulations shifts and which scales.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.sd3.mmdit import MMDiTConfig, positions
from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import published_text
from helpers.text.t5 import T5Tokenizer, published_t5
from helpers.weights.pretrained import KeyMapping, fetch, folder_tensors, guess_cause, read_checkpoint, read_json_config

Tensors = dict[str, Tensor]
HEAD_WIDTH = 64  # in every published size


class Published(NamedTuple):
    """What was found: each part's tensors under their published names."""

    layout: str  # "stability" or "diffusers"
    transformer: Tensors
    autoencoder: Tensors
    clip_l: Tensors
    clip_g: Tensors
    t5: Tensors | None  # None: the checkpoint comes without
    shift: float
    tokenizers: tuple[Path, Path | None]  # CLIP's merges, T5's tokenizer.json


def read(
    source: str | Path,
    *,
    variant: str | None = None,
    t5: bool = True,
    encoders: str | Path | None = None,
    tokenizers: tuple[str | Path, str | Path] | None = None,
) -> Published:
    """Read a checkpoint.

    Args:
        source: a diffusers folder, a single file, or a hub repository such as
            "stabilityai/stable-diffusion-3-medium-diffusers".
        variant: "fp16" takes the half-precision files of a folder or repository.
        t5: False leaves T5 on the disk: 9.5 GB less in half precision.
        encoders: for a single file without text encoders: the folder of clip_l.safetensors, clip_g.safetensors and
            t5xxl*.safetensors.
        tokenizers: CLIP's and T5's, where the checkpoint brings none; None: from the hub.

    Raises:
        FileNotFoundError, ValueError: saying what was looked for, or what the file is instead.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if variant:
            raise ValueError(f"variant={variant!r} chooses among a folder's files; {path.name} is a single file")
        return _single_file(path, t5, encoders, tokenizers)
    if path.suffix == ".safetensors":
        raise FileNotFoundError(f"no checkpoint at {source}: no such file")
    if encoders is not None:
        raise ValueError("encoders= is for single files that come without; diffusers folders hold theirs")
    if not path.is_dir():
        path = _download(str(source), variant, t5)
    return _folder(path, variant, t5, tokenizers)


# --- a diffusers folder ---------------------------------------------------------------------------------------------

PARTS = {
    "transformer": ("transformer", ("diffusion_pytorch_model",)),
    "clip_l": ("text_encoder", ("model",)),
    "autoencoder": ("vae", ("diffusion_pytorch_model",)),
    "clip_g": ("text_encoder_2", ("model",)),
    "t5": ("text_encoder_3", ("model",)),
}


def _download(repo: str, variant: str | None, t5: bool) -> Path:
    def weights(parts: list[str], dot: str) -> list[str]:
        return [
            f"{PARTS[part][0]}/{stem}{end}"
            for part in parts
            for stem in PARTS[part][1]
            for end in (f"{dot}.safetensors", f"{dot}-*.safetensors", f".safetensors.index{dot}.json")
        ]

    parts = [part for part in PARTS if t5 or part != "t5"]
    names = ["model_index.json", "scheduler/*.json", "tokenizer/*", "tokenizer_3/*"]
    folder = fetch(repo, [*weights(parts, f".{variant}" if variant else ""), *names])
    rest = [part for part in parts if not _in_variant(folder, part, variant)]
    if variant and 0 < len(rest) < len(parts):  # 3.5 has its text encoders in two precisions, the others in one
        fetch(repo, weights(rest, ""))
    return folder


def _in_variant(folder: Path, part: str, variant: str | None) -> str | None:
    """The variant, where this part comes in it."""
    return variant if any((folder / PARTS[part][0]).glob(f"*.{variant}[.-]*")) else None


def _folder(folder: Path, variant: str | None, t5: bool, tokenizers: tuple | None) -> Published:
    index = folder / "model_index.json"
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if index.is_file():
        pipeline = read_json_config(index).get("_class_name", "")
        if not pipeline.startswith("StableDiffusion3"):
            raise ValueError(f"{folder} holds a {pipeline or 'pipeline without a name'}, not Stable Diffusion 3")
    shift = read_json_config(scheduler).get("shift", 3.0) if scheduler.is_file() else 3.0
    t5 = t5 and (folder / PARTS["t5"][0]).is_dir()
    chosen = {part: _in_variant(folder, part, variant) for part in PARTS if t5 or part != "t5"}
    if variant and not any(chosen.values()):
        raise FileNotFoundError(f"{folder} holds no part as variant {variant!r}: leave variant= out")
    parts = {part: folder_tensors(folder, *PARTS[part], own) for part, own in chosen.items()}
    own = folder / "tokenizer", folder / "tokenizer_3"
    clip = (tokenizers or own)[0] if tokenizers or own[0].is_dir() else BytePairTokenizer.fetched()
    long = (tokenizers or own)[1] if tokenizers or own[1].is_dir() else T5Tokenizer.fetched() if t5 else None
    parts |= {part: published_text(parts[part]) for part in ("clip_l", "clip_g")}
    parts["t5"] = published_t5(parts["t5"]) if t5 else None
    return Published("diffusers", **parts, shift=shift, tokenizers=(Path(clip), Path(long) if t5 else None))


# --- Stability's single file ----------------------------------------------------------------------------------------

PREFIXES = {
    "transformer": "model.diffusion_model.",
    "autoencoder": "first_stage_model.",
    "clip_l": "text_encoders.clip_l.transformer.",
    "clip_g": "text_encoders.clip_g.transformer.",
    "t5": "text_encoders.t5xxl.transformer.",
}


def _single_file(path: Path, t5: bool, encoders: str | Path | None, tokenizers: tuple | None) -> Published:
    tensors = read_checkpoint(path)
    if not any("joint_blocks." in name for name in tensors):
        raise ValueError(
            f"{path} is no Stable Diffusion 3 checkpoint, it has no joint_blocks.*: "
            f"{_instead(tensors) or 'no layout the course knows'}"
        )
    strangers = [
        name for name in tensors if not name.startswith(tuple(PREFIXES.values())) and not name.endswith("logit_scale")
    ]
    if strangers:
        raise ValueError(f"{path} holds {len(strangers)} unexpected tensors, such as {sorted(strangers)[:3]}")
    parts = {
        part: {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for part, prefix in PREFIXES.items()
    }
    lacking = [part for part in SEPARATE if not parts[part] and (t5 or part != "t5")]
    if encoders is not None and not lacking:
        raise ValueError(f"{path} holds its own text encoders: leave encoders= out")
    if encoders is None and "clip_l" in lacking:
        raise ValueError(
            f"{path} comes without text encoders: pass the folder of clip_l.safetensors, "
            "clip_g.safetensors and t5xxl_fp16.safetensors as encoders="
        )
    if encoders is not None:
        parts |= _separate(Path(encoders).expanduser(), lacking)
    for part in ("clip_l", "clip_g"):
        parts[part] = published_text(parts[part])
    # the first tower's summary goes in as it is: in diffusers' folders its projection is the identity
    if (norm := parts["clip_l"].get("text_model.final_layer_norm.weight")) is not None:
        parts["clip_l"]["text_projection.weight"] = torch.eye(len(norm))
    parts["t5"] = published_t5(parts["t5"]) if t5 and parts["t5"] else None
    clip, long = tokenizers or (BytePairTokenizer.fetched(), None)
    if parts["t5"] is not None and long is None:
        long = T5Tokenizer.fetched()
    return Published("stability", **parts, shift=3.0, tokenizers=(Path(clip), Path(long) if parts["t5"] else None))


SEPARATE = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5xxl"}  # part -> how its file's name begins


def _separate(folder: Path, lacking: list[str]) -> dict[str, Tensors]:
    """Text encoders in files of their own."""
    found = {part: sorted(folder.glob(f"{SEPARATE[part]}*.safetensors")) for part in lacking}
    absent = [part for part, files in found.items() if not files]
    if absent:
        raise FileNotFoundError(
            f"{folder} lacks the text encoders {', '.join(absent)}: it should hold "
            "clip_l.safetensors, clip_g.safetensors and t5xxl_fp16.safetensors "
            "(or pass t5=False)"
        )
    return {part: read_checkpoint(files[0]) for part, files in found.items()}


INSTEAD = {  # a pattern among the names -> what such a file is
    r"lora[_.]": "a LoRA, a small addition to a model: load the model it was trained on",
    r"input_blocks\.": "Stable Diffusion 1, 2 or XL, which have a U-Net: see notebook 03",
    r"double_blocks|single_transformer_blocks": "Flux, another architecture",
    r"^transformer_blocks\.": "a diffusers transformer alone: pass its whole folder",
    r"^(text_model|encoder\.block|shared)\.": "a text encoder alone: pass its folder as encoders=",
    r"^(encoder|decoder)\.": "an autoencoder alone",
}


def _instead(tensors: Mapping[str, Tensor]) -> str:
    """What a file that is no Stable Diffusion 3 may be, or ""."""
    return guess_cause(INSTEAD, tensors)


# --- names and sizes ------------------------------------------------------------------------------------------------


def transformer_names(layout: str) -> KeyMapping:
    """From the MM-DiT's names to those of a published file, in layout "stability" or "diffusers"."""
    if layout == "stability":
        return [
            (r"^words\.", "context_embedder."),
            (r"^patches\.", "x_embedder.proj."),
            (r"^time\.", "t_embedder.mlp."),
            (r"^summary\.", "y_embedder.mlp."),
            (r"^modulation\.", "final_layer.adaLN_modulation.1."),
            (r"^head\.", "final_layer.linear."),
            (r"^blocks\.", "joint_blocks."),
            (r"\.text\.", ".context_block."),
            (r"\.picture\.", ".x_block."),
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
        (r"^words\.", "context_embedder."),
        (r"^patches\.", "pos_embed.proj."),
        (r"^time\.(\d)\.", lambda m: f"time_text_embed.timestep_embedder.linear_{1 + int(m[1]) // 2}."),
        (r"^summary\.(\d)\.", lambda m: f"time_text_embed.text_embedder.linear_{1 + int(m[1]) // 2}."),
        (r"^modulation\.", "norm_out.linear."),
        (r"^head\.", "proj_out."),
        (r"^blocks\.", "transformer_blocks."),
        (r"\.text\.modulation\.", ".norm1_context.linear."),
        (r"\.picture\.modulation\.", ".norm1.linear."),
        (r"\.text\.attention\.to_qkv\.", ".attn.add_{qkv}_proj."),
        (r"\.text\.attention\.to_out\.", ".attn.to_add_out."),
        (r"\.text\.attention\.norm_", ".attn.norm_added_"),
        (r"\.picture\.attention\.", ".attn."),
        (r"\.picture\.dual\.", ".attn2."),
        (r"\.to_qkv\.", ".to_{qkv}."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.picture\.mlp\.", ".ff.mlp."),
        (r"\.text\.mlp\.", ".ff_context.mlp."),
        (r"\.mlp\.0\.", ".net.0.proj."),
        (r"\.mlp\.2\.", ".net.2."),
    ]


def shift_first(tensors: Tensors, layers: int) -> Tensors:
    """diffusers' order of two modulations undone: it stores (scale, shift) where everyone else has (shift, scale).

    These two are the final layer's, and those of the last block's text, which nothing reads but attention. With
    the second one forgotten a picture is off by a thousandth only: nobody sees it, a test must.
    """
    ends = ("norm_out.linear.", f"transformer_blocks.{layers - 1}.norm1_context.linear.")
    return {
        name: torch.cat(tensor.chunk(2)[::-1]) if name.startswith(ends) else tensor for name, tensor in tensors.items()
    }


def inferred(tensors: Mapping[str, Tensor]) -> MMDiTConfig:
    """The sizes of a transformer, from its tensors in either layout.

    Raises:
        ValueError: where these are not the tensors of an MM-DiT.
    """
    names = {
        "patches": ("x_embedder.proj.weight", "pos_embed.proj.weight"),
        "words": ("context_embedder.weight",),
        "summary": ("y_embedder.mlp.0.weight", "time_text_embed.text_embedder.linear_1.weight"),
        "table": ("pos_embed", "pos_embed.pos_embed"),
    }
    found = {part: next((tensors[name] for name in some if name in tensors), None) for part, some in names.items()}
    absent = [names[part][0] for part, tensor in found.items() if tensor is None]
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"(?:joint|transformer)_blocks\.(\d+)\.", name))}
    if absent or not blocks:
        raise ValueError(f"this is no Stable Diffusion 3 transformer: it has no {absent or 'joint_blocks.*'}")
    width, channels, patch, _ = found["patches"].shape
    return MMDiTConfig(
        latent_channels=channels,
        patch=patch,
        width=width,
        layers=1 + max(blocks),
        heads=max(1, width // HEAD_WIDTH),
        text_width=found["words"].shape[1],
        pooled_width=found["summary"].shape[1],
        table=round(found["table"].shape[1] ** 0.5),
        qk_norm=any(re.search(r"\.(ln_q|norm_q)\.", name) for name in tensors),
        dual_layers=len({name.split(".attn2.")[0] for name in tensors if ".attn2." in name}),
    )


def plain(tensors: Tensors, config: MMDiTConfig, layout: str) -> Tensors:
    """A transformer's tensors as ours are: without the table of positions, every shift before its scale."""
    tensors = without_table(tensors, config)
    return shift_first(tensors, config.layers) if layout == "diffusers" else tensors


def without_table(tensors: Tensors, config: MMDiTConfig) -> Tensors:
    """The tensors without the table of positions, once it is the one that the course computes.

    Raises:
        ValueError: for another one.
    """
    name = next(name for name in ("pos_embed", "pos_embed.pos_embed") if name in tensors)
    ours = positions(config.table, config.table, config)
    theirs = tensors[name][0].float()
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-2):  # half precision, at angles up to 64
        raise ValueError(f"{name} is not the table of positions that Stable Diffusion 3 has")
    return {other: tensor for other, tensor in tensors.items() if other != name}
