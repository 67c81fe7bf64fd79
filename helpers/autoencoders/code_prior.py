"""An autoregressive prior over maps of codes: each code is predicted from those before (van den Oord et al. 2017, 3.3).

A small transformer processes the map row by row, as a language model processes text. Sampling from its predictions
gives new maps, which a decoder turns into faces. Alphabet: B images, N = h w codes of a map, K codebook size, D width.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.weights import load_config, load_weights, save_with_config

KeysValues = tuple[Tensor, Tensor]  # of one block: (B, heads, n, D / heads) each, for the codes so far


@dataclass(frozen=True)
class PriorConfig:
    """Sizes; the defaults are trained in a quarter of an hour on two CPU cores."""

    K: int = 1024  # codebook size
    side: int = 16  # of the map
    classes: int = 3  # species, and one more for "any"
    width: int = 128
    blocks: int = 4
    heads: int = 4


class Block(nn.Module):
    """Pre-norm causal transformer block with a key-value cache: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.norm_2 = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, cache: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """(B, N, D), and keys and values of earlier codes -> (B, N, D), and all keys and values.

        With a cache, N is 1: the newest code attends to all.
        """
        qkv = self.to_qkv(self.norm_1(x)).unflatten(-1, (3 * self.heads, -1))  # (B, N, 3 heads, D / heads)
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=1)  # (B, heads, N, D / heads) each
        if cache is not None:
            k = torch.cat([cache[0], k], dim=2)
            v = torch.cat([cache[1], v], dim=2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)  # (B, heads, N, D / heads)
        x = x + self.to_out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x)), (k, v)


class CodePrior(nn.Module):
    """The transformer: p(code | previous codes, species)."""

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
        """Logits (B, N, K) of every code given the codes before it: maps (B, h, w), species labels (B,).

        Raises:
            ValueError: for maps of another size.
        """
        side = self.config.side
        if indices.shape[1:] != (side, side):
            raise ValueError(f"this prior takes maps of {side}x{side} codes, got {tuple(indices.shape)}")
        previous = self.code(indices.flatten(1))[:, :-1]  # (B, N - 1, D)
        x = torch.cat([torch.zeros_like(previous[:, :1]), previous], dim=1)  # the first code has no predecessor
        x = self._add_embeddings(x, labels, torch.arange(side**2, device=x.device))
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.norm(x))

    def losses(self, indices: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood of maps (B, h, w), in nats per code: (B,)."""
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
        """Sample new maps (B, h, w), one code after the other, with a key-value cache.

        Args:
            labels: (B,) species; `config.classes` for any.
            generator: of the samples, on the CPU.
            temperature: the logits are divided by it; below 1 likely codes become likelier.
            top_k: sample from this many of the likeliest codes only.
            progress: show a progress bar.

        Raises:
            ValueError: for a temperature of 0 or less, a top_k outside 1..K or labels outside 0..classes.
        """
        if temperature <= 0 or (top_k is not None and not 1 <= top_k <= self.config.K):
            raise ValueError(f"temperature must be above 0 and top_k in 1..{self.config.K}, got {temperature}, {top_k}")
        if not len(labels) or labels.min() < 0 or labels.max() > self.config.classes:
            raise ValueError(f"labels must lie in 0..{self.config.classes}, one at least, got {labels.tolist()[:8]}")
        from tqdm.auto import tqdm

        side = self.config.side
        cache: list[KeysValues | None] = [None] * len(self.blocks)
        codes = []
        x = self.species.weight.new_zeros(len(labels), 1, self.config.width)
        for position in tqdm(range(side**2), desc="codes", disable=not progress, leave=False):
            h = self._add_embeddings(x, labels, torch.tensor([position], device=x.device))
            for i, block in enumerate(self.blocks):
                h, cache[i] = block(h, cache[i])
            logits = self.head(self.norm(h))[:, 0] / temperature  # (B, K)
            if top_k is not None:
                logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
            code = torch.multinomial(logits.softmax(1).cpu(), 1, generator=generator).to(x.device)
            codes.append(code)
            x = self.code(code)
        return torch.cat(codes, dim=1).unflatten(1, (side, side))

    def _add_embeddings(self, x: Tensor, labels: Tensor, positions: Tensor) -> Tensor:
        """Add the embeddings of position and species: x (B, n, D), labels (B,), positions (n,)."""
        side = self.config.side
        return x + self.row(positions // side) + self.column(positions % side) + self.species(labels)[:, None]

    def save(self, path: str | Path, metadata: dict[str, str]) -> None:
        """Write the weights (fp16) with their sizes."""
        save_with_config(self, asdict(self.config), path, metadata)

    @classmethod
    def from_weights(cls, name_or_path: str | Path) -> "CodePrior":
        """Weights that `save` wrote. Raises what `load_weights` and `read_config` raise."""
        model = cls(load_config(PriorConfig, name_or_path))
        load_weights(model, name_or_path)
        return model.eval()
