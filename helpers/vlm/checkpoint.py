"""Published PaliGemma checkpoints: a folder or hub repository of safetensors, under the names of any year.

`transformers` has named the same tensors in three ways; here all get one. Alphabet: none, names only.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

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
# applied one after the other: what wraps the parts, then what wrapped a part's inside, in one year or another
WRAPPINGS = (
    (r"^model\.(?=vision_tower|multi_modal_projector|language_model)", ""),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "language_model."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)


class Published(NamedTuple):
    """What was found."""

    config: PaliGemmaConfig
    folder: Path  # with the tokenizer

    def tensors(self) -> dict[str, Tensor]:
        """All of them, under one layout of names. Raises FileNotFoundError, ValueError for files that do not fit."""
        return one_layout(folder_tensors(self.folder, ".", ("model",)))


def find(source: str | Path) -> Published:
    """Look for a checkpoint, and read its sizes.

    Args:
        source: a folder with config.json and *.safetensors, or a hub repository: "google/paligemma-3b-mix-224". Google
            wants its licence to be accepted on the hub first (`hf auth login`).

    Raises:
        FileNotFoundError: where something is not there; it says what was looked for.
        ValueError: for a folder of another model.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ValueError(f"{folder} is a file: pass its folder, which holds config.json and tokenizer.json too")
    if not folder.is_dir():
        folder = fetch(str(source), ["config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer.json"])
    return Published(config_of(folder), folder)


def config_of(folder: Path) -> PaliGemmaConfig:
    """The sizes that a folder's config.json tells; what it leaves out is as in PaliGemma 3B.

    Raises:
        FileNotFoundError, ValueError: without a config.json, and for one of another model.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no config.json: is it a PaliGemma folder?")
    told = read_json_config(file)
    if told.get("model_type") != "paligemma":
        raise ValueError(f"{folder} holds a {told.get('model_type', 'model without a name')!r}, not a PaliGemma")
    if "quantization_config" in told:
        raise ValueError(f"{folder} is quantised, which the course does not read: take the original weights")
    seen = told.get("vision_config") or {}
    said = told.get("text_config") or {}
    if said.get("model_type", "gemma") != "gemma":
        raise ValueError(
            f"{folder} speaks through {said['model_type']}: the course reads PaliGemma 1, whose decoder "
            "is gemma; PaliGemma 2 has gemma2"
        )
    rope = said.get("rope_parameters") or {}
    vision = SiglipConfig(
        seen.get("image_size", 224),
        seen.get("patch_size", 14),
        seen.get("hidden_size", 1152),
        seen.get("num_hidden_layers", 27),
        seen.get("num_attention_heads", 16),
        seen.get("intermediate_size", 4304),
    )
    language = GemmaConfig(
        said.get("vocab_size", 257_216),
        said.get("hidden_size", 2048),
        said.get("num_hidden_layers", 18),
        said.get("num_attention_heads", 8),
        said.get("num_key_value_heads", 1),
        said.get("head_dim", 256),
        said.get("intermediate_size", 16_384),
        rope.get("rope_theta", said.get("rope_theta", 1e4)),
        said.get("rms_norm_eps", 1e-6),
    )
    return PaliGemmaConfig(vision, language, told.get("image_token_index", told.get("image_token_id", 257_152)))


def one_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `vision_tower.*`, `multi_modal_projector.*`, `language_model.*`, whatever the year.

    A head that is stored beside the table of tokens must be that table: they are tied.

    Raises:
        ValueError: for a head of its own.
    """
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in WRAPPINGS:
            name = re.sub(pattern, replacement, name)
        if not name.endswith(("position_ids", "inv_freq")):  # tables that are computed
            renamed[name] = tensor
    head = renamed.pop(HEAD, None)
    table = renamed.get(EMBEDDINGS)
    if head is not None and table is None:
        renamed[EMBEDDINGS] = head
    elif head is not None and (head.shape != table.shape or not head.equal(table)):
        raise ValueError("this checkpoint has a head of its own (lm_head); PaliGemma's is its table of tokens")
    return renamed


PALIGEMMA_NAMES: KeyMapping = [  # from our names to those of the one layout
    (r"^vision\.(.*)", lambda found: f"vision_tower.{map_key(found[1], SIGLIP_NAMES)}"),
    (r"^projector\.", "multi_modal_projector.linear."),
    (r"^language\.(.*)", lambda found: f"language_model.{map_key(found[1], GEMMA_NAMES)}"),
]


def load(model: PaliGemmaModel, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Put a checkpoint's tensors, in the one layout, into a model that may still be on the meta device; strict.

    Raises:
        ValueError: names what is missing, left over or of another shape, and the likeliest cause.
    """
    load_pretrained(
        model, tensors, PALIGEMMA_NAMES, what="PaliGemma", dtype=dtype, hint=lambda: likeliest_cause(tensors)
    )


CAUSES = {
    r"\.q_norm\.|pre_feedforward_layernorm": "PaliGemma 2 or Gemma 2 and 3, whose layers have more norms",
    r"lora[_.]": "a LoRA, a small addition to a model: load the model it was trained on",
    r"^vision_model\.|^text_model\.": "SigLIP or CLIP alone, without a decoder",
    r"^(model\.)?layers\.": "a decoder alone, without a vision tower",
    r"img/|llm/": "big_vision's .npz layout: take the hub's safetensors",
}


def likeliest_cause(tensors: Mapping[str, Tensor]) -> str:
    """What a checkpoint that does not fit may be instead, or ""."""
    return guess_cause(CAUSES, tensors)
