"""Gemma (Gemma Team 2024): the language model of PaliGemma, a decoder-only transformer.

A layer is attention and a gated MLP, as in other transformers of its time. Particular to Gemma are the RMS norms with
gain 1 + w, rotary embeddings, and multi-query attention: one key/value head for all query heads. Alphabet: B batch, N
tokens, M tokens that can be attended to, D width, H query heads, G key/value heads, d width of a head.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from helpers.layers.attention import attention_with_map
from helpers.vlm.fast import tied_logits
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class GemmaConfig:
    """Sizes; the defaults are those of Gemma 2B with PaliGemma's vocabulary."""

    vocabulary: int = 257_216  # 256,000 text tokens, 1,024 <loc>, 128 <seg>, <image>, padded to a round number
    width: int = 2048
    layers: int = 18
    heads: int = 8
    kv_heads: int = 1  # one for all: an eighth of the cache (Shazeer 2019, multi-query attention)
    head_width: int = 256
    mlp: int = 16_384
    theta: float = 10_000.0  # the slowest pair of a rotary embedding turns once in about 2 pi theta tokens
    eps: float = 1e-6  # added to the mean square in every norm

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key/value heads evenly")


class Linear(nn.Linear):
    """x W^T, without a bias."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (1 + w), in float32 (Zhang & Sennrich 2019). With w = 0 it only rescales."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        normalized = F.rms_norm(x.float(), x.shape[-1:], eps=self.eps)
        return torch.addcmul(normalized, normalized, self.weight.float()).type_as(x)


class RotaryEmbedding:
    """Rotary position embedding (Su et al. 2021, eq. 15): rotate pairs of channels by angles that grow with position.

    Channels i and i + d / 2 of a head are a point in a plane; at position p it is rotated by p theta^(-2 i / d).
    Afterwards q . k depends on the distance between two tokens, not on where they are. One object serves all layers.
    """

    def __init__(self, cos: Tensor, sin: Tensor):
        """(B, N, 1, d) each, the sines of the first half negative."""
        self.cos = cos
        self.sin = sin

    @classmethod
    def at(cls, positions: Tensor, width: int, theta: float = 10_000.0) -> "RotaryEmbedding":
        """The rotations for tokens at positions (B, N), and heads of an even width."""
        frequencies = theta ** (-torch.arange(0, width, 2, device=positions.device).float() / width)
        angles = positions[..., None, None].float() * frequencies  # (B, N, 1, d / 2)
        cos = angles.cos()
        sin = angles.sin()
        return cls(torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1))

    def to(self, dtype: torch.dtype) -> "RotaryEmbedding":
        """Cast to the dtype of the queries and keys."""
        return RotaryEmbedding(self.cos.to(dtype), self.sin.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (B, N, H, d): (a, b) becomes (a cos - b sin, b cos + a sin)."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, dims=-1), self.sin)


class KVCache:
    """Keys and values of all tokens so far, in memory that is reserved once, and a table of all rotations."""

    def __init__(self, config: GemmaConfig, batch: int, length: int, like: Tensor):
        """Reserve memory for `length` tokens of every row, with the dtype and device of `like`."""
        shape = (config.layers, 2, batch, config.kv_heads, length, config.head_width)
        self.memory = like.new_zeros(shape)
        self.filled = 0
        self._layers = [layer.unbind() for layer in self.memory]  # views: keys and values of each
        positions = torch.arange(length + 1, device=like.device)[None]
        rope = RotaryEmbedding.at(positions, config.head_width, config.theta)
        self._rotations = torch.cat([rope.cos, rope.sin], dim=-1)[0, :, 0].to(like.dtype)  # (length + 1, 2 d)

    def rotation(self, positions: Tensor) -> RotaryEmbedding:
        """Look up the rotations for tokens at positions (B, N)."""
        cos, sin = F.embedding(positions, self._rotations)[:, :, None].chunk(2, dim=-1)
        return RotaryEmbedding(cos, sin)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, G, N, d) of a layer, and return all of them so far, (B, G, M, d).

        Raises:
            ValueError: when the reserved memory is full.
        """
        end = self.filled + k.shape[2]
        keys, values = self._layers[layer]
        if end > keys.shape[2]:
            raise ValueError(f"the cache holds at most {keys.shape[2]} tokens, but this would be token {end}")
        keys.narrow(2, self.filled, k.shape[2]).copy_(k)
        values.narrow(2, self.filled, v.shape[2]).copy_(v)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    @property
    def nbytes(self) -> int:
        """Size of the reserved memory."""
        return self.memory.nbytes


