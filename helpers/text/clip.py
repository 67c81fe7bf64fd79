"""CLIP's text encoder (Radford et al. 2021), a transformer in which every token sees those before it.

Stable Diffusion takes its states, one per token. What it learned them for, telling which picture a caption belongs
to, is in `contrastive`. Alphabet: B batch, N tokens, D width, E width of the common space.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.layers.attention import Attention
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class CLIPTowerConfig:
    """Sizes of one tower; the defaults are those of ViT-L/14's text tower, which Stable Diffusion 1 uses."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp: int = 3072  # width of the hidden layer, four times the width
    activation: str = "quick_gelu"  # x sigmoid(1.702 x), OpenAI's cheap GELU; OpenCLIP's towers use "gelu"
    projection: int | None = None  # E: of the common space; None: a tower without it, as in Stable Diffusion 1
    # the text tower
    vocabulary: int = 49_408  # 256 bytes, alone or at a word's end, 48,894 merges, start and end
    length: int = 77  # tokens, start and end included
    # the picture tower
    size: int = 224  # pixels a side
    patch: int = 14  # pixels a side of one token

    @classmethod
    def sd1_text(cls) -> "CLIPTowerConfig":
        """Stable Diffusion 1's text encoder: 123,060,480 parameters."""
        return cls()

    @classmethod
    def vit_l_14_image(cls) -> "CLIPTowerConfig":
        """The picture tower of CLIP ViT-L/14: 256 patches and one token for the whole."""
        return cls(width=1024, layers=24, heads=16, mlp=4096, projection=768)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): with another activation in its place the published weights are noise."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """Norm, attention, norm, MLP; each half adds to x (a pre-norm transformer layer)."""

    def __init__(self, config: CLIPTowerConfig, causal: bool):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads, bias=True, causal=causal)
        self.norm_2 = nn.LayerNorm(config.width)
        activation = {"quick_gelu": QuickGELU, "gelu": nn.GELU}[config.activation]
        self.mlp = nn.Sequential(nn.Linear(config.width, config.mlp), activation(), nn.Linear(config.mlp, config.width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class TextTower(nn.Module):
    """Tokens to states: every state knows its token and the tokens before it."""

    def __init__(self, config: CLIPTowerConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.01 * torch.randn(config.length, config.width))
        self.layers = nn.ModuleList(Layer(config, causal=True) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, ids: Tensor, skip: int = 0, norm: bool = True) -> Tensor:
        """One state per token, what the U-Net's cross-attention reads.

        Args:
            ids: int64 (B, N), N at most `length`.
            skip: how many of the last layers to leave out ("clip skip").
            norm: apply the final norm, as Stable Diffusion 1 does whatever it skips; SDXL and SD3 do not.

        Returns:
            (B, N, D).

        Raises:
            ValueError: for too many tokens, or more layers to skip than there are.
        """
        if ids.shape[1] > len(self.positions):
            raise ValueError(f"the text tower reads at most {len(self.positions)} tokens, got {ids.shape[1]}")
        if not 0 <= skip < len(self.layers):
            raise ValueError(f"clip skip lies between 0 and {len(self.layers) - 1}, got {skip}")
        x = self.tokens(ids) + self.positions[: ids.shape[1]]  # (B, N, D)
        for layer in self.layers[: len(self.layers) - skip]:
            x = layer(x)
        return self.norm(x) if norm else x

    def pooled(self, ids: Tensor, end: int) -> Tensor:
        """One vector for the whole text: `pool_at_eos` of its states, (B, E)."""
        return self.pool_at_eos(self(ids), ids, end)

    def pool_at_eos(self, states: Tensor, ids: Tensor, end: int) -> Tensor:
        """The state at the first end token, which has seen all others; projected where the tower projects: (B, E)."""
        place = (ids == end).int().argmax(dim=1)  # (B,)
        state = states[torch.arange(len(ids), device=ids.device), place]
        return state if self.projection is None else self.projection(state)


LAYER_NAMES: KeyMapping = [
    (r"\.norm_(\d)\.", r".layer_norm\1."),
    (r"\.attention\.to_kv\.", ".self_attn.{kv}_proj."),
    (r"\.attention\.to_(q|out)\.", r".self_attn.\1_proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
]
# from our names to those of `transformers`, as files on disk have them
TEXT_NAMES: KeyMapping = [
    (r"^tokens\.", "text_model.embeddings.token_embedding."),
    (r"^positions$", "text_model.embeddings.position_embedding.weight"),
    (r"^layers\.", "text_model.encoder.layers."),
    (r"^norm\.", "text_model.final_layer_norm."),
    (r"^projection\.", "text_projection."),
    *LAYER_NAMES,
]


def published_text(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both layouts of a text tower's names, with and without `text_model.`; the table of positions is no weight."""
    prefixed = any(name.startswith("text_model.") for name in tensors)
    return {
        name if prefixed or name.startswith("text_projection.") else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
        if not name.endswith("position_ids")
    }
