"""Published PaliGemma checkpoints: a folder or hub repository of safetensors, with the key names of any year.

`transformers` has used three naming schemes for the same tensors; all are mapped to one. An example:
"model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight" becomes "vision_tower.encoder.layers.0.mlp.fc1.weight"
by `one_layout`, which is what PALIGEMMA_NAMES maps our "vision.layers.0.mlp.0.weight" to.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from helpers.vlm.gemma import GEMMA_NAMES, GemmaConfig
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.siglip import SIGLIP_NAMES, SiglipConfig
from helpers.weights.pretrained import (
    KeyMapping,
    fetch,
    folder_tensors,
    guess_cause,
    load_pretrained,
    map_key,
    read_json_config,
)

EMBEDDINGS = "language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
# prefixes of one year or another, removed one after the other: first around the whole model, then inside its parts
WRAPPINGS = (
    (r"^model\.(?=vision_tower|multi_modal_projector|language_model)", ""),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "language_model."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)


class Checkpoint(NamedTuple):
    """A folder with a PaliGemma checkpoint."""

    config: PaliGemmaConfig
    folder: Path  # also holds the tokenizer

    def tensors(self) -> dict[str, Tensor]:
        """Read all tensors, named by `one_layout`. Raises FileNotFoundError, ValueError for files that do not fit."""
        return one_layout(folder_tensors(self.folder, ".", ("model",)))


def find(source: str | Path) -> Checkpoint:
    """Locate a checkpoint and read its config.

    Args:
        source: a folder with config.json and *.safetensors, or a hub repository: "google/paligemma-3b-mix-224". Google
            requires you to accept its licence on the hub first (`hf auth login`).

    Raises:
        FileNotFoundError: where something is missing; the message says what.
        ValueError: for a folder of another model.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ValueError(f"{folder} is a file: pass its folder, which holds config.json and tokenizer.json too")
    if not folder.is_dir():
        folder = fetch(str(source), ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"])
    return Checkpoint(config_of(folder), folder)


def config_of(folder: Path) -> PaliGemmaConfig:
    """Read the sizes from a folder's config.json; absent ones are those of PaliGemma 3B.

    Raises:
        FileNotFoundError, ValueError: without a config.json, and for one of another model.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: is it a PaliGemma folder?")
    config = read_json_config(file)
    if config.get("model_type") != "paligemma":
        raise ValueError(f"{folder} holds a {config.get('model_type', 'model without a name')!r}, not a PaliGemma")
    if "quantization_config" in config:
        raise ValueError(f"{folder} is quantised, which the course cannot load: use the original weights")
    vision = _vision_config(config.get("vision_config") or {})
    language = config.get("text_config") or {}
    if language.get("model_type", "gemma") != "gemma":
        raise ValueError(
            f"the decoder of {folder} is {language['model_type']}: the course loads PaliGemma 1, whose decoder is "
            "gemma; PaliGemma 2 has gemma2"
        )
    image_token = config.get("image_token_index", config.get("image_token_id", 257_152))
    return PaliGemmaConfig(vision, _language_config(language), image_token)


def _vision_config(config: Mapping[str, Any]) -> SiglipConfig:
    return SiglipConfig(
        size=config.get("image_size", 224),
        patch=config.get("patch_size", 14),
        width=config.get("hidden_size", 1152),
        layers=config.get("num_hidden_layers", 27),
        heads=config.get("num_attention_heads", 16),
        mlp=config.get("intermediate_size", 4304),
    )


def _language_config(config: Mapping[str, Any]) -> GemmaConfig:
    rope = config.get("rope_parameters") or {}
    return GemmaConfig(
        vocabulary=config.get("vocab_size", 257_216),
        width=config.get("hidden_size", 2048),
        layers=config.get("num_hidden_layers", 18),
        heads=config.get("num_attention_heads", 8),
        kv_heads=config.get("num_key_value_heads", 1),
        head_width=config.get("head_dim", 256),
        mlp=config.get("intermediate_size", 16_384),
        theta=rope.get("rope_theta", config.get("rope_theta", 1e4)),
        eps=config.get("rms_norm_eps", 1e-6),
    )


def one_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of any year to `vision_tower.*`, `multi_modal_projector.*`, `language_model.*`.

    An output head that is stored beside the embedding table must equal it, since they are tied.

    Raises:
        ValueError: for an output head that differs from the embedding table.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, replacement in WRAPPINGS:
            name = re.sub(pattern, replacement, name)
        if not name.endswith(("position_ids", "inv_freq")):  # computed, not trained
            renamed[name] = tensor
    head = renamed.pop(HEAD, None)
    table = renamed.get(EMBEDDINGS)
    if head is None:
        return renamed
    if table is None:
        renamed[EMBEDDINGS] = head
    elif head.shape != table.shape or not head.equal(table):
        raise ValueError("this checkpoint has a separate output head (lm_head); PaliGemma's is tied to its embeddings")
    return renamed


PALIGEMMA_NAMES: KeyMapping = [  # from our names to those of the one layout
    (r"^vision\.(.*)", lambda match: f"vision_tower.{map_key(match[1], SIGLIP_NAMES)}"),
    (r"^projector\.", "multi_modal_projector.linear."),
    (r"^language\.(.*)", lambda match: f"language_model.{map_key(match[1], GEMMA_NAMES)}"),
]


def load(model: PaliGemmaModel, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Load a checkpoint's tensors, from `one_layout`, into a model that may still be on the meta device; strict.

    Raises:
        ValueError: lists missing and unexpected tensors and wrong shapes, with the most likely cause.
    """
    load_pretrained(
        model, tensors, PALIGEMMA_NAMES, what="PaliGemma", dtype=dtype, hint=lambda: guess_other_model(tensors)
    )


OTHER_MODELS = {  # pattern of a tensor's name -> what the file is
    r"\.q_norm\.|pre_feedforward_layernorm": "PaliGemma 2 or Gemma 2 and 3, whose layers have more norms",
    r"lora[_.]": "a LoRA, a small addition to a model: load the model it was trained on",
    r"^vision_model\.|^text_model\.": "SigLIP or CLIP alone, without a decoder",
    r"^(model\.)?layers\.": "a decoder alone, without a vision tower",
    r"img/|llm/": "big_vision's .npz layout: use the hub's safetensors",
}


def guess_other_model(tensors: Mapping[str, Tensor]) -> str:
    """Guess from its tensors' names what a checkpoint that does not fit is; "" if nothing matches."""
    return guess_cause(OTHER_MODELS, tensors)
