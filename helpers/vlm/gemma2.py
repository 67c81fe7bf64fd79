"""Gemma 2 (Gemma Team 2024b), the language model of PaliGemma 2 (Steiner et al. 2024): what changed since Gemma 1.

- Soft caps: no attention score leaves (-50, 50), and no logit (-30, 30).
- Two norms more per layer: what attention and MLP add to x is normalised as well.
- Every other layer is local: a token attends to the last 4,096 tokens only.
- Scores are divided by the square root of a number of its own, which in the largest model is not the width of a head.

Everything else is inherited from `helpers.vlm.gemma`. The cache keeps all tokens for local layers, too: it could forget
those that have left the window. Alphabet: B batch, N tokens, M tokens that can be attended to, D width, H query heads,
G key/value heads, S query heads that share one of these, d width of a head.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from helpers.vlm.gemma import GEMMA_NAMES, Attention, Gemma, GemmaConfig, KVCache, Layer, RMSNorm, RotaryEmbedding
from helpers.weights.pretrained import KeyMapping


@dataclass(frozen=True)
class Gemma2Config(GemmaConfig):
    """Sizes; the defaults are those of Gemma 2 2B with PaliGemma's vocabulary."""

    width: int = 2304
    layers: int = 26
    kv_heads: int = 4
    mlp: int = 9216
    query_scalar: float = 256  # scores are q . k over its square root
    attention_cap: float | None = 50.0  # of the scores; None: no cap
    logit_cap: float | None = 30.0
    window: int = 4096  # tokens that a local layer attends to, the present one among them


PALIGEMMA2 = {  # name -> its language model: Gemma 2 2B, 9B and 27B
    "3b": Gemma2Config(),
    "10b": Gemma2Config(width=3584, layers=42, heads=16, kv_heads=8, mlp=14_336),
    "28b": Gemma2Config(
        width=4608, layers=46, heads=32, kv_heads=16, head_width=128, mlp=36_864, query_scalar=144
    ),  # 144 = 4608 / 32
}


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """cap tanh(x / cap): nearly x where |x| is far below the cap, and never beyond it. None: x itself."""
    return x if cap is None else cap * torch.tanh(x / cap)


class CappedAttention(Attention):
    """Grouped-query attention with soft-capped scores."""

    def __init__(self, config: Gemma2Config):
        super().__init__(config)
        self.scale = config.query_scalar**-0.5
        self.cap = config.attention_cap

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The plain formula, since PyTorch's fused attention has no soft cap. Shapes as in Gemma 1."""
        shared = self.heads // self.kv_heads
        q = rearrange(q, "b n (g s) d -> b g (s n) d", s=shared)
        scores = soft_cap(q @ k.mT * self.scale, self.cap).unflatten(2, (shared, -1))  # (B, G, S, N, M)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        attention_map = scores.softmax(dim=-1, dtype=torch.float32).type_as(v)
        if self.record_map:
            self.attention_map = attention_map.flatten(1, 2)
        return rearrange(attention_map.flatten(2, 3) @ v, "b g (s n) d -> b n (g s) d", s=shared)


class Gemma2Layer(Layer):
    """Norms before and after: x + norm(attention(norm(x))), then x + norm(gated MLP(norm(x)))."""

    def __init__(self, config: Gemma2Config, local: bool):
        super().__init__(config, CappedAttention(config))
        self.post_norm_1 = RMSNorm(config.width, config.eps)
        self.post_norm_2 = RMSNorm(config.width, config.eps)
        self.local = local

    def forward(
        self,
        x: Tensor,
        rope: RotaryEmbedding,
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
        only: Tensor | None = None,
    ) -> Tensor:
        """As in Gemma 1."""
        x = x + self.post_norm_1(self.attention(self.norm_1(x), rope, mask, cache, layer))
        if only is not None:
            x = x[only]
        return x + self.post_norm_2(self.feed_forward(self.norm_2(x)))


class Gemma2(Gemma):
    """The decoder, with alternating local and global layers and soft-capped logits."""

    config: Gemma2Config

    def __init__(self, config: Gemma2Config):
        super().__init__(config)
        self.window = config.window

    def make_layer(self, index: int) -> Gemma2Layer:
        """Layers 0, 2, 4, ... are local, the others global."""
        return Gemma2Layer(self.config, local=index % 2 == 0)

    def logits(self, hidden_states: Tensor) -> Tensor:
        """As in Gemma 1, but within (-cap, cap). The order of the tokens, hence the most likely one, is the same."""
        return soft_cap(super().logits(hidden_states), self.config.logit_cap)


def decoder(config: GemmaConfig) -> Gemma:
    """Build Gemma 1 or 2, as the kind of configuration says."""
    return Gemma2(config) if isinstance(config, Gemma2Config) else Gemma(config)


# In Gemma 1, "post_attention_layernorm" names the norm before the MLP; in Gemma 2, one after attention.
GEMMA2_NAMES: KeyMapping = [
    (r"\.post_norm_1\.", ".post_attention_layernorm."),
    (r"\.norm_2\.", ".pre_feedforward_layernorm."),
    (r"\.post_norm_2\.", ".post_feedforward_layernorm."),
    *GEMMA_NAMES,
]
