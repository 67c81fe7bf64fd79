"""T5's encoder (Raffel et al. 2020; version 1.1): a transformer with relative position biases.

Attention is bidirectional. The distance between two tokens selects a learned bias that is added to their attention
score, the same in every layer. Alphabet: B batch, N tokens, D width, H heads.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.weights.pretrained import KeyMapping, fetch

if TYPE_CHECKING:
    import tokenizers


@dataclass(frozen=True)
class T5Config:
    """Sizes of the encoder; the defaults are those of v1.1 XXL, which Stable Diffusion 3 uses."""

    vocabulary: int = 32_128
    width: int = 4096
    layers: int = 24
    heads: int = 64
    head_width: int = 64
    mlp: int = 10_240  # width of the gated MLP's hidden layer
    num_buckets: int = 32  # of relative positions, half of them for each direction
    max_distance: int = 128  # tokens; distances beyond share the last bucket
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def xxl(cls) -> "T5Config":
        """T5 v1.1 XXL: 4,762,310,656 parameters."""
        return cls()


class T5Norm(nn.Module):
    """RMS norm, x / sqrt(mean(x^2)) times a learned factor, computed in float32: no mean and no bias."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(self.weight.dtype)


class T5Attention(nn.Module):
    """Attention without biases and without the scale 1 / sqrt(D), which training absorbs into the queries."""

    def __init__(self, config: T5Config):
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.to_q = nn.Linear(config.width, inner, bias=False)
        self.to_k = nn.Linear(config.width, inner, bias=False)
        self.to_v = nn.Linear(config.width, inner, bias=False)
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, N, D), bias (1, H, N, N) -> (B, N, D)."""
        q = self._split_heads(self.to_q(x))
        k = self._split_heads(self.to_k(x))
        v = self._split_heads(self.to_v(x))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, H D / H) -> (B, H, N, D / H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class T5Layer(nn.Module):
    """Pre-norm transformer layer: x + attention(norm(x)), then x + gated_mlp(norm(x))."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.norm_1 = T5Norm(config.width, config.layer_norm_epsilon)
        self.attention = T5Attention(config)
        self.norm_2 = T5Norm(config.width, config.layer_norm_epsilon)
        self.gate = nn.Linear(config.width, config.mlp, bias=False)
        self.value = nn.Linear(config.width, config.mlp, bias=False)
        self.out = nn.Linear(config.mlp, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x), bias)
        h = self.norm_2(x)
        hidden = F.gelu(self.gate(h), approximate="tanh") * self.value(h)
        return x + self.out(hidden.to(self.out.weight.dtype))


class T5Encoder(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.relative_attention_bias = nn.Embedding(config.num_buckets, config.heads)
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.layers))
        self.norm = T5Norm(config.width, config.layer_norm_epsilon)

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 (B, N) -> (B, N, D). Padding is not masked, as in Stable Diffusion 3's training."""
        x = self.tokens(ids)
        buckets = relative_position_buckets(ids.shape[1], self.config).to(ids.device)  # (N, N)
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None]  # (1, H, N, N)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)

    def keep_output_projections_in_fp32(self) -> None:
        """Compute every layer's last product and the residual stream in float32: in XXL they overflow float16."""
        for layer in self.layers:
            assert isinstance(layer, T5Layer)
            layer.out.float()


def relative_position_buckets(length: int, config: T5Config) -> Tensor:
    """Index of the relative position bias of every pair of tokens: int64 (N, N), queries by keys.

    Half the buckets are for keys before the query, half for keys after it; of each half, the first are for the exact
    distances 0, 1, 2, ..., and the others grow in width with the logarithm of the distance.
    """
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]  # > 0: the key is after the query
    half = config.num_buckets // 2
    exact = config.num_buckets // 4
    far = distance.abs().clamp(min=1).float()
    growing = exact + (torch.log(far / exact) / math.log(config.max_distance / exact) * (half - exact)).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), growing.clamp(max=half - 1))
    return bucket + half * (distance > 0)


