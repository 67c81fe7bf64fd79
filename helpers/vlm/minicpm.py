"""Two ideas of MiniCPM-V (Yao et al. 2024): cut a large image into slices, and compress each slice into 64 tokens.

PaliGemma resizes every image to one square, in which small print is lost. Alphabet: B slices, N patches of a slice, Q
queries, C width of the vision tower, D width of the language model, H heads.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from helpers.data.images import upright_rgb

SIDE = 448  # pixels: a slice has about SIDE x SIDE of them
MAX_SLICES = 9
PATCH = 14  # sides are multiples of it
TOKENS = 64  # of one slice, in MiniCPM-V 2.6


class SliceGrid(NamedTuple):
    """How an image is cut into slices."""

    columns: int
    rows: int
    overview_size: tuple[int, int]  # width and height of the whole image, resized to one slice
    slice_size: tuple[int, int]  # width and height of every slice

    @property
    def pieces(self) -> int:
        """Number of images that the vision tower encodes: the overview, and the slices where the image is cut."""
        return 1 if self.columns * self.rows == 1 else 1 + self.columns * self.rows

    @property
    def tokens(self) -> int:
        """Number of input tokens of the language model."""
        return TOKENS * self.pieces


def choose_slice_grid(width: int, height: int, max_slices: int = MAX_SLICES) -> SliceGrid:
    """Choose the grid of slices for an image of this size (LLaVA-UHD, Xu et al. 2024, section 3.1).

    The number of slices is that of the pixels divided by SIDE x SIDE, or one more or less; of all such grids the one
    whose aspect ratio is nearest to the image's.

    Raises:
        ValueError: for an image without pixels, or if no slice is allowed.
    """
    if width < 1 or height < 1 or max_slices < 1:
        raise ValueError(
            f"an image has at least 1 pixel and may have at least one slice, got {width}x{height}, {max_slices}"
        )
    ideal = min(math.ceil(width * height / SIDE**2), max_slices)
    columns, rows = (1, 1) if ideal == 1 else _nearest_grid(width / height, ideal, max_slices)
    overview_size = fit_to_patches(width, height, enlarge=columns * rows == 1)
    slice_size = fit_to_patches(max(1, round(width / columns)), max(1, round(height / rows)), enlarge=True)
    return SliceGrid(columns, rows, overview_size, slice_size)


def _nearest_grid(aspect_ratio: float, ideal: int, max_slices: int) -> tuple[int, int]:
    """Columns and rows of the grid of about `ideal` slices with the nearest aspect ratio; in a tie, with more rows."""
    grids = []
    for count in (ideal - 1, ideal, ideal + 1):
        if 1 < count <= max_slices:
            grids += [(columns, count // columns) for columns in range(1, count + 1) if count % columns == 0]

    def distance(grid: tuple[int, int]) -> tuple[float, int]:
        columns, rows = grid
        return abs(math.log(aspect_ratio) - math.log(columns / rows)), -rows

    return min(grids, key=distance)


def fit_to_patches(width: int, height: int, enlarge: bool) -> tuple[int, int]:
    """Width and height, multiples of PATCH, of an image of this aspect ratio with about SIDE x SIDE pixels.

    `enlarge`: also where it has fewer.
    """
    if enlarge or width * height > SIDE**2:
        ratio = width / height
        height = int(SIDE / math.sqrt(ratio))
        width = int(height * ratio)
    return _round_to_patch(width), _round_to_patch(height)


def _round_to_patch(side: int) -> int:
    return max(PATCH, round(side / PATCH) * PATCH)


def slice_image(image: Image.Image, max_slices: int = MAX_SLICES) -> tuple[Image.Image, list[Image.Image]]:
    """Resize the whole image to an overview, and cut it into slices, row by row (none for a small image)."""
    image = upright_rgb(image)
    grid = choose_slice_grid(*image.size, max_slices)
    overview = image.resize(grid.overview_size, Image.Resampling.BICUBIC)
    if grid.pieces == 1:
        return overview, []
    w, h = grid.slice_size
    resized = image.resize((grid.columns * w, grid.rows * h), Image.Resampling.BICUBIC)
    slices = []
    for y in range(0, grid.rows * h, h):
        slices += [resized.crop((x, y, x + w, y + h)) for x in range(0, grid.columns * w, w)]
    return overview, slices


class Resampler(nn.Module):
    """Cross-attention from Q learned queries to the patches of a slice of any size (Perceiver, Jaegle et al. 2021).

    As in MiniCPM-V 2.6, position embeddings are added to the keys alone; its predecessor OmniLMM also adds them to the
    queries.
    """

    def __init__(self, queries: int = TOKENS, width: int = 1152, out_width: int = 3584, heads: int | None = None):
        """
        Args:
            queries: Q.
            width, out_width: C and D; the defaults are MiniCPM-V 2.6's.
            heads: of the attention; None: as many as have a width of 128.

        Raises:
            ValueError: if there are no queries, or the heads cannot share D evenly.
        """
        super().__init__()
        self.heads = heads or out_width // 128
        if queries < 1 or not self.heads or out_width % self.heads or out_width % 4:
            raise ValueError(
                f"need heads that share the width evenly and at least one query, got {self.heads} heads, a width of "
                f"{out_width} and {queries} queries"
            )
        self.queries = nn.Parameter(0.02 * torch.randn(queries, out_width))
        self.to_kv = nn.Linear(width, out_width, bias=False)  # to the language model's width first
        self.norm_q = nn.LayerNorm(out_width, eps=1e-6)
        self.norm_kv = nn.LayerNorm(out_width, eps=1e-6)
        self.q = nn.Linear(out_width, out_width)
        self.k = nn.Linear(out_width, out_width)
        self.v = nn.Linear(out_width, out_width)
        self.out = nn.Linear(out_width, out_width)
        self.norm = nn.LayerNorm(out_width, eps=1e-6)
        self.projection = nn.Parameter(out_width**-0.5 * torch.randn(out_width, out_width))

    def forward(self, states: Tensor, size: tuple[int, int]) -> Tensor:
        """Compress the hidden states (B, N, C) of a slice of size (rows, columns) of patches -> (B, Q, D).

        Raises:
            ValueError: where N is not rows x columns.
        """
        return self.project(self.attend(states, size)[0])

    def attend(self, states: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Attention of the queries to the patches: the result (B, Q, D), and the attention map (B, H, Q, N)."""
        if states.shape[1] != size[0] * size[1]:
            raise ValueError(f"{states.shape[1]} states do not match {size[0]} rows of {size[1]} patches")
        x = self.norm_kv(self.to_kv(states))  # (B, N, D)
        q = self._split_heads(self.q(self.norm_q(self.queries))[None])  # (1, H, Q, d)
        k = self._split_heads(self.k(x + sinusoids_2d(*size, x.shape[-1]).to(x)))  # (B, H, N, d), with positions
        v = self._split_heads(self.v(x))  # (B, H, N, d), without
        attention_map = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        mixed = rearrange(attention_map @ v, "b h q d -> b q (h d)")
        return self.out(mixed), attention_map

    def project(self, mixed: Tensor) -> Tensor:
        """Normalise and project (B, Q, D) to input embeddings of the language model."""
        return self.norm(mixed) @ self.projection

    def _split_heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)


def sinusoids_2d(rows: int, columns: int, width: int) -> Tensor:
    """Fixed 2D position embeddings, float32 (rows * columns, width): half for the column, half for the row."""
    frequencies = 10_000 ** (-torch.arange(width // 4).float() / (width // 4))

    def sinusoids(count: int) -> Tensor:
        angles = torch.arange(count).float()[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (count, width / 2)

    x = sinusoids(columns).expand(rows, -1, -1)
    y = sinusoids(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)
