"""Published checkpoints of PaliGemma 1 and 2: a folder or hub repository of safetensors, with key names of any year.

`transformers` has used three naming schemes for the same tensors; all are mapped to one. An example:
"model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight" becomes "vision_tower.encoder.layers.0.mlp.fc1.weight"
by `one_layout`, which is what `paligemma_names` maps our "vision.layers.0.mlp.0.weight" to.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.vlm.gemma import GEMMA_NAMES, GemmaConfig
from helpers.vlm.gemma2 import GEMMA2_NAMES, Gemma2Config
from helpers.vlm.paligemma import PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.siglip import SIGLIP_NAMES, SiglipConfig
from helpers.weights.causes import drop_unused, guess_cause
from helpers.weights.configs import PublishedConfig
from helpers.weights.folders import download_parts, find_part, read_part
from helpers.weights.pretrained import KeyMapping, load_pretrained, map_key

PART = (".", ("model",))  # the folder of the weights and the stem of their files
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
        return one_layout(read_part(find_part(self.folder, *PART)))


def find(source: str | Path) -> Checkpoint:
    """Locate a checkpoint and read its config.

    Args:
        source: a folder with config.json and *.safetensors, or a hub repository: "google/paligemma2-3b-mix-224". Google
            requires you to accept its licence on the hub first (`hf auth login`).

    Raises:
        FileNotFoundError: where something is missing; the message says what.
        ValueError: for a folder of another model.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ValueError(f"{folder} is a file: pass its folder, which holds config.json and tokenizer.json too")
    if not folder.is_dir():
        folder = download_parts(str(source), {"model": PART}, ["tokenizer.json", "preprocessor_config.json"])
    return Checkpoint(config_of(folder), folder)


