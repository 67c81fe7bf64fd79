"""SigLIP (Zhai et al. 2023): the vision transformer that PaliGemma sees with, and the loss that taught it to see.

Unlike CLIP's tower it has no token for the whole picture: every patch's state is handed on. Alphabet: B batch, N
patches, D width, S pixels a side, E width of the common space.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.attention import Attention
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class SiglipConfig:
    """Sizes; the defaults are those of So400m/14 at 224 pixels, PaliGemma's."""

    size: int = 224  # pixels a side
    patch: int = 14  # pixels a side of one token
    width: int = 1152
    layers: int = 27
    heads: int = 16
    mlp: int = 4304  # not four times the width: its shape was optimised for compute (Alabdulmohsin et al. 2023)

    def __post_init__(self):
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not tile a side of {self.size}")

    @property
    def tokens(self) -> int:
        """N: what a picture becomes."""
        return (self.size // self.patch) ** 2


class Layer(nn.Module):
    """Norm, attention, norm, MLP; each half adds to x, and every patch sees every other."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attention = Attention(config.width, config.heads, bias=True)
        self.norm_2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.mlp), nn.GELU("tanh"), nn.Linear(config.mlp, config.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class SiglipTower(nn.Module):
    """A picture to one state per patch."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        with torch.no_grad():
            self.patches.weight.mul_(4)  # or a patch's mean colour is all that counts for long
        self.positions = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, S, S) in [-1, 1] -> (B, N, D), the patches row by row.

        Raises:
            ValueError: for pictures of another size: every position has a learned vector of its own.
        """
        size = self.config.size
        if pictures.ndim != 4 or pictures.shape[1:] != (3, size, size):
            raise ValueError(f"the tower sees (B, 3, {size}, {size}), got {tuple(pictures.shape)}")
        x = self.patches(pictures).flatten(2).transpose(1, 2) + self.positions  # (B, N, D)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def similarity(pictures: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """(B, E) and (B', E), of any length -> (B, B'): scale * cosine + bias, for every picture and every text."""
    return log_scale.exp() * F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T + bias


def sigmoid_losses(logits: Tensor) -> Tensor:
    """(B, B) -> (B,): is this the picture's caption, yes or no, asked for every pair by itself (SigLIP, eq. 1).

    No pair needs to know of another: a batch can be spread over machines without comparing everything with everything.
    """
    truth = 2 * torch.eye(len(logits), device=logits.device) - 1  # (B, B)
    return -F.logsigmoid(truth * logits).sum(dim=1)


def softmax_losses(logits: Tensor) -> Tensor:
    """(B, B) -> (B,): which of the batch's captions is the picture's, and which picture the caption's (CLIP)."""
    target = torch.arange(len(logits), device=logits.device)
    return sum(F.cross_entropy(one, target, reduction="none") for one in (logits, logits.T)) / 2


SIGLIP_NAMES: KeyMapping = [  # from our names to those of `transformers`
    (r"^patches\.", "embeddings.patch_embedding."),
    (r"^positions$", "embeddings.position_embedding.weight"),
    (r"^layers\.", "encoder.layers."),
    (r"^norm\.", "post_layernorm."),
    (r"\.norm_(\d)\.", r".layer_norm\1."),
    (r"\.attention\.to_kv\.", ".self_attn.{kv}_proj."),
    (r"\.attention\.to_(q|out)\.", r".self_attn.\1_proj."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
]
