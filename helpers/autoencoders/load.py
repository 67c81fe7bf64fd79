"""Load an autoencoder: the course's own weights, a diffusers folder, a single file, TAESD's pair, or from the hub.

The arithmetic is float32 whatever the file holds: in float16 the decoder of Stable Diffusion XL's autoencoder
overflows (its "fp16-fix" is a copy fine-tuned not to).
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from helpers.autoencoders import kl, tiny
from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig
from helpers.autoencoders.vq import VQAutoencoder
from helpers.weights import TRAINING_COMMANDS, read_config, weights_path
from helpers.weights.pretrained import (
    KeyMapping,
    fetch,
    folder_part,
    load_pretrained,
    modern_attention,
    read_checkpoint,
    read_json_config,
)

SDXL = "stabilityai/sdxl-vae"  # or madebyollin/sdxl-vae-fp16-fix
SDXL_SCALE = 0.13025

Architecture = TypeVar("Architecture", KLAutoencoder, TinyAutoencoder)


def load_autoencoder(source: str | Path) -> Autoencoder:
    """Load an autoencoder, in eval mode.

    Args:
        source: a name in 00_assets/weights; a file the course wrote; "sdxl-vae" (SDXL_VAE names a local copy, else the
            hub); a diffusers folder (AutoencoderKL or AutoencoderTiny); a single .safetensors file in CompVis's layout;
            a folder with TAESD's pair NAME_encoder and NAME_decoder; or a hub repository, owner/name, or a folder in
            one, owner/name/vae.

    Raises:
        FileNotFoundError: saying which file or repository is missing.
        ValueError: for a file or folder that holds something else, saying what.
    """
    text = str(source)
    if text in TRAINING_COMMANDS and weights_path(text).is_file():
        return _from_course_file(weights_path(text))
    if text == "sdxl-vae":
        text = os.environ.get("SDXL_VAE") or SDXL
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_folder(path).eval()
    if path.is_file():
        return _from_course_file(path) if _is_course_file(path) else _from_file(path).eval()
    if text.count("/") not in (1, 2) or path.is_absolute() or path.suffix in (".safetensors", ".ckpt", ".pth", ".pt"):
        read_config(text)  # raises, and lists the weights that there are
    return _from_folder(_downloaded(text)).eval()


def _from_course_file(path: Path) -> Autoencoder:
    if "K" in read_config(path):
        return VQAutoencoder.from_weights(path)
    return KLAutoencoder.from_weights(path)


def _downloaded(text: str) -> Path:
    """Download owner/name or owner/name/subfolder from the hub, safetensors before pickles; returns the folder."""
    owner, name, *subfolders = text.split("/")
    prefix = "".join(f"{subfolder}/" for subfolder in subfolders)
    for suffix in ("safetensors", "bin"):
        folder = fetch(f"{owner}/{name}", [f"{prefix}config.json", f"{prefix}diffusion_pytorch_model*.{suffix}"])
        if any((folder / prefix).glob(f"diffusion_pytorch_model*.{suffix}")):
            break
    return folder / prefix


def _is_course_file(path: Path) -> bool:
    """Whether the file's metadata hold a config, as those of all weights of the course do."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "model" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _from_folder(folder: Path) -> Autoencoder:
    if (folder / "config.json").is_file():
        return _from_diffusers(folder)
    encoders = _taesd_files(folder, "encoder")
    decoders = _taesd_files(folder, "decoder")
    if len(encoders) == len(decoders) == 1 and encoders[0].name.replace("_encoder.", "_decoder.") == decoders[0].name:
        return tiny_from_pair(encoders[0], decoders[0])
    raise FileNotFoundError(
        f"{folder} holds no autoencoder: neither a config.json of diffusers nor one pair "
        "NAME_encoder, NAME_decoder (.pth or .safetensors)"
    )


def _taesd_files(folder: Path, half: str) -> list[Path]:
    return sorted(folder.glob(f"*_{half}.safetensors")) or sorted(folder.glob(f"*_{half}.pth"))


def _from_diffusers(folder: Path) -> Autoencoder:
    config = read_json_config(folder / "config.json")
    class_name = config.get("_class_name")
    if class_name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(
            f"{folder} holds a {class_name or 'model without a name'}, not AutoencoderKL or AutoencoderTiny; "
            "of a whole pipeline, name the folder vae"
        )
    tensors = modern_attention(read_checkpoint(folder_part(folder, ".", ["diffusion_pytorch_model"])))
    try:
        sizes = _tiny_config(config) if class_name == "AutoencoderTiny" else _kl_config(config)
    except KeyError as missing:
        raise ValueError(f"{folder / 'config.json'} lacks {missing}") from None
    if isinstance(sizes, TinyConfig):
        return _build(TinyAutoencoder, sizes, tensors, tiny.published_names("diffusers"))
    return _build(KLAutoencoder, sizes, tensors, kl.published_names(sizes, "diffusers"))


def _tiny_config(config: Mapping) -> TinyConfig:
    """Translate diffusers' config.json of an AutoencoderTiny. Raises KeyError."""
    return TinyConfig(
        latent_channels=config["latent_channels"],
        width=config["encoder_block_out_channels"][0],
        blocks=tuple(config["num_encoder_blocks"]),
    )


def _kl_config(config: Mapping) -> KLConfig:
    """Translate diffusers' config.json of an AutoencoderKL. Raises KeyError."""
    widths = config["block_out_channels"]
    return KLConfig(
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        groups=config.get("norm_num_groups", 32),
        quant_convs=config.get("use_quant_conv", True),
        scale=config.get("scaling_factor", KLConfig.scale),
        shift=config.get("shift_factor") or 0.0,
    )


def _from_file(path: Path) -> Autoencoder:
    """Load a single file in CompVis's layout; it contains no scale, so Stable Diffusion XL's is used."""
    tensors = {name.removeprefix("first_stage_model."): tensor for name, tensor in read_checkpoint(path).items()}
    if "encoder.down.0.block.0.norm1.weight" not in tensors:
        raise ValueError(f"{path} holds no autoencoder in CompVis's layout; pass a diffusers folder as a folder")
    config = KLConfig(scale=SDXL_SCALE)
    return _build(KLAutoencoder, config, tensors, kl.published_names(config, "compvis"))


def _build(
    architecture: Callable[..., Architecture], config: object, tensors: Mapping[str, Tensor], names: KeyMapping
) -> Architecture:
    with torch.device("meta"):
        model = architecture(config)
    load_pretrained(model, tensors, names, what=f"an autoencoder of these sizes ({config})")
    return model


def tiny_from_pair(encoder: Path, decoder: Path) -> TinyAutoencoder:
    """Load TAESD as its author publishes it, one file per half; the sizes follow from the tensors' shapes."""
    tensors = {f"encoder.{name}": tensor for name, tensor in read_checkpoint(encoder).items()}
    tensors |= {f"decoder.{name}": tensor for name, tensor in read_checkpoint(decoder).items()}
    layers = [name.split(".")[1] for name in tensors if name.startswith("encoder.")]
    if not all(layer.isdigit() for layer in layers) or "encoder.0.weight" not in tensors:
        raise ValueError(f"{encoder} is not TAESD's encoder: its first tensors are {sorted(tensors)[:3]}")
    last = max(int(layer) for layer in layers)
    config = TinyConfig(
        latent_channels=len(tensors[f"encoder.{last}.weight"]),
        width=len(tensors["encoder.0.weight"]),
        pooled=any(".pool." in name for name in tensors),
    )
    return _build(TinyAutoencoder, config, tensors, tiny.published_names("taesd"))
