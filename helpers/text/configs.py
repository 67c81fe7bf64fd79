"""What config.json says of a published text encoder, in the course's terms."""

from dataclasses import replace

from helpers.text.clip import CLIPTowerConfig
from helpers.text.t5 import T5Config
from helpers.weights.configs import PublishedConfig

ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
CLIP_ENTRIES = {"layer_norm_eps": 1e-5}  # what the course's towers compute and no tensor shows
T5_ENTRIES = {
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": ("gelu_new", "gelu_pytorch_tanh"),
    "is_gated_act": True,
}


def follow_clip_config(sizes: CLIPTowerConfig, published: PublishedConfig) -> CLIPTowerConfig:
    """The sizes with the activation and the heads of a text tower's config.json, which no tensor shows.

    Raises:
        ValueError: for an entry that the course does not follow.
    """
    if "text_config" in published.entries:  # of a whole CLIP
        published = published.section("text_config")
    published.require(CLIP_ENTRIES)
    return replace(
        sizes,
        activation=published.choice("hidden_act", ACTIVATIONS, sizes.activation),
        heads=published.heads("num_attention_heads", sizes.heads, sizes.width),
    )


def follow_t5_config(sizes: T5Config, published: PublishedConfig) -> T5Config:
    """The sizes with the largest distance of T5's position biases and the norms' epsilon, which no tensor shows.

    Raises:
        ValueError: for an entry that the course does not follow.
    """
    published.require(T5_ENTRIES)
    eps = published.number("layer_norm_epsilon", sizes.layer_norm_epsilon, low=0)
    distance = published.number("relative_attention_max_distance", sizes.max_distance, low=1)
    return replace(sizes, max_distance=int(distance), layer_norm_epsilon=eps)
