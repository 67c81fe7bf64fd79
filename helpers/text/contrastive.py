"""CLIP (Radford et al. 2021): two towers that learn to put a picture and its caption in the same place.

Alphabet: B batch, N tokens, D width, H W of the picture, E width of the common space.
"""

from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.text.bpe import BytePairTokenizer
from helpers.text.clip import LAYER_NAMES, CLIPTowerConfig, Layer, TextTower
from helpers.weights import load_weights, read_config, save_with_config
from helpers.weights.pretrained import KeyMapping


class ImageTower(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2020): patches become tokens, one more token stands for the whole."""

    def __init__(self, config: CLIPTowerConfig):
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
        x = self.patches(pictures).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        x = torch.cat([self.whole.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm_in(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x[:, 0])  # (B, D)
        return x if self.projection is None else self.projection(x)


class CLIP(nn.Module):
    """Both towers and the temperature of their comparison."""

    def __init__(self, text: CLIPTowerConfig, image: CLIPTowerConfig, end: int):
        """`end`: the id of the token that closes a text."""
        super().__init__()
        self.text = TextTower(text)
        self.image = ImageTower(image)
        self.end = end
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def similarity(self, pictures: Tensor, ids: Tensor) -> Tensor:
        """(B, B'): scaled cosine between every picture and every text."""
        a = F.normalize(self.image(pictures), dim=-1)  # (B, E)
        b = F.normalize(self.text.pooled(ids, self.end), dim=-1)  # (B', E)
        return self.log_scale.clamp(max=4.6052).exp() * a @ b.T  # at most 100, as in the paper

    def losses(self, pictures: Tensor, ids: Tensor) -> Tensor:
        """(B,) each picture must find its text among the batch's, and each text its picture (figure 3 of the paper)."""
        similar = self.similarity(pictures, ids)
        target = torch.arange(len(ids), device=ids.device)
        both = (F.cross_entropy(s, target, reduction="none") for s in (similar, similar.T))
        return sum(both) / 2

    def forward(self, pictures: Tensor, ids: Tensor) -> Tensor:
        """`losses`: what a training calls."""
        return self.losses(pictures, ids)

    def save(self, tokenizer: BytePairTokenizer, path: str | Path, metadata: dict[str, str]) -> None:
        """Write both towers (fp16) with their sizes and the tokenizer."""
        about = {"text": asdict(self.text.config), "image": asdict(self.image.config), "tokenizer": tokenizer.to_json()}
        save_with_config(self, about, path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path = "clip") -> tuple["CLIP", BytePairTokenizer]:
        """The tiny pair that `python -m helpers.text.train` trained, and its tokenizer. Raises as `load_weights`."""
        about = read_config(name_or_path)
        tokenizer = BytePairTokenizer.from_json(about["tokenizer"])
        model = cls(CLIPTowerConfig(**about["text"]), CLIPTowerConfig(**about["image"]), tokenizer.end)
        load_weights(model, name_or_path)
        return model.eval(), tokenizer


IMAGE_NAMES: KeyMapping = [  # of the image tower, as `transformers` writes them
    (r"^patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^whole$", "vision_model.embeddings.class_embedding"),
    (r"^positions$", "vision_model.embeddings.position_embedding.weight"),
    (r"^layers\.", "vision_model.encoder.layers."),
    (r"^norm_in\.", "vision_model.pre_layrnorm."),  # published with this spelling
    (r"^norm\.", "vision_model.post_layernorm."),
    (r"^projection\.", "visual_projection."),
    *LAYER_NAMES,
]
