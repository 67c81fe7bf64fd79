"""T5's encoder (Raffel et al. 2020; version 1.1): a transformer that knows positions by their distance only.

Every token sees every other, before and after it. How far apart two tokens are adds a learned number to their
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
    mlp: int = 10_240  # each of its two halves
    buckets: int = 32  # of distances, half of them for each direction
    farthest: int = 128  # tokens; distances beyond share the last bucket

    @classmethod
    def xxl(cls) -> "T5Config":
        """T5 v1.1 XXL: 4,762,310,656 parameters."""
        return cls()


class T5Norm(nn.Module):
    """x / sqrt(mean(x^2)) times a learned factor, computed in float32: nothing is subtracted, nothing added."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(self.weight.dtype)


class T5Attention(nn.Module):
    """Attention without biases and without the 1 / sqrt(D): training folds it into the queries."""

    def __init__(self, config: T5Config):
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(config.width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (B, N, D), bias (1, H, N, N) -> (B, N, D)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class T5Layer(nn.Module):
    """Norm, attention, norm, gated MLP; each half adds to x."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.norm_1 = T5Norm(config.width)
        self.attention = T5Attention(config)
        self.norm_2 = T5Norm(config.width)
        self.gate, self.value = (nn.Linear(config.width, config.mlp, bias=False) for _ in range(2))
        self.out = nn.Linear(config.mlp, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.norm_1(x), bias)
        h = self.norm_2(x)
        hidden = F.gelu(self.gate(h), approximate="tanh") * self.value(h)
        return x + self.out(hidden.to(self.out.weight.dtype))


class T5Encoder(nn.Module):
    """Tokens to states."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.layers))
        self.norm = T5Norm(config.width)

    def forward(self, ids: Tensor) -> Tensor:
        """ids int64 (B, N) -> (B, N, D). Padding is read like any token, as Stable Diffusion 3 was trained."""
        x = self.tokens(ids)
        bias = self.distances(relative_position_buckets(ids.shape[1], self.config).to(ids.device)).permute(2, 0, 1)[
            None
        ]  # (1, H, N, N)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)

    def keep_output_projections_in_fp32(self) -> None:
        """Let every layer's last product and the running sum be float32: in XXL they leave float16's range."""
        for layer in self.layers:
            layer.out.float()


def relative_position_buckets(length: int, config: T5Config) -> Tensor:
    """Which learned number each pair of tokens gets: int64 (N, N), row asks, column is asked.

    Half the buckets are for tokens behind, half for tokens ahead; of each half, the first are for the exact
    distances 0, 1, 2, ..., and the others grow in width with the logarithm of the distance.
    """
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]  # > 0: asked one is ahead
    half = config.buckets // 2
    exact = config.buckets // 4
    far = distance.abs().clamp(min=1).float()
    growing = exact + (torch.log(far / exact) / math.log(config.farthest / exact) * (half - exact)).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), growing.clamp(max=half - 1))
    return bucket + half * (distance > 0)


T5_NAMES: KeyMapping = [
    (r"^tokens\.", "shared."),
    (r"^distances\.", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias."),
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
    """The encoder's tensors; the table of tokens is stored twice in some files."""
    if "shared.weight" not in tensors and "encoder.embed_tokens.weight" in tensors:
        tensors = {"shared.weight": tensors["encoder.embed_tokens.weight"], **tensors}
    return {name: tensor for name, tensor in tensors.items() if name != "encoder.embed_tokens.weight"}


class T5Tokenizer:
    """SentencePiece's unigrams (Kudo 2018), run by the `tokenizers` library: text to numbers."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer", length: int = 256):
        """`length` of every encoded text, its end token included; T5 itself would read any."""
        self.tokenizer = tokenizer
        self.length = length
        self.padding, self.end = (tokenizer.token_to_id(token) for token in ("<pad>", "</s>"))

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
            read = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is no tokenizer: {error}") from error
        if read.token_to_id("</s>") is None or read.token_to_id("<pad>") is None:
            raise ValueError(f"{file} is not T5's tokenizer: it has no </s> or no <pad>")
        read.no_padding()  # such files keep what was last asked of them; both are done here
        read.no_truncation()
        return cls(read, length)

    @staticmethod
    def fetched() -> Path:
        """Where the hub put T5's tokenizer, for checkpoints that bring none.

        Raises:
            FileNotFoundError: where the hub does not give it.
        """
        try:
            return fetch("google-t5/t5-small", ["tokenizer.json"])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                "this checkpoint brings no tokenizer, and the hub did not give T5's: pass the "
                "tokenizers= of any Stable Diffusion 3, or t5=False"
            ) from error

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 (B, length): the text, end, padding. Warns where a text is too long and loses its end."""
        rows = torch.full((len(texts), self.length), self.padding, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [i for i in self.tokenizer.encode(text).ids if i != self.end]
            if len(ids) > self.length - 1:
                warnings.warn(
                    f"T5 was given {len(ids)} tokens and reads {self.length - 1}; the end was cut off: "
                    f"{self.tokenizer.decode(ids[self.length - 1 :])!r}",
                    stacklevel=2,
                )
            kept = [*ids[: self.length - 1], self.end]
            row[: len(kept)] = torch.tensor(kept)
        return rows


def learned_t5_tokenizer(texts: Sequence[str], length: int) -> T5Tokenizer:
    """For tiny encoders: every word of the texts is one token, all others are <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", *sorted({word for text in texts for word in text.split()})]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5Tokenizer(made, length)
