"""CLIP (Radford et al. 2021): an image and a text tower, trained to give an image and its caption equal embeddings.

Alphabet: B batch, N tokens, D width, H W of the image, E width of the joint embedding space.
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
    """A vision transformer (Dosovitskiy et al. 2020): patches become tokens, and a class token is added."""

    def __init__(self, config: CLIPTowerConfig):
        super().__init__()
        self.config = config
        tokens = (config.size // config.patch) ** 2 + 1
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.class_embedding = nn.Parameter(config.width**-0.5 * torch.randn(config.width))
        self.positions = nn.Parameter(0.01 * torch.randn(tokens, config.width))
        self.norm_in = nn.LayerNorm(config.width)
        self.layers = nn.ModuleList(Layer(config, causal=False) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.projection, bias=False) if config.projection else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, size, size), normalised as in training -> (B, E)."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positions
        x = self.norm_in(x)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x[:, 0])  # (B, D)
        return x if self.projection is None else self.projection(x)


class CLIP(nn.Module):
    """Both towers and the learned temperature of their similarity."""

    def __init__(self, text: CLIPTowerConfig, image: CLIPTowerConfig, eos_id: int):
        """`eos_id`: id of the end token, at which texts are pooled."""
        super().__init__()
        self.text = TextTower(text)
        self.image = ImageTower(image)
        self.eos_id = eos_id
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def similarity(self, images: Tensor, ids: Tensor) -> Tensor:
        """Logits (B, B'): scaled cosine similarity of every image and every text."""
        image_embeds = F.normalize(self.image(images), dim=-1)  # (B, E)
        text_embeds = F.normalize(self.text.pooled(ids, self.eos_id), dim=-1)  # (B', E)
        return self.logit_scale.clamp(max=4.6052).exp() * image_embeds @ text_embeds.T  # at most 100, as in the paper

    def losses(self, images: Tensor, ids: Tensor) -> Tensor:
        """The symmetric contrastive loss (B,): classify each image's text in the batch, and vice versa (figure 3)."""
        logits = self.similarity(images, ids)
        target = torch.arange(len(ids), device=ids.device)
        image_loss = F.cross_entropy(logits, target, reduction="none")
        text_loss = F.cross_entropy(logits.T, target, reduction="none")
        return (image_loss + text_loss) / 2

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """The same as `losses`, for a training that calls the module."""
        return self.losses(images, ids)

    def save(self, tokenizer: BytePairTokenizer, path: str | Path, metadata: dict[str, str]) -> None:
        """Write both towers (fp16) with their sizes and the tokenizer."""
        config = {
            "text": asdict(self.text.config),
            "image": asdict(self.image.config),
            "tokenizer": tokenizer.to_json(),
        }
        save_with_config(self, config, path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path = "clip") -> tuple["CLIP", BytePairTokenizer]:
        """Load a CLIP that `save` wrote, with its tokenizer. Raises what `load_weights` raises."""
        config = read_config(name_or_path)
        tokenizer = BytePairTokenizer.from_json(config["tokenizer"])
        model = cls(CLIPTowerConfig(**config["text"]), CLIPTowerConfig(**config["image"]), tokenizer.eos_id)
        load_weights(model, name_or_path)
        return model.eval(), tokenizer


IMAGE_NAMES: KeyMapping = [  # of the image tower, as `transformers` writes them
    (r"^patches\.", "vision_model.embeddings.patch_embedding."),
    (r"^class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^positions$", "vision_model.embeddings.position_embedding.weight"),
    (r"^layers\.", "vision_model.encoder.layers."),
    (r"^norm_in\.", "vision_model.pre_layrnorm."),  # published with this spelling
    (r"^norm\.", "vision_model.post_layernorm."),
    (r"^projection\.", "visual_projection."),
    *LAYER_NAMES,
]
