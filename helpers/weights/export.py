"""Folders that diffusers and transformers load: a part is a subfolder with `config.json` and one file of weights."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.weights.pretrained import KeyMapping, checkpoint_keys

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"  # of U-Nets, transformers and autoencoders
TRANSFORMERS_WEIGHTS = "model.safetensors"  # of text encoders and language models


def published_tensors(
    module: nn.Module, key_mapping: KeyMapping, shares: Callable[[str, int], Sequence[int]] | None = None
) -> dict[str, Tensor]:
    """A module's tensors under their published names; the reverse of `pretrained.load_pretrained`.

    Args:
        key_mapping: from our names to the published ones; a name that stands for several splits our tensor's rows.
        shares: for one of our names and a number of published ones, how they share the rows, such as (4, 1, 1);
            None: in equal parts.
    """
    tensors = {}
    for name, tensor in module.state_dict().items():
        keys = checkpoint_keys(name, key_mapping)
        parts = [tensor]
        if len(keys) > 1:
            weights = [1] * len(keys) if shares is None else shares(name, len(keys))
            parts = tensor.split([len(tensor) * weight // sum(weights) for weight in weights])
        for key, part in zip(keys, parts, strict=True):
            tensors[key] = part.detach().cpu().contiguous().clone()
    return tensors


def write_part(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], file: str) -> None:
    """Write one part of a pipeline: `config.json` and a file of weights; the folder is created."""
    write_json(folder / "config.json", config)
    save_file(dict(tensors), folder / file, metadata={"format": "pt"})


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")
