"""Names that weights files were written with before, translated as a file is read.

`python -m helpers.weights.migration FILE ...` rewrites files with today's names.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

# keys of the configurations that build a network, JSON in the metadata: old -> new
CONFIG_KEYS = {
    "base": "pos_embed_base_size",
    "buckets": "num_buckets",
    "farthest": "max_distance",
    "fine": "detail_channels",
    "fine_patch": "detail_patch",
    "preview": "latent_rgb_factors",
    "table": "pos_embed_max_size",
    "words": "vocab_size",
}
TENSOR_NAMES = [  # of tensors: pattern -> replacement
    (r"(^|\.)text\.words\.", r"\1text.token_embedding."),
    (r"^transformer\.words\.", "transformer.context_embedder."),
    (r"^transformer\.patches\.", "transformer.patch_embed."),
    (r"^transformer\.summary\.", "transformer.pooled_embedder."),
    (r"(^transformer\.blocks\.\d+)\.picture\.", r"\1.image."),
    (r"(^|\.)distances\.", r"\1relative_attention_bias."),
    (r"(^|\.)fine\.", r"\1detail."),
    (r"(^|\.)shrink\.", r"\1downsample."),
    (r"(^|\.)grow\.", r"\1upsample."),
    (r"(^|\.)log_scale$", r"\1logit_scale"),
    (r"(^|\.)whole$", r"\1class_embedding"),
]


def current_config(value: Any) -> Any:
    """A configuration with today's keys, at every depth; what is neither dictionary nor list stays as it is."""
    if isinstance(value, dict):
        return {CONFIG_KEYS.get(key, key): current_config(inner) for key, inner in value.items()}
    return [current_config(inner) for inner in value] if isinstance(value, list) else value


def current_name(name: str) -> str:
    """Today's name of a tensor; a name that is no older one stays as it is."""
    for pattern, replacement in TENSOR_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def current_tensors(tensors: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Tensors under today's names, where `known`, the names in a network's state_dict, has no other use for the old."""
    return {name if name in known else current_name(name): tensor for name, tensor in tensors.items()}