class Attention(nn.Module):
    """Grouped-query attention; with one key/value head, multi-query attention."""

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.heads = config.heads
        self.kv_heads = config.kv_heads
        heads = config.heads + 2 * config.kv_heads  # of queries, then of keys, then of values
        self.to_qkv = Linear(config.width, heads * config.head_width)
        self.to_out = Linear(config.heads * config.head_width, config.width)
        self.attention_map: Tensor | None = None  # (B, H, N, M) of the last call inside `record_attention_maps`
        self.record_map = False
        self.cross = False

    def forward(
        self, x: Tensor, rope: RotaryEmbedding, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        """Attend from x (B, N, D) to itself and the cache -> (B, N, D).

        `mask` is bool (B, N, M), None: every token may attend to all; `layer` is this layer's index in the cache.
        """
        H = self.heads
        G = self.kv_heads
        qk, v = self.to_qkv(x).unflatten(-1, (H + 2 * G, -1)).split((H + G, G), dim=2)
        q, k = rope(qk).split((H, G), dim=2)  # (B, N, H, d), (B, N, G, d)
        k = k.transpose(1, 2)  # (B, G, N, d)
        v = v.transpose(1, 2)  # (B, G, N, d)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, G, M, d)
        return self.to_out(self.mix(q, k, v, mask).flatten(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(d)) v: (B, N, H, d), (B, G, M, d) twice -> (B, N, H, d). `mask` as for `forward`."""
        if self.record_map:
            return self._mix_with_map(q, k, v, mask)
        if q.shape[1] == 1:
            return self._mix_for_one_token(q, k, v, mask)
        return self._mix_by_groups(q, k, v, mask)

    def _mix_with_map(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The plain formula, (B, N, H, d): every query head gets its own copy of the keys and values it shares."""
        shared = self.heads // self.kv_heads
        k = k.repeat_interleave(shared, dim=1)  # (B, H, M, d)
        v = v.repeat_interleave(shared, dim=1)
        mixed, self.attention_map = attention_with_map(q.transpose(1, 2), k, v, mask=_for_all_heads(mask))
        return mixed.transpose(1, 2)

    def _mix_by_groups(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same without copies of keys: query heads that share a key head become more tokens of one head."""
        q = rearrange(q, "b n (g s) d -> b g (s n) d", g=self.kv_heads)
        shared = self.heads // self.kv_heads
        if mask is not None:
            mask = repeat(mask, "b n m -> b 1 (s n) m", s=shared)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return rearrange(mixed, "b g (s n) d -> b n (g s) d", s=shared)

    def _mix_for_one_token(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same for a single token (N = 1), whose heads lie in memory in that order already."""
        grouped = q.reshape(len(q), self.kv_heads, self.heads // self.kv_heads, -1)
        mixed = F.scaled_dot_product_attention(grouped, k, v, attn_mask=_for_all_heads(mask))
        return mixed.reshape(q.shape)


def _for_all_heads(mask: Tensor | None) -> Tensor | None:
    """(B, N, M) -> (B, 1, N, M)."""
    return None if mask is None else mask[:, None]


class Layer(nn.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + gated MLP(norm(x))."""

    local = False  # whether it attends to a sliding window only, as every other layer of Gemma 2

    def __init__(self, config: GemmaConfig, attention: Attention):
        super().__init__()
        self.norm_1 = RMSNorm(config.width, config.eps)
        self.attention = attention
        self.norm_2 = RMSNorm(config.width, config.eps)
        self.gate = Linear(config.width, config.mlp)
        self.value = Linear(config.width, config.mlp)
        self.out = Linear(config.mlp, config.width)

    def forward(
        self,
        x: Tensor,
        rope: RotaryEmbedding,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        only: Tensor | None = None,
    ) -> Tensor:
        """(B, N, D) -> (B, N, D), or (T, D): the MLP and its result only for the T tokens of `only`, bool (B, N)."""
        x = x + self.attention(self.norm_1(x), rope, mask, cache, layer)
        if only is not None:
            x = x[only]
        return x + self.feed_forward(self.norm_2(x))

    def feed_forward(self, h: Tensor) -> Tensor:
        """The gated MLP, (..., D) -> (..., D): GeGLU (Shazeer 2020)."""
        gate = F.gelu(self.gate(h), approximate="tanh")
        if torch.is_grad_enabled():
            return self.out(gate * self.value(h))
        return self.out(gate.mul_(self.value(h)))  # the same, in the memory of `gate`


class Gemma(nn.Module):
    """The decoder: token embeddings to hidden states, and hidden states to next-token logits."""

    window: int | None = None  # how many tokens a local layer attends to; None: there are no such layers

    def __init__(self, config: GemmaConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.tokens.weight, std=config.width**-0.5)  # length 1; after the scale of `embed`, sqrt(D)
        self.layers = nn.ModuleList(self.make_layer(index) for index in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)

    def make_layer(self, index: int) -> Layer:
        """Layer number `index`; all are alike here."""
        return Layer(self.config, Attention(self.config))

    def embed(self, ids: Tensor) -> Tensor:
        """Look up token embeddings and multiply them by sqrt(D): (B, N) -> (B, N, D). Image features are not scaled."""
        x = F.embedding(ids, self.tokens.weight)
        scale = torch.tensor(
            self.config.width**0.5, dtype=x.dtype
        )  # rounded, as in Gemma's training: 45.25 in bfloat16
        return x * scale

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        only: Tensor | None = None,
        local_mask: Tensor | None = None,
    ) -> Tensor:
        """Run all layers; returns one hidden state per token.

        Args:
            x: (B, N, D), from `embed` or from an image encoder.
            positions: int64 (B, N); PaliGemma counts from 1.
            mask: bool (B, N, M), which of the M tokens (N, and those in the cache) each may attend to; None: all.
            cache: receives the keys and values of the N tokens.
            only: bool (B, N), the tokens whose states are needed. The last layer's MLP, which is most of a layer, is
                then skipped for all others, since nothing reads its result.
            local_mask: the same as `mask`, for local layers.

        Returns:
            (B, N, D), or (T, D) for the T tokens of `only`, row after row.
        """
        if cache is None:
            rope = RotaryEmbedding.at(positions, self.config.head_width, self.config.theta).to(x.dtype)
        else:
            rope = cache.rotation(positions)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            allowed = local_mask if layer.local else mask
            x = layer(x, rope, allowed, cache, index, only if index == last else None)
        if cache is not None:
            cache.filled += positions.shape[1]
        return self.norm(x)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Scores of all tokens, (..., D) -> (..., vocabulary), with the input embeddings as weights (a tied head)."""
        return tied_logits(hidden_states, self.tokens.weight)


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
