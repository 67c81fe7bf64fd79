"""CLIP (Radford et al. 2021): two transformers that learn to put a picture and its caption in the same place.

Stable Diffusion takes the text tower's states, one per token; the towers together tell how well a picture and a
caption agree. Alphabet: B batch, N tokens, D width, H W of the picture, E width of the common space.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.attention import Attention
from helpers.published import Renaming


@dataclass(frozen=True)
class TowerConfig:
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
    def sd1_text(cls) -> "TowerConfig":
        """Stable Diffusion 1's text encoder: 123,060,480 parameters."""
        return cls()

    @classmethod
    def vit_l_14_image(cls) -> "TowerConfig":
        """The picture tower of CLIP ViT-L/14: 256 patches and one token for the whole."""
        return cls(width=1024, layers=24, heads=16, mlp=4096, projection=768)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x): with another activation in its place the published weights are noise."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """Norm, attention, norm, MLP; each half adds to x (a pre-norm transformer layer)."""

    def __init__(self, config: TowerConfig, causal: bool):
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

    def __init__(self, config: TowerConfig):
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
        x = self.tokens(ids) + self.positions[: ids.shape[1]]                # (B, N, D)
        for layer in self.layers[: len(self.layers) - skip]:
            x = layer(x)
        return self.norm(x) if norm else x

    def pooled(self, ids: Tensor, end: int) -> Tensor:
        """The state at the first end token, which has seen all others; projected where the tower projects: (B, E)."""
        at_end = (ids == end).int().argmax(dim=1)                            # (B,)
        state = self(ids)[torch.arange(len(ids), device=ids.device), at_end]
        return state if self.projection is None else self.projection(state)


class ImageTower(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2020): patches become tokens, one more token stands for the whole."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        tokens = (config.size // config.patch) ** 2 + 1
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.whole = nn.Parameter(config.width**-0.5 * torch.randn(config.width))
        self.positions = nn.Parameter(0.01 * torch.randn(tokens, config.width))
        self.norm_in = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(Layer(config, causal=False) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, size, size), normalised as in training -> (B, E)."""
        x = self.patches(pictures).flatten(2).transpose(1, 2)                # (B, N - 1, D)
        x = torch.cat([self.whole.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm_in(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x[:, 0])                                               # (B, D)
        return x if self.projection is None else self.projection(x)


class CLIP(nn.Module):
    """Both towers and the temperature of their comparison."""

    def __init__(self, text: TowerConfig, image: TowerConfig, end: int):
        """`end`: the id of the token that closes a text."""
        super().__init__()
        self.text, self.image, self.end = TextTower(text), ImageTower(image), end
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def similarity(self, pictures: Tensor, ids: Tensor) -> Tensor:
        """(B, B'): scaled cosine between every picture and every text."""
        a = F.normalize(self.image(pictures), dim=-1)                        # (B, E)
        b = F.normalize(self.text.pooled(ids, self.end), dim=-1)             # (B', E)
        return self.log_scale.clamp(max=4.6052).exp() * a @ b.T              # at most 100, as in the paper

    def losses(self, pictures: Tensor, ids: Tensor) -> Tensor:
        """(B,) each picture must find its text among the batch's, and each text its picture (figure 3 of the paper)."""
        similar, target = self.similarity(pictures, ids), torch.arange(len(ids), device=ids.device)
        both = (F.cross_entropy(s, target, reduction="none") for s in (similar, similar.T))
        return sum(both) / 2


def published_names(tower: str = "text") -> Renaming:
    """From our names to those of `transformers` for the "text" or the "image" tower, as files on disk have them."""
    model = {"text": "text_model", "image": "vision_model"}[tower]
    return [
        (r"^tokens\.", "text_model.embeddings.token_embedding."),
        (r"^patches\.", "vision_model.embeddings.patch_embedding."),
        (r"^whole$", "vision_model.embeddings.class_embedding"),
        (r"^positions$", f"{model}.embeddings.position_embedding.weight"),
        (r"^norm_in\.", "vision_model.pre_layrnorm."),  # published with this spelling
        (r"^norm\.", f"{model}.{'final_layer_norm' if tower == 'text' else 'post_layernorm'}."),
        (r"^projection\.", f"{'text' if tower == 'text' else 'visual'}_projection."),
        (r"^layers\.", f"{model}.encoder.layers."),
        (r"\.norm_(\d)\.", r".layer_norm\1."),
        (r"\.attention\.to_kv\.", ".self_attn.{kv}_proj."),
        (r"\.attention\.to_(q|out)\.", r".self_attn.\1_proj."),
        (r"\.mlp\.0\.", ".mlp.fc1."),
        (r"\.mlp\.2\.", ".mlp.fc2."),
    ]
