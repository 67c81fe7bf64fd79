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
from helpers.autoencoders.configs import kl_config, tiny_config
from helpers.autoencoders.interface import Autoencoder
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig
from helpers.autoencoders.vq import VQAutoencoder
from helpers.weights import TRAINING_COMMANDS, read_config, weights_path
from helpers.weights.causes import drop_unused, guess_cause
from helpers.weights.configs import PublishedConfig
from helpers.weights.folders import download_parts, find_part, modern_attention, place_of, read_part
from helpers.weights.pretrained import PICKLES, SAFETENSORS, KeyMapping, load_pretrained, read_checkpoint

SDXL = "stabilityai/sdxl-vae"  # or madebyollin/sdxl-vae-fp16-fix
SDXL_SCALE = 0.13025
PART = (".", ("diffusion_pytorch_model",))  # an autoencoder's folder and the stem of its files

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
    if text.count("/") not in (1, 2) or path.is_absolute() or path.suffix.lower() in (SAFETENSORS, *PICKLES):
        read_config(text)  # raises, and lists the weights that there are
    return _from_folder(_downloaded(text)).eval()


def _from_course_file(path: Path) -> Autoencoder:
    if "K" in read_config(path):
        return VQAutoencoder.from_weights(path)
    return KLAutoencoder.from_weights(path)


def _downloaded(text: str) -> Path:
    """Download owner/name or owner/name/subfolder from the hub; returns the folder."""
    owner, name, *subfolders = text.split("/")
    place = "/".join(subfolders) or "."
    return download_parts(f"{owner}/{name}", {"autoencoder": (place, PART[1])}, []) / place


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
    files = [path for path in sorted(folder.iterdir()) if path.stem.endswith(f"_{half}")]
    return [path for path in files if path.suffix.lower() == SAFETENSORS] or [
        path for path in files if path.suffix.lower() in PICKLES
    ]


def _from_diffusers(folder: Path) -> Autoencoder:
    config = PublishedConfig(folder / "config.json")
    class_name = config.get("_class_name")
    if class_name not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(
            f"{folder} holds a {class_name or 'model without a name'}, not AutoencoderKL or AutoencoderTiny; "
            "of a whole pipeline, name the folder vae"
        )
    try:
        sizes = tiny_config(config) if class_name == "AutoencoderTiny" else kl_config(config)
    except KeyError as missing:
        raise ValueError(f"{config.file} lacks {missing}") from None
    files = find_part(folder, *PART)
    tensors = modern_attention(drop_unused(read_part(files)))
    if isinstance(sizes, TinyConfig):
        return _build(TinyAutoencoder, sizes, tensors, tiny.published_names("diffusers"), place_of(files))
    return _build(KLAutoencoder, sizes, tensors, kl.published_names(sizes, "diffusers"), place_of(files))


def _from_file(path: Path) -> Autoencoder:
    """Load a single file in CompVis's layout; it contains no scale, so Stable Diffusion XL's is used."""
    tensors = {
        name.removeprefix("first_stage_model."): tensor for name, tensor in drop_unused(read_checkpoint(path)).items()
    }
    if "encoder.down.0.block.0.norm1.weight" not in tensors:
        cause = guess_cause(tensors, "autoencoder")
        likeliest = f". Likeliest cause: {cause}" if cause else ""
        raise ValueError(
            f"{path} holds no autoencoder in CompVis's layout; pass a diffusers folder as a folder{likeliest}"
        )
    config = KLConfig(scale=SDXL_SCALE)
    return _build(KLAutoencoder, config, tensors, kl.published_names(config, "compvis"), path)


def _build(
    architecture: Callable[..., Architecture],
    config: object,
    tensors: Mapping[str, Tensor],
    names: KeyMapping,
    place: Path,
) -> Architecture:
    with torch.device("meta"):
        model = architecture(config)
    what = f"an autoencoder of these sizes ({config})"
    load_pretrained(model, tensors, names, what=what, hint=lambda: guess_cause(tensors, "autoencoder"), place=place)
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
    return _build(TinyAutoencoder, config, tensors, tiny.published_names("taesd"), encoder.parent)
