"""Which models a page can run, and the files of weights that they need.

To add a model, add a line to MODELS. It appears on the page as soon as its weights are in 00_assets/weights.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from helpers.autoencoders.kl import KLConfig
from helpers.data import load_faces
from helpers.tiny_sd.codecs import load_codec, shipped_autoencoder
from helpers.tiny_sd.unet import UNetConfig
from helpers.weights import weights_path
from helpers.weights.names import current_config, current_name


@dataclass(frozen=True)
class LiveModel:
    """A model of the page; `parts` of a TinySD follow from its weights."""

    title: str  # as the reader chooses it
    weights: str  # a name in 00_assets/weights
    guidance_scale: float  # that the page suggests
    steps: int = 12
    pipeline: str = "tiny_sd"  # a name in PIPELINES of pipelines.js
    clip: str = ""  # Stable Diffusion 1: weights of the text encoder
    autoencoder: str = ""  # Stable Diffusion 1: weights of the autoencoder


MODELS = {
    "pixels": LiveModel("Method 1: pixels", "tiny_sd_pixels", 2.0),
    "own": LiveModel("Method 3: latents of an autoencoder for faces", "tiny_sd_own", 2.0),
    "sd1": LiveModel("Stable Diffusion 1, tiny", "sd1", 4.0, pipeline="sd1", clip="clip", autoencoder="autoencoder"),
    # Real animals, by class. They show Method 2, so that its network for synthetic faces need not be among the pages.
    # The animals of Methods 1 and 3 would be 25 MB more, and the pages have to stay below 90 MB.
    "animals": LiveModel("Real animals, Method 2: pretrained latents", "tiny_sd_animals", 7.0, 16),
}

# The tensors of each part that generating needs: prefixes of their names. An autoencoder's encoder is left out.
NEEDED = {
    "unet": ("",),
    "autoencoder": ("decoder.", "post_quant."),
    "text": ("text.tokens.", "text.positions", "text.layers.", "text.norm."),
}


def shipped_models() -> dict[str, LiveModel]:
    """The models whose weights are there."""
    return {name: model for name, model in MODELS.items() if weights_path(model.weights).is_file()}


def weights_of_parts(model: LiveModel) -> dict[str, str]:
    """The weights that each part of a model is read from, such as {"unet": "tiny_sd_own", "autoencoder": ...}.

    Raises:
        FileNotFoundError: where a network's autoencoder is not among the course's weights.
    """
    if model.pipeline == "sd1":
        return {"unet": model.weights, "text": model.clip, "autoencoder": model.autoencoder}
    codec = read_description(weights_path(model.weights))["codec"]
    if codec == "pixels":
        return {"unet": model.weights}
    autoencoder: str | None = codec["autoencoder"]
    if not weights_path(str(autoencoder)).is_file():
        autoencoder = shipped_autoencoder(codec["fingerprint"])
    if autoencoder is None:
        raise FileNotFoundError(f"the autoencoder of {model.weights} does not ship: {codec['autoencoder']}")
    return {"unet": model.weights, "autoencoder": autoencoder}


def read_description(path: Path) -> dict[str, Any]:
    """What a file says about its network, with today's names and every default, as plain JSON."""
    with safe_open(path, framework="pt") as file:
        description = current_config(json.loads(file.metadata()["model"]))
    if "codec" in description:  # a TinySD
        return description | {"config": asdict(UNetConfig(**description["config"]))}
    if "quant_convs" in description:  # an autoencoder
        return asdict(KLConfig(**description))
    return description


def read_part(weights: str, part: str) -> bytes:
    """A safetensors file with the tensors of one part and its configuration, both with today's names.

    Raises:
        ValueError: for a network that the page's JavaScript cannot run.
    """
    path = weights_path(weights)
    description = read_description(path)
    _check_supported(weights, description)
    if part == "unet" and description.get("codec", "pixels") != "pixels":
        description["latent_rgb_factors"] = latent_rgb_factors(json.dumps(description["codec"]))
    prefixes = NEEDED[part]
    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():
            if name.startswith(prefixes):
                tensors[current_name(name)] = file.get_tensor(name)
    return save(tensors, {"model": json.dumps(description)})


@cache
def latent_rgb_factors(codec: str) -> list[list[float]]:
    """What each latent channel contributes to red, green and blue, by least squares over synthetic faces: a preview.

    Args:
        codec: what `load_codec` takes, as JSON.

    Returns:
        (channels, 3): a latent times these factors is nearly the image, as small as the latent.
    """
    described = json.loads(codec)
    images = load_faces("toy-faces", limit=64, progress=False).tensor()
    latents = load_codec(described).encode(images)
    height, width = latents.shape[-2:]
    small = F.adaptive_avg_pool2d(images, (height, width))
    rows, colours = (values.movedim(1, -1).flatten(0, -2) for values in (latents, small))
    return torch.linalg.lstsq(rows.double(), colours.double()).solution.float().tolist()


def _check_supported(weights: str, description: Mapping[str, Any]) -> None:
    """Fail while the pages are rendered, and not in a reader's browser."""
    if description.get("objective", "flow") != "flow":
        raise ValueError(f"{weights}: the page knows the objective 'flow', not {description['objective']!r}")
