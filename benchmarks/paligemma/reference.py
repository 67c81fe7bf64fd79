"""PaliGemma as transformers builds it, with random weights, in every published layout.

What the course's own implementation is measured against, by tests and by `python -m benchmarks check paligemma`.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.parity import randomised
from helpers.vlm.checkpoint import load, one_layout
from helpers.vlm.gemma import GemmaConfig
from helpers.vlm.gemma2 import Gemma2Config
from helpers.vlm.paligemma import Batch, PaliGemmaConfig, PaliGemmaModel
from helpers.vlm.processor import Processor, Tokenizer
from helpers.vlm.siglip import SiglipConfig

TEXTS = [
    "answer en what animal is this? a cat",
    "caption en a striped dog on a red background",
    "detect nose ; left eye",
]
TOKENIZER = Tokenizer.from_texts(TEXTS)
SMALL = PaliGemmaConfig(
    SiglipConfig(size=28, patch=14, width=32, layers=2, heads=4, mlp=48),
    GemmaConfig(len(TOKENIZER), width=48, layers=3, heads=4, head_width=16, mlp=64),
    TOKENIZER.image_token_id,
)
SMALL2 = PaliGemmaConfig(  # PaliGemma 2: every sequence is longer than the window, and many scores exceed their cap
    SMALL.vision,
    Gemma2Config(
        len(TOKENIZER),
        width=48,
        layers=4,
        heads=4,
        kv_heads=2,
        head_width=16,
        mlp=64,
        query_scalar=9,
        attention_cap=4.0,
        logit_cap=3.0,
        window=4,
    ),
    TOKENIZER.image_token_id,
)
PROCESSOR = Processor(TOKENIZER, SMALL.vision.size, SMALL.vision.tokens)


def reference_config(config: PaliGemmaConfig) -> Any:
    """transformers' configuration of these sizes."""
    from transformers import PaliGemmaConfig as Theirs

    vision = config.vision
    language = config.language
    vision_config = {
        "model_type": "siglip_vision_model",
        "image_size": vision.size,
        "patch_size": vision.patch,
        "hidden_size": vision.width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.mlp,
        "vision_use_head": False,
    }
    text_config: dict[str, Any] = {
        "model_type": "gemma",
        "vocab_size": language.vocabulary,
        "hidden_size": language.width,
        "num_hidden_layers": language.layers,
        "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads,
        "head_dim": language.head_width,
        "intermediate_size": language.mlp,
    }
    if isinstance(language, Gemma2Config):
        text_config |= {
            "model_type": "gemma2",
            "query_pre_attn_scalar": language.query_scalar,
            "attn_logit_softcapping": language.attention_cap,
            "final_logit_softcapping": language.logit_cap,
            "sliding_window": language.window,
        }
    special_tokens = {
        "pad_token_id": TOKENIZER.pad_token_id,
        "eos_token_id": TOKENIZER.eos_token_id,
        "bos_token_id": TOKENIZER.bos_token_id,
    }
    return Theirs(
        vision_config=vision_config,
        text_config=text_config | special_tokens,
        image_token_index=config.image_token,
        projection_dim=language.width,
        hidden_size=language.width,
        **special_tokens,
    )


def reference(config: PaliGemmaConfig = SMALL) -> Any:
    """transformers' model of these sizes, with random weights that make it say different things."""
    from transformers import PaliGemmaForConditionalGeneration

    torch.manual_seed(0)
    theirs = randomised(PaliGemmaForConditionalGeneration(reference_config(config)))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "embed_tokens" in name:  # small: with a tied head a token would follow itself for ever
                nn.init.normal_(parameter, std=0.1)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
            elif "language_model" in name:
                nn.init.normal_(parameter, std=0.3)  # Gemma's norms scale by 1 + w
    return theirs.eval()


def ours_of(theirs: nn.Module, config: PaliGemmaConfig = SMALL) -> PaliGemmaModel:
    """The course's model with the same weights."""
    with torch.device("meta"):
        model = PaliGemmaModel(config)
    load(model, one_layout(theirs.state_dict()))
    return model.eval()


def in_layout(theirs: nn.Module, year: int) -> dict[str, Tensor]:
    """The tensors under the names of a year: 2024 (transformers 4.41), 2025 (4.52), 2026 (5)."""
    tensors = one_layout(theirs.state_dict())
    wrapped = {
        2024: [(r"^vision_tower\.", "vision_tower.vision_model."), (r"^language_model\.", "language_model.model.")],
        2025: [(r"^vision_tower\.", "model.vision_tower.vision_model."), (r"^(multi|language)", r"model.\1")],
        2026: [(r"^(vision|multi|language)", r"model.\1")],
    }[year]
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in wrapped:
            name = re.sub(pattern, replacement, name)
        named[name] = tensor
    return named


def write_folder(theirs: nn.Module, folder: Path, year: int, shards: int = 1, config: PaliGemmaConfig = SMALL) -> Path:
    """A checkpoint as the hub has it: config.json, tokenizer.json, and the weights in one file or several."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(reference_config(config).to_dict()))
    (folder / "tokenizer.json").write_text(TOKENIZER.to_json())
    tensors = {name: tensor.contiguous() for name, tensor in in_layout(theirs, year).items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    place = {name: f"model-{1 + i % shards:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(place.values()):
        save_file({name: tensor for name, tensor in tensors.items() if place[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    return folder


def left_padded(batch: Batch) -> dict[str, Tensor]:
    """A batch of prompts as transformers' `generate` takes it: padding on the left."""
    shifts = (~batch.attention_mask).sum(dim=1)
    ids, real = (
        torch.stack([row.roll(int(by)) for row, by in zip(part, shifts, strict=True)])
        for part in (batch.ids, batch.attention_mask)
    )
    return {
        "input_ids": ids,
        "attention_mask": real.long(),
        "token_type_ids": torch.zeros_like(ids),
        "pixel_values": batch.images,
    }
