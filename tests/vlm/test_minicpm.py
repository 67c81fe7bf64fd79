"""MiniCPM-V's slicing and resampler: the published token counts, the reference's grids, a plain formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.parity import difference
from helpers.vlm.minicpm import MAX_SLICES, PATCH, Resampler, choose_slice_grid, sinusoids_2d, slice_image

sides = st.integers(20, 5000)


@pytest.mark.parametrize(
    ("size", "grid", "tokens"),
    [
        ((448, 448), (1, 1), 64),
        ((640, 480), (2, 1), 192),
        ((1920, 1080), (4, 2), 576),
        ((1344, 1344), (3, 3), 640),
    ],
)
def test_published_token_counts(size, grid, tokens):
    choice = choose_slice_grid(*size)
    assert (choice.columns, choice.rows) == grid and choice.tokens == tokens


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.integers(1, 12))
def test_the_grid_is_the_reference(width, height, max_slices):
    from transformers.models.minicpmv4_6.image_processing_minicpmv4_6 import MiniCPMV4_6ImageProcessor

    theirs = MiniCPMV4_6ImageProcessor.get_sliced_grid(None, (height, width), max_slices, 448)
    ours = choose_slice_grid(width, height, max_slices)
    assert [ours.rows, ours.columns] == (theirs or [1, 1])


@given(sides, sides)
def test_slices_are_made_of_whole_patches(width, height):
    grid = choose_slice_grid(width, height)
    assert 1 <= grid.columns * grid.rows <= MAX_SLICES
    for side in (*grid.overview_size, *grid.slice_size):
        assert side % PATCH == 0 and side >= PATCH
    assert grid.pieces == (1 if grid.columns * grid.rows == 1 else 1 + grid.columns * grid.rows)


def test_the_slices_are_the_image():
    image = Image.linear_gradient("L").rotate(30).convert("RGB").resize((1000, 900))
    overview, slices = slice_image(image)
    grid = choose_slice_grid(1000, 900)
    w, h = grid.slice_size
    assert overview.size == grid.overview_size and len(slices) == grid.columns * grid.rows > 2
    pixels = [np.asarray(part) for part in slices]
    rows = [np.concatenate(pixels[i : i + grid.columns], axis=1) for i in range(0, len(slices), grid.columns)]
    resized = image.resize((grid.columns * w, grid.rows * h), Image.Resampling.BICUBIC)
    assert np.array_equal(np.concatenate(rows), np.asarray(resized))
    assert slice_image(Image.new("RGB", (300, 200)))[1] == []


def test_the_resampler_is_the_formula():
    """PyTorch's own attention with the same weights: position embeddings are added to the keys alone."""
    torch.manual_seed(0)
    ours = Resampler(queries=4, width=12, out_width=16, heads=2)
    theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([ours.q.weight, ours.k.weight, ours.v.weight])
    theirs.in_proj_bias.data = torch.cat([ours.q.bias, ours.k.bias, ours.v.bias])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    states = torch.randn(3, 6, 12)
    with torch.no_grad():
        x = ours.norm_kv(ours.to_kv(states))
        queries = ours.norm_q(ours.queries).expand(3, -1, -1)
        mixed, weights = theirs(queries, x + sinusoids_2d(2, 3, 16), x, average_attn_weights=False)
        ours_mixed, attention_map = ours.attend(states, (2, 3))
        assert difference(ours_mixed, mixed) <= 1e-5 and difference(attention_map, weights) <= 1e-5
        assert difference(ours(states, (2, 3)), ours.norm(mixed) @ ours.projection) <= 1e-5


def test_the_same_tokens_whatever_the_slice():
    resampler = Resampler(queries=64, width=24, out_width=32, heads=4)
    for rows, columns in ((32, 32), (24, 42), (1, 7)):
        assert resampler(torch.randn(2, rows * columns, 24), (rows, columns)).shape == (2, 64, 32)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1 pixel"):
        choose_slice_grid(0, 10)
    with pytest.raises(ValueError, match="got 3 heads, a width of 16 and 4 queries"):
        Resampler(4, 12, 16, heads=3)
    with pytest.raises(ValueError, match="6 states do not match 2 rows of 2 patches"):
        Resampler(4, 12, 16, 2)(torch.randn(1, 6, 12), (2, 2))
