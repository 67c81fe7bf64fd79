"""SigLIP (Zhai et al. 2023): the vision transformer that is PaliGemma's image encoder, and the loss of its training.

Unlike CLIP's image encoder it has no class token: the hidden states of all patches are its output. Alphabet: B batch,
N patches, D width, S pixels a side, E width of the embedding space shared by images and texts.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from helpers.layers.attention import Attention
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class SiglipConfig:
    """Sizes; the defaults are those of So400m/14 at 224 pixels, PaliGemma's."""

    size: int = 224  # pixels a side
    patch: int = 14  # pixels a side of a patch, which becomes one token
    width: int = 1152
    layers: int = 27
    heads: int = 16
    mlp: int = 4304  # not four times the width: its shape was optimised for compute (Alabdulmohsin et al. 2023)

    def __post_init__(self):
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not tile a side of {self.size}")

    @property
    def tokens(self) -> int:
        """N, the number of patches of an image."""
        return (self.size // self.patch) ** 2


class Layer(nn.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + mlp(norm(x)). Attention is bidirectional."""

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
    """Image encoder: one hidden state per patch."""

    def __init__(self, config: SiglipConfig):
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        with torch.no_grad():
            self.patches.weight.mul_(4)  # otherwise a patch's mean colour dominates for a long time
        self.positions = nn.Parameter(0.02 * torch.randn(config.tokens, config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, S, S) in [-1, 1] -> (B, N, D), the patches row by row.

        Raises:
            ValueError: for images of another size: every position has a learned embedding.
        """
        size = self.config.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"the vision tower takes images (B, 3, {size}, {size}), got {tuple(images.shape)}")
        x = rearrange(self.patches(images), "b d h w -> b (h w) d") + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def similarity(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Scaled cosine similarity plus bias of every image and every text: (B, E) and (B', E) -> (B, B').

    The embeddings may have any length; they are normalised here.
    """
    return log_scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T + bias


def sigmoid_losses(logits: Tensor) -> Tensor:
    """SigLIP's loss (eq. 1), (B, B) -> (B,): binary cross-entropy of "is this the image's caption?" for every pair.

    The pairs are independent, so a batch can be spread over machines without comparing everything with everything.
    """
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1  # (B, B): 1 for matching pairs, else -1
    return -F.logsigmoid(sign * logits).sum(dim=1)


def softmax_losses(logits: Tensor) -> Tensor:
    """CLIP's loss, (B, B) -> (B,): cross-entropy over all captions for each image and all images for each caption."""
    target = torch.arange(len(logits), device=logits.device)
    of_images = F.cross_entropy(logits, target, reduction="none")
    of_captions = F.cross_entropy(logits.T, target, reduction="none")
    return (of_images + of_captions) / 2


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
