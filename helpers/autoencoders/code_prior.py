"""A prior over maps of codes: one code after the other, each guessed from those before (van den Oord et al. 2017, 3.3).

A small transformer reads the map row by row, as a language model reads words; drawing from its guesses makes new maps,
which a decoder turns into faces. Alphabet: B pictures, N = h w codes of a map, K codes in the book, D width.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.weights import load_config, load_weights, save_with_config

Cache = list[tuple[Tensor, Tensor]]  # of every block: keys and values (B, heads, n, D / heads) of the codes so far


@dataclass(frozen=True)
class PriorConfig:
    """Sizes; the defaults are trained in a quarter of an hour on two CPU cores."""

    K: int = 1024  # codes in the book
    side: int = 16  # of the map
    classes: int = 3  # species, and one more for "any"
    width: int = 128
    blocks: int = 4
    heads: int = 4


class Block(nn.Module):
    """Attention to the codes before, then two layers for each code alone; both are added to what was there."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.norm_2 = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, before: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, N, D), and keys and values of earlier codes -> (B, N, D), and all keys and values."""
        q, k, v = self.to_qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if before is not None:
            k = torch.cat([before[0], k], dim=2)
            v = torch.cat([before[1], v], dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=before is None)  # (B, heads, N, D / heads)
        x = x + self.to_out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x)), (k, v)


class CodePrior(nn.Module):
    """p(code | the codes before it, species)."""

    def __init__(self, config: PriorConfig):
        super().__init__()
        self.config = config
        width = config.width
        self.code = nn.Embedding(config.K, width)
        self.row = nn.Embedding(config.side, width)
        self.column = nn.Embedding(config.side, width)
        self.species = nn.Embedding(config.classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.K)
        for embedding in (self.code, self.row, self.column, self.species):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, indices: Tensor, labels: Tensor) -> Tensor:
        """Maps (B, h, w), labels (B,) -> logits (B, N, K) of every code, from the codes before it only.

        Raises:
            ValueError: for maps of another size.
        """
        side = self.config.side
        if indices.shape[1:] != (side, side):
            raise ValueError(f"this prior reads maps of {side}x{side} codes, got {tuple(indices.shape)}")
        before = self.code(indices.flatten(1))[:, :-1]  # (B, N - 1, D)
        x = torch.cat([torch.zeros_like(before[:, :1]), before], dim=1)  # nothing is before the first
        x = self._placed(x, labels, torch.arange(side**2, device=x.device))
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x))

    def losses(self, indices: Tensor, labels: Tensor) -> Tensor:
        """(B,) nats a code: -log p of a map, divided by N."""
        logits = self(indices, labels)
        return F.cross_entropy(logits.mT.float(), indices.flatten(1), reduction="none").mean(1)

    @torch.no_grad()
    def generate(
        self,
        labels: Tensor,
        generator: torch.Generator | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """New maps (B, h, w), one code after the other; keys and values of earlier codes are kept.

        Args:
            labels: (B,) species; `config.classes` for any.
            temperature: below 1 likely codes become likelier.
            top_k: draw from that many of the likeliest codes only.

        Raises:
            ValueError: for a temperature of 0 or less, a top_k outside 1..K or labels outside 0..classes.
        """
        if temperature <= 0 or (top_k is not None and not 1 <= top_k <= self.config.K):
            raise ValueError(f"temperature must be above 0 and top_k in 1..{self.config.K}, got {temperature}, {top_k}")
        if not len(labels) or labels.min() < 0 or labels.max() > self.config.classes:
            raise ValueError(f"labels must lie in 0..{self.config.classes}, one at least, got {labels.tolist()[:8]}")
        from tqdm.auto import tqdm

        side = self.config.side
        cache = [None] * len(self.blocks)
        drawn = []
        x = self.species.weight.new_zeros(len(labels), 1, self.config.width)
        for place in tqdm(range(side**2), desc="codes", disable=not progress, leave=False):
            h = self._placed(x, labels, torch.tensor([place], device=x.device))
            for i, block in enumerate(self.blocks):
                h, cache[i] = block(h, cache[i])
            logits = self.head(self.norm(h))[:, 0] / temperature  # (B, K)
            if top_k is not None:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
            code = torch.multinomial(logits.softmax(1).cpu(), 1, generator=generator).to(x.device)
            drawn.append(code)
            x = self.code(code)
        return torch.cat(drawn, dim=1).unflatten(1, (side, side))

    def _placed(self, x: Tensor, labels: Tensor, places: Tensor) -> Tensor:
        side = self.config.side
        return x + self.row(places // side) + self.column(places % side) + self.species(labels)[:, None]

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the weights (fp16) with their sizes."""
        save_with_config(self, asdict(self.config), path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path) -> "CodePrior":
        """Weights that `save` wrote. Raises what `load_weights` and `read_config` raise."""
        model = cls(load_config(PriorConfig, name_or_path))
        load_weights(model, name_or_path)
        return model.eval()