T5_NAMES: KeyMapping = [
    (r"^tokens\.", "shared."),
    (r"^relative_attention_bias\.", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias."),
    (r"^layers\.", "encoder.block."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"\.norm_1\.", ".layer.0.layer_norm."),
    (r"\.norm_2\.", ".layer.1.layer_norm."),
    (r"\.attention\.to_(q|k|v)\.", r".layer.0.SelfAttention.\1."),
    (r"\.attention\.to_out\.", ".layer.0.SelfAttention.o."),
    (r"\.gate\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.value\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.out\.", ".layer.1.DenseReluDense.wo."),
]


def published_t5(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors; some files store the token embedding twice, under two names."""
    if "shared.weight" not in tensors and "encoder.embed_tokens.weight" in tensors:
        tensors = {"shared.weight": tensors["encoder.embed_tokens.weight"], **tensors}
    return {name: tensor for name, tensor in tensors.items() if name != "encoder.embed_tokens.weight"}


class T5Tokenizer:
    """SentencePiece's unigram tokenizer (Kudo 2018), run by the `tokenizers` library: text to token ids."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer", length: int = 256):
        """`length` of every encoded text, its end token included; T5 itself would take any."""
        self.tokenizer = tokenizer
        self.length = length
        pad_id = tokenizer.token_to_id("<pad>")
        eos_id = tokenizer.token_to_id("</s>")
        if pad_id is None or eos_id is None:
            raise ValueError("T5's tokenizer has the tokens <pad> and </s>, this one does not")
        self.pad_id = pad_id
        self.eos_id = eos_id

    @classmethod
    def from_file(cls, path: str | Path, length: int = 256) -> "T5Tokenizer":
        """Read a published `tokenizer.json`, or the folder that holds one.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: for a file that is no T5 tokenizer.
        """
        import tokenizers

        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {file}: T5's is the file tokenizer.json of a diffusers folder's "
                "tokenizer_3/, or of the hub's google-t5/t5-small"
            )
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is no tokenizer: {error}") from error
        if tokenizer.token_to_id("</s>") is None or tokenizer.token_to_id("<pad>") is None:
            raise ValueError(f"{file} is not T5's tokenizer: it has no </s> or no <pad>")
        tokenizer.no_padding()  # a file stores the settings last used; this class pads and truncates by itself
        tokenizer.no_truncation()
        return cls(tokenizer, length)

    @staticmethod
    def download() -> Path:
        """Download T5's tokenizer from the hub, for checkpoints without one; returns the folder's path.

        Raises:
            FileNotFoundError: if the hub cannot be reached.
        """
        try:
            return fetch("google-t5/t5-small", ["tokenizer.json"])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                "this checkpoint contains no tokenizer, and T5's could not be downloaded: pass the "
                "tokenizers= of any Stable Diffusion 3, or t5=False"
            ) from error

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids int64 (B, length): the text, end, padding. Warns when a text is too long and is truncated."""
        rows = torch.full((len(texts), self.length), self.pad_id, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [i for i in self.tokenizer.encode(text).ids if i != self.eos_id]
            if len(ids) > self.length - 1:
                warnings.warn(
                    f"a prompt for T5 holds {self.length - 1} tokens, this one has {len(ids)}; its end was cut off: "
                    f"{self.tokenizer.decode(ids[self.length - 1 :])!r}",
                    stacklevel=2,
                )
            truncated = [*ids[: self.length - 1], self.eos_id]
            row[: len(truncated)] = torch.tensor(truncated)
        return rows


def train_t5_tokenizer(texts: Sequence[str], length: int) -> T5Tokenizer:
    """A word-level tokenizer for tiny encoders: every word of the texts is one token, all others are <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary_words = set(" ".join(texts).split())
    vocabulary = ["<pad>", "</s>", "<unk>", *sorted(vocabulary_words)]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5Tokenizer(tokenizer, length)
