"""MiniCPM-V's two ideas (Yao et al. 2024): cut a large picture into slices, and squeeze each slice into 64 tokens.

PaliGemma squeezes every picture into one square, which is blind to small print. Alphabet: B slices, N patches of a
slice, Q queries, C width of the vision tower, D width of the language model, H heads.
"""

import math
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from helpers.data.images import upright_rgb

SIDE = 448  # pixels: a slice has about SIDE x SIDE of them
MAX_SLICES = 9  # slices
PATCH = 14  # sides are multiples of it
TOKENS = 64  # of one slice, in MiniCPM-V 2.6


class Slicing(NamedTuple):
    """How a picture is cut."""

    columns: int
    rows: int
    whole: tuple[int, int]  # width and height of the picture seen at once
    slice: tuple[int, int]  # width and height of every slice

    @property
    def pieces(self) -> int:
        """The whole, and the slices where it is cut at all."""
        return 1 if self.columns * self.rows == 1 else 1 + self.columns * self.rows

    @property
    def tokens(self) -> int:
        """What the picture costs the language model."""
        return TOKENS * self.pieces


def slicing(width: int, height: int, most: int = MAX_SLICES) -> Slicing:
    """The grid for a picture of these pixels (LLaVA-UHD, Xu et al. 2024, section 3.1).

    As many slices as it has pixels for, one more or one less: the grid whose shape is nearest to the picture's.

    Raises:
        ValueError: for a picture without pixels, or no slices allowed.
    """
    if width < 1 or height < 1 or most < 1:
        raise ValueError(f"a picture has 1 pixel or more and may be one slice at least, got {width}x{height}, {most}")
    wanted = min(math.ceil(width * height / SIDE**2), most)
    columns = rows = 1
    if wanted > 1:
        counts = [count for count in (wanted - 1, wanted, wanted + 1) if 1 < count <= most]
        grids = [(m, count // m) for count in counts for m in range(1, count + 1) if count % m == 0]
        shape = math.log(width / height)
        columns, rows = min(grids, key=lambda grid: (abs(shape - math.log(grid[0] / grid[1])), -grid[1]))
    whole = fitted(width, height, enlarge=columns * rows == 1)
    piece = fitted(max(1, round(width / columns)), max(1, round(height / rows)), enlarge=True)
    return Slicing(columns, rows, whole, piece)


def fitted(width: int, height: int, enlarge: bool) -> tuple[int, int]:
    """The sides, multiples of PATCH, of a picture of this shape with about SIDE x SIDE pixels.

    `enlarge`: also where it has fewer.
    """
    if enlarge or width * height > SIDE**2:
        ratio = width / height
        height = int(SIDE / math.sqrt(ratio))
        width = int(height * ratio)
    return tuple(max(PATCH, round(side / PATCH) * PATCH) for side in (width, height))


def cut(picture: Image.Image, most: int = MAX_SLICES) -> tuple[Image.Image, list[Image.Image]]:
    """The whole at once, and its slices row by row (none where it is not cut)."""
    picture = upright_rgb(picture)
    how = slicing(*picture.size, most)
    whole = picture.resize(how.whole, Image.Resampling.BICUBIC)
    if how.pieces == 1:
        return whole, []
    w, h = how.slice
    large = picture.resize((how.columns * w, how.rows * h), Image.Resampling.BICUBIC)
    corners = [(column * w, row * h) for row in range(how.rows) for column in range(how.columns)]
    return whole, [large.crop((x, y, x + w, y + h)) for x, y in corners]


class Resampler(nn.Module):
    """Learned questions to a slice's patches: whatever its size, Q answers (the perceiver of Jaegle et al. 2021).

    As in MiniCPM-V 2.6: places are added to the keys. (Its ancestor OmniLMM gives the queries places, too.)
    """

    def __init__(self, queries: int = TOKENS, width: int = 1152, out_width: int = 3584, heads: int | None = None):
        """
        Args:
            queries: Q.
            width, out_width: C and D; the defaults are MiniCPM-V 2.6's.
            heads: None: heads of 128.

        Raises:
            ValueError: if there are no queries, or heads do not share D evenly.
        """
        super().__init__()
        self.heads = heads or out_width // 128
        if queries < 1 or not self.heads or out_width % self.heads or out_width % 4:
            raise ValueError(f"{self.heads} heads cannot share {out_width} evenly, or there are no queries: {queries}")
        self.queries = nn.Parameter(0.02 * torch.randn(queries, out_width))
        self.to_kv = nn.Linear(width, out_width, bias=False)  # to the language model's width first
        self.norm_q = nn.LayerNorm(out_width, eps=1e-6)
        self.norm_kv = nn.LayerNorm(out_width, eps=1e-6)
        self.q, self.k, self.v, self.out = (nn.Linear(out_width, out_width) for _ in range(4))
        self.norm = nn.LayerNorm(out_width, eps=1e-6)
        self.projection = nn.Parameter(out_width**-0.5 * torch.randn(out_width, out_width))

    def forward(self, states: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C), the states of a slice of size (rows, columns) of patches -> (B, Q, D).

        Raises:
            ValueError: where N is not rows x columns.
        """
        return self.projected(self.attend(states, size)[0])

    def attend(self, states: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What every query took in, (B, Q, D), and the map of where it looked, (B, H, Q, N)."""
        if states.shape[1] != size[0] * size[1]:
            raise ValueError(f"{states.shape[1]} states are not {size[0]} rows of {size[1]} patches")
        x = self.norm_kv(self.to_kv(states))  # (B, N, D)
        q = self._split(self.q(self.norm_q(self.queries))[None])  # (1, H, Q, d)
        k = self._split(self.k(x + sinusoids_2d(*size, x.shape[-1]).to(x)))  # (B, H, N, d): where
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = weights @ self._split(self.v(x))  # what, without where
        return self.out(mixed.transpose(1, 2).flatten(2)), weights

    def projected(self, answers: Tensor) -> Tensor:
        """To vectors as the language model reads them."""
        return self.norm(answers) @ self.projection

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def sinusoids_2d(rows: int, columns: int, width: int) -> Tensor:
    """Fixed places in a picture: half of the numbers tell the column, half the row. float32 (rows * columns, width)."""
    frequencies = 10_000 ** (-torch.arange(width // 4).float() / (width // 4))

    def along(count: int) -> Tensor:
        angles = torch.arange(count).float()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (count, width / 2)

    x = along(columns).expand(rows, -1, -1)
    y = along(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)
