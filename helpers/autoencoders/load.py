"""Where an autoencoder comes from: the course's own weights, a diffusers folder, a single file, TAESD's pair, the hub.

The arithmetic is float32 whatever the file holds: in float16 the decoder of Stable Diffusion XL's autoencoder
overflows (its "fp16-fix" is a copy fine-tuned not to).
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.autoencoders import kl, tiny
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig
from helpers.autoencoders.vq import VQAutoencoder
from helpers.weights import TRAINING_COMMANDS, read_config, weights_path
from helpers.weights.pretrained import (
    fetch,
    folder_part,
    load_pretrained,
    modern_attention,
    read_checkpoint,
    read_json_config,
)

SDXL = "stabilityai/sdxl-vae"  # or madebyollin/sdxl-vae-fp16-fix
SDXL_SCALE = 0.13025


def load_autoencoder(source: str | Path) -> nn.Module:
    """An autoencoder with `to_latents` and `to_pictures`, in eval mode.

    Args:
        source: a name in 00_assets/weights; a file the course wrote; "sdxl-vae" (SDXL_VAE names a local copy, else the
            hub); a diffusers folder (AutoencoderKL or AutoencoderTiny); a single .safetensors file in CompVis's layout;
            a folder with TAESD's pair NAME_encoder and NAME_decoder; or a hub repository, owner/name, or a folder in
            one, owner/name/vae.

    Raises:
        FileNotFoundError, ValueError: saying what was looked for, or what it is instead.
    """
    text = str(source)
    if text in TRAINING_COMMANDS and weights_path(text).is_file():
        return _ours(weights_path(text))
    if text == "sdxl-vae":
        text = os.environ.get("SDXL_VAE") or SDXL
    path = Path(text).expanduser()
    if path.is_dir():
        return _from_folder(path).eval()
    if path.is_file():
        return _ours(path) if _is_ours(path) else _from_file(path).eval()
    if text.count("/") not in (1, 2) or path.is_absolute() or path.suffix in (".safetensors", ".ckpt", ".pth", ".pt"):
        read_config(text)  # raises, and says which weights there are
    return _from_folder(_downloaded(text)).eval()


def _ours(path: Path) -> nn.Module:
    return (VQAutoencoder if "K" in read_config(path) else KLAutoencoder).from_weights(path)


def _downloaded(text: str) -> Path:
    """The folder of a hub repository that holds the autoencoder; safetensors before pickles."""
    owner, name, *inside = text.split("/")
    within = "".join(f"{part}/" for part in inside)
    for ending in ("safetensors", "bin"):
        folder = fetch(f"{owner}/{name}", [f"{within}config.json", f"{within}diffusion_pytorch_model*.{ending}"])
        if any((folder / within).glob(f"diffusion_pytorch_model*.{ending}")):
            break
    return folder / within


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "model" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _from_folder(folder: Path) -> nn.Module:
    if (folder / "config.json").is_file():
        return _from_diffusers(folder)
    encoders, decoders = (
        sorted(folder.glob(f"*_{half}.safetensors")) or sorted(folder.glob(f"*_{half}.pth"))
        for half in ("encoder", "decoder")
    )
    if len(encoders) == len(decoders) == 1 and encoders[0].name.replace("_encoder.", "_decoder.") == decoders[0].name:
        return tiny_from_pair(encoders[0], decoders[0])
    raise FileNotFoundError(
        f"{folder} holds no autoencoder: neither a config.json of diffusers nor one pair "
        "NAME_encoder, NAME_decoder (.pth or .safetensors)"
    )


def _from_diffusers(folder: Path) -> nn.Module:
    told = read_json_config(folder / "config.json")
    kind = told.get("_class_name")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(
            f"{folder} holds a {kind or 'model without a name'}, not AutoencoderKL or AutoencoderTiny; "
            "of a whole pipeline, name the folder vae"
        )
    tensors = modern_attention(read_checkpoint(folder_part(folder, ".", ["diffusion_pytorch_model"])))
    try:
        if kind == "AutoencoderTiny":
            config = TinyConfig(
                told["latent_channels"], told["encoder_block_out_channels"][0], tuple(told["num_encoder_blocks"])
            )
            return _fitted(TinyAutoencoder, config, tensors, tiny.published_names("diffusers"))
        config = _kl_config(told)
    except KeyError as missing:
        raise ValueError(f"{folder / 'config.json'} does not tell {missing}") from None
    return _fitted(KLAutoencoder, config, tensors, kl.published_names(config, "diffusers"))


def _kl_config(told: Mapping) -> KLConfig:
    """What diffusers' config.json says, in our words."""
    widths = told["block_out_channels"]
    return KLConfig(
        width=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=told["layers_per_block"],
        latent_channels=told["latent_channels"],
        groups=told.get("norm_num_groups", 32),
        quant_convs=told.get("use_quant_conv", True),
        scale=told.get("scaling_factor", KLConfig.scale),
        shift=told.get("shift_factor") or 0.0,
    )


def _from_file(path: Path) -> nn.Module:
    """A single file in CompVis's layout; such a file tells no scale, and the one in use is Stable Diffusion XL's."""
    tensors = {name.removeprefix("first_stage_model."): tensor for name, tensor in read_checkpoint(path).items()}
    if "encoder.down.0.block.0.norm1.weight" not in tensors:
        raise ValueError(f"{path} holds no autoencoder in CompVis's layout; pass a diffusers folder as a folder")
    config = KLConfig(scale=SDXL_SCALE)
    return _fitted(KLAutoencoder, config, tensors, kl.published_names(config, "compvis"))


def _fitted(kind: type[nn.Module], config: object, tensors: Mapping[str, Tensor], names) -> nn.Module:
    with torch.device("meta"):
        model = kind(config)
    load_pretrained(model, tensors, names, what=f"an autoencoder of these sizes ({config})")
    return model


def tiny_from_pair(encoder: Path, decoder: Path) -> TinyAutoencoder:
    """TAESD as its author publishes it, a file per half; the sizes follow from the tensors."""
    tensors = {
        f"{half}.{name}": tensor
        for half, path in (("encoder", encoder), ("decoder", decoder))
        for name, tensor in read_checkpoint(path).items()
    }
    numbers = [name.split(".")[1] for name in tensors if name.startswith("encoder.")]
    if not all(number.isdigit() for number in numbers) or "encoder.0.weight" not in tensors:
        raise ValueError(f"{encoder} is no half of TAESD: its first tensors are {sorted(tensors)[:3]}")
    last = max(map(int, numbers))
    config = TinyConfig(
        latent_channels=len(tensors[f"encoder.{last}.weight"]),
        width=len(tensors["encoder.0.weight"]),
        pooled=any(".pool." in name for name in tensors),
    )
    return _fitted(TinyAutoencoder, config, tensors, tiny.published_names("taesd"))
