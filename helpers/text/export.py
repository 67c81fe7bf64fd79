"""Text encoders and tokenizers as folders that transformers loads."""

import math
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from helpers.text.bpe import END, START, BytePairTokenizer
from helpers.text.clip import TEXT_NAMES, TextTower
from helpers.text.t5 import T5_NAMES, T5Encoder, T5Tokenizer
from helpers.weights.export import TRANSFORMERS_WEIGHTS, published_tensors, write_json, write_part


def write_clip(tower: TextTower, tokenizer: BytePairTokenizer, folder: Path, projection: bool) -> None:
    """Write a text tower as `CLIPTextModel`, or with its projection as `CLIPTextModelWithProjection`.

    Args:
        projection: whether the pooled embedding is used, as in Stable Diffusion 3; Stable Diffusion 1 uses the hidden
            states alone.
    """
    config = tower.config
    values = {
        "architectures": ["CLIPTextModelWithProjection" if projection else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.length,
        "hidden_act": config.activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.eos_id,
    }
    tensors = published_tensors(tower, TEXT_NAMES)
    if projection:
        values["projection_dim"] = config.projection
    else:
        tensors.pop("text_projection.weight", None)
    write_part(folder, values, tensors, TRANSFORMERS_WEIGHTS)


def write_clip_tokenizer(tokenizer: BytePairTokenizer, folder: Path) -> None:
    """Write a byte-pair tokenizer as `CLIPTokenizer`: vocabulary, merges, length and special tokens."""
    write_json(folder / "vocab.json", tokenizer.ids)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in tokenizer.merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END}
    special["pad_token"] = tokenizer.vocabulary[tokenizer.pad_id]
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.length, "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", config | special)


def write_t5(encoder: T5Encoder, tokenizer: T5Tokenizer, folder: Path, width: int) -> None:
    """Write an encoder as `T5EncoderModel` with hidden states of `width` channels, the last ones zero.

    diffusers pads CLIP's hidden states to T5's width, so T5 must be as wide as the transformer's text input.
    """
    config = encoder.config
    values = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": config.vocabulary,
        "d_model": width,
        "d_kv": config.head_width,
        "d_ff": config.mlp,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": config.num_buckets,
        "relative_attention_max_distance": config.max_distance,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": config.layer_norm_epsilon * config.width / width,
        "is_encoder_decoder": True,
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "tie_word_embeddings": False,
    }
    tensors = {
        name: _widen(name, tensor, config.width, width) for name, tensor in published_tensors(encoder, T5_NAMES).items()
    }
    write_part(folder, values, tensors, TRANSFORMERS_WEIGHTS)


def _widen(name: str, tensor: Tensor, width: int, padded_width: int) -> Tensor:
    """Extend every axis of a T5 tensor that holds hidden channels with zeros, so that the new channels stay zero.

    The RMS norm then averages over `padded_width` channels instead of `width`: its factor makes up for that.
    """
    extra = padded_width - width
    if "norm" in name:
        return F.pad(tensor * math.sqrt(width / padded_width), (0, extra))
    if name.endswith((".o.weight", ".wo.weight")):  # to hidden channels: (D, ...)
        return F.pad(tensor, (0, 0, 0, extra))
    if "relative_attention_bias" in name:
        return tensor
    return F.pad(tensor, (0, extra))  # from hidden channels: (..., D)


def write_t5_tokenizer(tokenizer: T5Tokenizer, folder: Path) -> None:
    """Write T5's tokenizer as a fast tokenizer of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.length}
    write_json(folder / "tokenizer_config.json", config | special)
