"""Gemma (Gemma Team 2024): the decoder that PaliGemma speaks with.

A layer is attention and a gated MLP, as in every transformer of its years; what is Gemma's own are the norms, the
rotated queries and keys, and one head of keys and values for all heads of queries. Alphabet: B batch, N tokens, M
tokens that can be seen, D width, H heads, G heads of keys and values, d width of a head.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.layers.attention import attention_with_map
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes; the defaults are those of Gemma 2B with PaliGemma's vocabulary."""

    vocabulary: int = 257_216  # 256,000 pieces of text, 1,024 <loc>, 128 <seg>, <image>, filled up to a round number
    width: int = 2048
    layers: int = 18
    heads: int = 8
    kv_heads: int = 1  # one for all: an eighth of the cache (Shazeer 2019, multi-query attention)
    head_width: int = 256
    mlp: int = 16_384
    theta: float = 10_000.0  # the slowest pair of a rotary embedding turns once in about 2 pi theta tokens
    eps: float = 1e-6  # below which a norm takes a vector for nothing

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} heads of keys and values evenly")


@lru_cache
@torch.inference_mode(False)
def scalar(value: float, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A number as a tensor, made once: an operation with a Python number makes one every time, which takes longer."""
    return torch.tensor(value, device=device, dtype=dtype)


_FASTEST: dict[tuple, Callable] = {}  # what `_fastest` found


class SkipsHookDispatch:
    """A module that is called straight away where it has no hooks of its own: looking costs a tenth of a token."""

    def __call__(self, x: Tensor) -> Tensor:
        hooked = self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks
        return super().__call__(x) if hooked else self.forward(x)


class Linear(SkipsHookDispatch, nn.Linear):
    """x W^T."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, bias=False)


class RMSNorm(SkipsHookDispatch, nn.Module):
    """x / sqrt(mean(x^2)) * (1 + w), in float32: with weights of zero it only scales (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        squares = h.square().sum(dim=-1, keepdim=True)
        h = h * torch.add(scalar(self.eps, h.device), squares, alpha=1 / h.shape[-1]).rsqrt()
        return torch.addcmul(h, h, self.weight.float()).type_as(x)


class RotaryEmbedding:
    """Cosines and sines for some tokens, the same in all layers: every pair of numbers turns at a speed of its own.

    Number i and number i + d / 2 of a head are a point in a plane; at position p it is turned by p theta^(-2 i / d)
    (Su et al. 2021, eq. 15). Afterwards q . k depends on how far apart two tokens are, not on where they are.
    """

    def __init__(self, cos: Tensor, sin: Tensor):
        """(B, N, 1, d) each, the sines of the first half negative."""
        self.cos = cos
        self.sin = sin

    @classmethod
    def at(cls, positions: Tensor, width: int, theta: float = 10_000.0) -> "RotaryEmbedding":
        """For tokens at positions (B, N), and heads of an even width."""
        frequencies = theta ** (-torch.arange(0, width, 2, device=positions.device).float() / width)
        angles = positions[..., None, None].float() * frequencies  # (B, N, 1, d / 2)
        cos = angles.cos()
        sin = angles.sin()
        return cls(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))

    def to(self, dtype: torch.dtype) -> "RotaryEmbedding":
        """In what the queries and keys are computed in."""
        return RotaryEmbedding(self.cos.to(dtype), self.sin.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, N, H, d) turned: (a, b) becomes (a cos - b sin, b cos + a sin)."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, dims=-1), self.sin)


class KVCache:
    """Keys and values of every token so far, in memory that is reserved once, and all rotations ahead."""

    def __init__(self, config: GemmaConfig, batch: int, length: int, like: Tensor):
        """`length`: tokens at most; `like` says the dtype and the device."""
        shape = (config.layers, 2, batch, config.kv_heads, length, config.head_width)
        self.memory = like.new_zeros(shape)
        self.filled = 0
        self._layers = [layer.unbind() for layer in self.memory]  # views: keys and values of each
        ahead = RotaryEmbedding.at(torch.arange(length + 1, device=like.device)[None], config.head_width, config.theta)
        self._ahead = torch.cat([ahead.cos, ahead.sin], dim=-1)[0, :, 0].to(like.dtype)  # (length + 1, 2 d)

    def rotation(self, positions: Tensor) -> RotaryEmbedding:
        """Of tokens at positions (B, N), looked up."""
        return RotaryEmbedding(*F.embedding(positions, self._ahead)[:, :, None].chunk(2, dim=-1))

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, G, N, d) behind what is there, and give all of it back, (B, G, M, d).

        Raises:
            ValueError: when the reserved memory is full.
        """
        end = self.filled + k.shape[2]
        keys, values = self._layers[layer]
        if end > keys.shape[2]:
            raise ValueError(f"the cache was made for {keys.shape[2]} tokens, this would be number {end}")
        for memory, new in ((keys, k), (values, v)):
            memory.narrow(2, self.filled, new.shape[2]).copy_(new)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    @property
    def bytes(self) -> int:
        """Of the reserved memory."""
        return self.memory.nbytes


class Attention(nn.Module):
    """Grouped-query attention; with one head of keys and values, multi-query attention."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads
        heads = config.heads + 2 * config.kv_heads  # of queries, then of keys, then of values
        self.to_qkv = Linear(config.width, heads * config.head_width)
        self.to_out = Linear(config.heads * config.head_width, config.width)
        self.map: Tensor | None = None  # (B, H, N, M) of the last call inside `record_attention_maps`
        self.record_map = False
        self.cross = False

    def forward(
        self, x: Tensor, turn: RotaryEmbedding, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """x (B, N, D), mask bool (B, N, M) or None, everything visible -> (B, N, D)."""
        H = self.heads
        G = self.kv_heads
        qk, v = self.to_qkv(x).unflatten(-1, (H + 2 * G, -1)).split((H + G, G), dim=2)
        q, k = turn(qk).split((H, G), dim=2)  # (B, N, H, d), (B, N, G, d)
        k = k.transpose(1, 2)  # (B, G, N, d)
        v = v.transpose(1, 2)  # (B, G, N, d)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, G, M, d)
        mixed = self._shown(q, k, v, mask) if self.record_map else self._mixed(q, k, v, mask)
        return self.to_out(mixed.flatten(2))

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, H, d). Heads that share keys are asked as if they were more tokens of one head: no key is copied."""
        shared = q.shape[2] // self.kv_heads
        G = self.kv_heads
        if q.shape[1] == 1:  # a single token's heads lie in memory like that already
            mixed = F.scaled_dot_product_attention(q.reshape(len(q), G, shared, -1), k, v, attn_mask=_row(mask))
            return mixed.reshape(q.shape)
        q = q.unflatten(2, (G, shared)).permute(0, 2, 3, 1, 4)  # (B, G, H / G, N, d)
        if mask is not None:
            mask = mask[:, None, None].expand(-1, 1, shared, -1, -1).flatten(2, 3)  # (B, 1, H / G * N, M)
        mixed = F.scaled_dot_product_attention(q.flatten(2, 3), k, v, attn_mask=mask)
        return mixed.unflatten(2, (shared, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)

    def _shown(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same by the formula, keeping the map."""
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, dim=1) for part in (k, v))
        mixed, self.map = attention_with_map(q.transpose(1, 2), k, v, mask=_row(mask))
        return mixed.transpose(1, 2)


def _row(mask: Tensor | None) -> Tensor | None:
    """(B, N, M) -> (B, 1, N, M), for all heads."""
    return None if mask is None else mask[:, None]


class Layer(nn.Module):
    """Norm, attention, norm, gated MLP; each half adds to x."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.norm_1 = RMSNorm(config.width, config.eps)
        self.attention = Attention(config)
        self.norm_2 = RMSNorm(config.width, config.eps)
        self.gate = Linear(config.width, config.mlp)
        self.value = Linear(config.width, config.mlp)
        self.out = Linear(config.mlp, config.width)

    def forward(
        self,
        x: Tensor,
        turn: RotaryEmbedding,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        only: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D), or (T, D) for the T tokens of `only` (B, N): to the others nothing more will happen."""
        x = x + self.attention(self.norm_1(x), turn, mask, cache, layer)
        x = x if only is None else x[only]
        h = self.norm_2(x)
        gate = F.gelu(self.gate(h), approximate="tanh")
        hidden = gate * self.value(h) if torch.is_grad_enabled() else gate.mul_(self.value(h))  # in place: less memory
        return x + self.out(hidden)  # GeGLU (Shazeer 2020)


class Gemma(nn.Module):
    """Vectors of tokens to states, and states to what the next token may be."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.tokens.weight, std=config.width**-0.5)  # of length 1, and again after `embed`'s scale: D
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, N) -> (B, N, D), times sqrt(D); what comes from pictures is not multiplied."""
        x = F.embedding(ids, self.tokens.weight)
        return x * scalar(self.config.width**0.5, x.device, x.dtype)  # in bfloat16 45.25, with which Gemma was trained

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        only: Tensor | None = None,
    ) -> Tensor:
        """One state per token.

        Args:
            x: (B, N, D), from `embed` or from a picture.
            positions: int64 (B, N); PaliGemma counts from 1.
            mask: bool (B, N, M), which of the M tokens (N, and what the cache holds) each may see; None: all.
            cache: gets the N tokens' keys and values.
            only: bool (B, N), tokens whose states are wanted. The last layer's MLP, which is most of a layer, is
                spared for all others: nobody looks at what it would make of them.

        Returns:
            (B, N, D), or (T, D) for the T tokens of `only`, row after row.
        """
        if cache is None:
            turn = RotaryEmbedding.at(positions, self.config.head_width, self.config.theta).to(x.dtype)
        else:
            turn = cache.rotation(positions)
        for number, layer in enumerate(self.layers):
            x = layer(x, turn, mask, cache, number, only if number + 1 == len(self.layers) else None)
        if cache is not None:
            cache.filled += positions.shape[1]
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., vocabulary): how well each token's own embedding fits (a tied head)."""
        table = self.tokens.weight
        few = states.ndim == 2 and len(states) <= 16 and len(table) > 10_000 and states.is_cpu
        return _fastest(states, table)(states, table) if few else F.linear(states, table)


def _fastest(few: Tensor, many: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """How this processor multiplies few vectors by a long table fastest; tried once for each number of vectors.

    On AMD's the second way is 1.4 to 4 times as fast, on Intel's the first is up to twice as fast.
    """
    kind = len(few), many.shape, many.dtype, torch.get_num_threads()
    if kind not in _FASTEST:
        plain, other = (min(_seconds(way, few, many) for _ in range(2)) for way in (F.linear, _few_by_many))
        _FASTEST[kind] = _few_by_many if other < 0.9 * plain else F.linear
    return _FASTEST[kind]


def _seconds(way: Callable, few: Tensor, many: Tensor) -> float:
    start = time.perf_counter()
    way(few, many)
    return time.perf_counter() - start


def _few_by_many(few: Tensor, many: Tensor) -> Tensor:
    """few @ many.T, (T, D) and (V, D) -> (T, V): it is all reading of `many`.

    One vector would be multiplied by one core: every core gets rows of its own. Several go to the right-hand side.
    """
    cores = torch.get_num_threads()
    if len(few) > 1 or len(many) % cores:
        return (many @ few.T).T
    return torch.bmm(few.expand(cores, 1, -1), many.unflatten(0, (cores, -1)).mT).flatten()[None]


GEMMA_NAMES: KeyMapping = [  # from our names to those of `transformers`
    (r"^tokens\.", "embed_tokens."),
    (r"\.norm_1\.", ".input_layernorm."),
    (r"\.norm_2\.", ".post_attention_layernorm."),
    (r"\.attention\.to_qkv\.", ".self_attn.{qkv}_proj."),
    (r"\.attention\.to_out\.", ".self_attn.o_proj."),
    (r"\.gate\.", ".mlp.gate_proj."),
    (r"\.value\.", ".mlp.up_proj."),
    (r"\.out\.", ".mlp.down_proj."),
]