def config_of(folder: Path) -> PaliGemmaConfig:
    """Read the sizes from a folder's config.json; absent ones are those of PaliGemma 3B, or PaliGemma 2 3B.

    Raises:
        FileNotFoundError, ValueError: without a config.json, and for one of another model.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json: is it a PaliGemma folder?")
    published = PublishedConfig(file)
    if published.get("model_type") != "paligemma":
        name = published.get("model_type", "model without a name")
        raise ValueError(f"{folder} holds a {name!r}, not a PaliGemma")
    if "quantization_config" in published.entries:
        raise ValueError(f"{folder} is quantised, which the course cannot load: use the original weights")
    language = published.section("text_config")
    if language.get("model_type", "gemma") not in ("gemma", "gemma2"):
        raise ValueError(
            f"the decoder of {folder} is {language.get('model_type')}: the course loads PaliGemma 1 and 2, whose "
            "decoders are gemma and gemma2"
        )
    _check_preprocessor(folder / "preprocessor_config.json", published)
    image_token = published.get("image_token_index", published.get("image_token_id", 257_152))
    return PaliGemmaConfig(_vision_config(published.section("vision_config")), _language_config(language), image_token)


# What the course computes and no tensor shows. All these names stand for the same approximation by a hyperbolic tangent
TANH_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", None)
VISION_ENTRIES = {"hidden_act": TANH_GELU, "layer_norm_eps": 1e-6, "num_channels": 3}
LANGUAGE_ENTRIES = {
    "hidden_act": (*TANH_GELU, "gelu"),  # Gemma's first files say "gelu", and were trained with the approximation
    "hidden_activation": TANH_GELU,
    "rope_scaling": None,
}
PREPROCESSOR_ENTRIES = {
    "image_mean": ([0.5, 0.5, 0.5], None),
    "image_std": ([0.5, 0.5, 0.5], None),
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": (3, None),  # bicubic
}


def _check_preprocessor(file: Path, published: PublishedConfig) -> None:
    """Raise ValueError for images that are prepared in another way than `preprocess_image` does."""
    preprocessor = PublishedConfig(file)
    preprocessor.require(PREPROCESSOR_ENTRIES)
    size = preprocessor.get("size")
    side = published.section("vision_config").get("image_size", 224)
    if isinstance(size, Mapping) and size.get("height", side) != side:
        raise preprocessor.refusal("size", size, f"{side} pixels, the vision tower's image_size")


def _vision_config(published: PublishedConfig) -> SiglipConfig:
    published.require(VISION_ENTRIES)
    width = published.get("hidden_size", 1152)
    return SiglipConfig(
        size=published.get("image_size", 224),
        patch=published.get("patch_size", 14),
        width=width,
        layers=published.get("num_hidden_layers", 27),
        heads=published.heads("num_attention_heads", 16, width),
        mlp=published.get("intermediate_size", 4304),
    )


def _language_config(published: PublishedConfig) -> GemmaConfig:
    published.require(LANGUAGE_ENTRIES)
    rope = published.section("rope_parameters")
    rope.require({"rope_type": "default"})
    if published.get("model_type") == "gemma2":
        default: GemmaConfig = Gemma2Config()
    else:
        default = GemmaConfig()
    config = replace(
        default,
        vocabulary=published.get("vocab_size", default.vocabulary),
        width=published.get("hidden_size", default.width),
        layers=published.get("num_hidden_layers", default.layers),
        heads=published.get("num_attention_heads", default.heads),
        kv_heads=published.get("num_key_value_heads", default.kv_heads),
        head_width=published.get("head_dim", default.head_width),
        mlp=published.get("intermediate_size", default.mlp),
        theta=rope.number("rope_theta", published.number("rope_theta", default.theta, low=0), low=0),
        eps=published.number("rms_norm_eps", default.eps, low=0),
    )
    return _with_gemma2_entries(config, published) if isinstance(config, Gemma2Config) else config


def _with_gemma2_entries(config: Gemma2Config, published: PublishedConfig) -> Gemma2Config:
    """Follow the entries that Gemma 1 does not have. A cap that is null means that there is none."""
    alternating = ["full_attention" if index % 2 else "sliding_attention" for index in range(config.layers)]
    published.require({"layer_types": (alternating, None)})
    window = published.entries.get("sliding_window", config.window)
    if not isinstance(window, int) or window < 1:
        raise published.refusal("sliding_window", window, "a whole number of tokens")
    return replace(
        config,
        query_scalar=published.number("query_pre_attn_scalar", config.query_scalar, low=0),
        attention_cap=published.number_or_null("attn_logit_softcapping", config.attention_cap, low=0),
        logit_cap=published.number_or_null("final_logit_softcapping", config.logit_cap, low=0),
        window=window,
    )


def one_layout(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of any year to `vision_tower.*`, `multi_modal_projector.*`, `language_model.*`.

    An output head that is stored beside the embedding table must equal it, since they are tied.

    Raises:
        ValueError: for an output head that differs from the embedding table.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in drop_unused(tensors).items():
        for pattern, replacement in WRAPPINGS:
            name = re.sub(pattern, replacement, name)
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


def paligemma_names(config: PaliGemmaConfig) -> KeyMapping:
    """From our names to those of the one layout."""
    language = GEMMA2_NAMES if isinstance(config.language, Gemma2Config) else GEMMA_NAMES
    return [
        (r"^vision\.(.*)", lambda match: f"vision_tower.{map_key(match[1], SIGLIP_NAMES)}"),
        (r"^projector\.", "multi_modal_projector.linear."),
        (r"^language\.(.*)", lambda match: f"language_model.{map_key(match[1], language)}"),
    ]


def load(
    model: PaliGemmaModel, tensors: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, place: str | Path = ""
) -> None:
    """Load a checkpoint's tensors, from `one_layout`, into a model that may still be on the meta device; strict.

    Args:
        place: the folder that they come from, for the error message.

    Raises:
        ValueError: lists missing and unexpected tensors, wrong shapes and numbers, with the most likely cause.
    """
    system = "paligemma2" if isinstance(model.config.language, Gemma2Config) else "paligemma"
    load_pretrained(
        model,
        tensors,
        paligemma_names(model.config),
        what="PaliGemma",
        dtype=dtype,
        hint=lambda: guess_cause(tensors, system),
        place=place,
    )
