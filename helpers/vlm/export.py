"""Our PaliGemma as a folder that transformers' `PaliGemmaForConditionalGeneration` and its processor load."""

import re
from functools import partial
from pathlib import Path

from torch import Tensor

from helpers.vlm.checkpoint import paligemma_names
from helpers.vlm.gemma import GemmaConfig
from helpers.vlm.gemma2 import Gemma2Config
from helpers.vlm.pipeline import PaliGemma
from helpers.vlm.processor import BOS, EOS, IMAGE, PAD, UNKNOWN, Tokenizer
from helpers.vlm.siglip import SiglipConfig
from helpers.weights.export import TRANSFORMERS_WEIGHTS, published_tensors, write_json, write_part


def to_transformers(assistant: PaliGemma, folder: str | Path) -> None:
    """Write model, tokenizer and image processor.

    `PaliGemmaForConditionalGeneration.from_pretrained(folder)` and `PaliGemmaProcessor.from_pretrained(folder)` load
    them, and generate the same text.

    Args:
        folder: is created; files of an earlier export are overwritten.
    """
    folder = Path(folder)
    config = assistant.model.config
    tokenizer = assistant.tokenizer
    special_ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    values = {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "vision_config": _vision_config(config.vision, config.language.width),
        "text_config": _text_config(config.language) | special_ids,
        "image_token_index": config.image_token,
        "projection_dim": config.language.width,
        "hidden_size": config.language.width,
        **special_ids,
    }
    shares = partial(_shares, config.language)
    tensors = _with_wrappings(published_tensors(assistant.model, paligemma_names(config), shares))
    write_part(folder, values, tensors, TRANSFORMERS_WEIGHTS)
    write_json(folder / "generation_config.json", {"_from_model_config": True, **special_ids})
    _write_processor(tokenizer, config.vision, folder)


def _shares(config: GemmaConfig, name: str, count: int) -> tuple[int, ...]:
    """How queries, keys and values share the rows of one projection: the decoder has fewer heads of keys and values."""
    if name.startswith("language.") and count == 3:
        return (config.heads, config.kv_heads, config.kv_heads)
    return (1,) * count


def _vision_config(config: SiglipConfig, projection_width: int) -> dict:
    return {
        "model_type": "siglip_vision_model",
        "image_size": config.size,
        "patch_size": config.patch,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp,
        "projection_dim": projection_width,
        "vision_use_head": False,
    }


def _text_config(config: GemmaConfig) -> dict:
    values = {
        "model_type": "gemma",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp,
        "rope_theta": config.theta,
        "rms_norm_eps": config.eps,
    }
    if not isinstance(config, Gemma2Config):
        return values
    return values | {
        "model_type": "gemma2",
        "query_pre_attn_scalar": config.query_scalar,
        "attn_logit_softcapping": config.attention_cap,
        "final_logit_softcapping": config.logit_cap,
        "sliding_window": config.window,
    }


def _with_wrappings(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that the published files have, which every version of transformers reads."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name)
        name = re.sub(r"^language_model\.", "language_model.model.", name)
        renamed[name] = tensor
    return renamed


def _write_processor(tokenizer: Tokenizer, vision: SiglipConfig, folder: Path) -> None:
    """Write `tokenizer.json`, and how images are resized: to a square, with values from -1 to 1."""
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    special = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "padding_side": "left",
            "model_input_names": ["input_ids", "attention_mask"],
            "extra_special_tokens": {"image_token": IMAGE},
            **special,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "processor_class": "PaliGemmaProcessor",
            "do_resize": True,
            "size": {"height": vision.size, "width": vision.size},
            "resample": 3,  # bicubic
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "image_seq_length": vision.tokens,
        },
    )
