"""CLIP's text encoder (Radford et al. 2021), a transformer with causal attention.

Stable Diffusion is conditioned on its hidden states, one per token. The training that it comes from, matching images
and captions, is in `contrastive`. Alphabet: B batch, N tokens, D width, E width of the joint embedding space.
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
    mlp: int = 3072  # width of the MLP's hidden layer, four times the width
    activation: str = "quick_gelu"  # x sigmoid(1.702 x), OpenAI's cheap GELU; OpenCLIP's towers use "gelu"
    projection: int | None = None  # E; None: a tower without projection, as in Stable Diffusion 1
    # the text tower
    vocabulary: int = 49_408  # 256 bytes, alone or at a word's end, 48,894 merges, start and end
    length: int = 77  # tokens, start and end included
    # the image tower
    size: int = 224  # pixels per side
    patch: int = 14  # pixels per side of one token

    @classmethod
    def sd1_text(cls) -> "CLIPTowerConfig":
        """Stable Diffusion 1's text encoder: 123,060,480 parameters."""
        return cls()

    @classmethod
    def vit_l_14_image(cls) -> "CLIPTowerConfig":
        """The image tower of CLIP ViT-L/14: 256 patch tokens and a class token."""
        return cls(width=1024, layers=24, heads=16, mlp=4096, projection=768)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), OpenAI's approximation of GELU: the published weights need exactly this one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x))."""

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
    """Token ids to hidden states; attention is causal, so a state depends on its token and those before it."""

    def __init__(self, config: CLIPTowerConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Parameter(0.01 * torch.randn(config.length, config.width))
        self.layers = nn.ModuleList(Layer(config, causal=True) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, ids: Tensor, clip_skip: int = 0, norm: bool = True) -> Tensor:
        """One hidden state per token, the context of the U-Net's cross-attention.

        Args:
            ids: int64 (B, N), N at most `length`.
            clip_skip: how many of the last layers to leave out.
            norm: apply the final norm, as Stable Diffusion 1 does with any clip_skip; SDXL and SD3 do not.

        Returns:
            (B, N, D).

        Raises:
            ValueError: for too many tokens, or a clip_skip that leaves no layer.
        """
        if ids.shape[1] > len(self.positions):
            raise ValueError(f"the text tower takes at most {len(self.positions)} tokens, got {ids.shape[1]}")
        if not 0 <= clip_skip < len(self.layers):
            raise ValueError(f"clip_skip lies between 0 and {len(self.layers) - 1}, got {clip_skip}")
        x = self.tokens(ids) + self.positions[: ids.shape[1]]  # (B, N, D)
        for layer in self.layers[: len(self.layers) - clip_skip]:
            x = layer(x)
        return self.norm(x) if norm else x

    def pooled(self, ids: Tensor, eos_id: int) -> Tensor:
        """The pooled embedding of each text, (B, E): `pool_at_eos` of its hidden states."""
        return self.pool_at_eos(self(ids), ids, eos_id)

    def pool_at_eos(self, states: Tensor, ids: Tensor, eos_id: int) -> Tensor:
        """The state at the first end token, which attends to all before it, projected if the tower projects: (B, E)."""
        position = (ids == eos_id).int().argmax(dim=1)  # (B,)
        state = states[torch.arange(len(ids), device=ids.device), position]  # (B, D)
        return state if self.projection is None else self.projection(state)


LAYER_NAMES: KeyMapping = [
    (r"\.norm_(\d)\.", r".layer_norm\1."),
    (r"\.attention\.to_kv\.", ".self_attn.{kv}_proj."),
    (r"\.attention\.to_(q|out)\.", r".self_attn.\1_proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
]
# patterns from our parameter names to those of `transformers`' files
TEXT_NAMES: KeyMapping = [
    (r"^tokens\.", "text_model.embeddings.token_embedding."),
    (r"^positions$", "text_model.embeddings.position_embedding.weight"),
    (r"^layers\.", "text_model.encoder.layers."),
    (r"^norm\.", "text_model.final_layer_norm."),
    (r"^projection\.", "text_projection."),
    *LAYER_NAMES,
]


def published_text(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the prefix `text_model.` where a text tower's file lacks it, and drop the table of position ids."""
    prefixed = any(name.startswith("text_model.") for name in tensors)
    return {
        name if prefixed or name.startswith("text_projection.") else f"text_model.{name}": tensor
        for name, tensor in tensors.items()
        if not name.endswith("position_ids")
    }
