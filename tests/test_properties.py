"""What holds for every input, tried on inputs hypothesis makes up: paths, samplers, quantisers, tokenizers, caches.

Boxes, slices of images and of sets, faces and captions have theirs beside their other tests.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from helpers.autoencoders.quantizers import FSQ, LFQ, ResidualQuantizer, VectorQuantizer, nearest, usage
from helpers.data import cache
from helpers.diffusion import SAMPLERS, DDPMPath, Denoised, FlowPath, sample, time_grid
from helpers.text.t5 import train_t5_tokenizer
from helpers.vlm.processor import Tokenizer

SEEDS = st.integers(0, 2**32 - 1)
BETAS = st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=60).map(torch.tensor)
PATHS = st.one_of(
    BETAS.map(DDPMPath),
    st.floats(0.1, 10).map(FlowPath),
    st.builds(
        lambda make, T: make(T),
        st.sampled_from([DDPMPath.linear, DDPMPath.cosine, DDPMPath.sigmoid]),
        st.integers(30, 2000),
    ),
)
WORD = st.text("abcdefgh", min_size=1, max_size=5)


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- paths and samplers ---------------------------------------------------------------------------------------------


@given(PATHS, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_path_starts_at_the_data_and_only_gets_noisier(path, times):
    alpha, sigma = path.alpha_sigma(torch.tensor([0.0, *sorted(times)]))
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (alpha.diff() <= 1e-6).all() and (sigma.diff() >= -1e-6).all()
    assert ((alpha >= 0) & (alpha <= 1) & (sigma >= 0) & (sigma <= 1)).all()
    total = alpha + sigma if isinstance(path, FlowPath) else alpha.square() + sigma.square()
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


@given(PATHS, SEEDS, st.floats(0, 1))
def test_noise_that_is_known_can_be_taken_out_again(path, seed, t):
    x0 = randn(seed, 3, 2)
    eps = randn(seed + 1, 3, 2)
    alpha, sigma = path.alpha_sigma(t)
    assert torch.allclose(path.add_noise(x0, eps, t) - sigma * eps, alpha * x0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    mean=st.floats(-3, 3),
    std=st.floats(0.1, 2),
    name=st.sampled_from(sorted(SAMPLERS)),
    T=st.integers(100, 1500),
    make=st.sampled_from([DDPMPath.linear, DDPMPath.cosine, DDPMPath.scaled_linear, DDPMPath.sigmoid]),
)
def test_every_sampler_recovers_any_gaussian_on_any_ddpm_path(mean, std, name, T, make):
    """Its true denoiser is known: E[x0 | x] is linear in x."""
    path = make(T)
    assume(name != "plms" or path.alpha_sigma(1.0)[0] > 0.01)  # else it is refused

    def denoise(x, t):
        alpha, sigma = path.alpha_sigma(t)
        x0 = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
        return Denoised(x0, (x - alpha * x0) / sigma)

    alpha, sigma = path.alpha_sigma(1.0)  # not every schedule ends in pure noise
    start = alpha * mean + (alpha**2 * std**2 + sigma**2).sqrt() * randn(0, 4_000)
    x = sample(name, denoise, start, time_grid(300), path, generator=torch.Generator().manual_seed(1))
    assert x.mean().item() == pytest.approx(mean, abs=0.06 * (1 + std))
    assert x.std().item() == pytest.approx(std, rel=0.09, abs=0.03)


# --- quantisers -----------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 40), st.integers(1, 80), st.integers(1, 6))
def test_the_nearest_code_is_nearest(seed, vectors, K, width):
    """By squared distances, as it is searched for: among near ties float32 may take either."""
    z = randn(seed, vectors, width)
    codebook = randn(seed + 1, K, width)
    squares = torch.cdist(z.double(), codebook.double()) ** 2
    chosen = squares.gather(1, nearest(z, codebook)[:, None])[:, 0]
    scale = 1 + z.square().sum(1) + codebook.square().sum(1).max()
    assert (chosen - squares.amin(1) <= 1e-6 * scale).all()


QUANTISERS = st.one_of(
    st.lists(st.integers(3, 9), min_size=1, max_size=4).map(lambda levels: (FSQ(levels), len(levels))),
    st.integers(1, 10).map(lambda bits: (LFQ(bits), bits)),
    st.tuples(st.integers(1, 40), st.integers(1, 5)).map(lambda sizes: (VectorQuantizer(*sizes), sizes[1])),
    st.tuples(st.integers(2, 9), st.integers(1, 3)).map(
        lambda sizes: (ResidualQuantizer([VectorQuantizer(sizes[0], 3) for _ in range(sizes[1])]), 3)
    ),
)


@given(QUANTISERS, SEEDS, st.integers(1, 12))
def test_indices_alone_bring_the_codes_back_and_gradients_pass(quantiser_and_width, seed, vectors):
    quantiser, width = quantiser_and_width
    z = (3 * randn(seed, vectors, width)).requires_grad_()
    quantised = quantiser(z)
    assert torch.allclose(quantiser.decode(quantised.indices), quantised.z_q, atol=1e-5)
    quantised.z_q.sum().backward()
    assert z.grad.isfinite().all() and (isinstance(quantiser, FSQ) or torch.equal(z.grad, torch.ones_like(z)))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60))
def test_use_of_a_codebook_is_counted(indices):
    counts = usage(torch.tensor(indices), 31)
    assert counts.histogram.sum() == len(indices) and counts.utilization == pytest.approx(len(set(indices)) / 31)
    assert 1 - 1e-5 <= counts.perplexity <= len(set(indices)) * (1 + 1e-5)


# --- tokenizers (CLIP's is in text/test_bpe.py) ---------------------------------------------------------------------


@given(st.lists(WORD, min_size=1, max_size=8), st.lists(st.integers(0, 7), max_size=9))
def test_t5_keeps_words_it_knows_in_their_order(vocabulary, chosen):
    tokenizer = train_t5_tokenizer([" ".join(vocabulary)], length=12)
    text = " ".join(vocabulary[i % len(vocabulary)] for i in chosen)
    (row,) = tokenizer([text]).tolist()
    assert row.index(tokenizer.eos_id) == len(chosen) and set(row[len(chosen) + 1 :]) <= {tokenizer.pad_id}
    assert tokenizer.tokenizer.decode(row[: len(chosen)]) == text


@given(st.lists(WORD, min_size=1, max_size=8), st.lists(st.integers(0, 7), max_size=9), st.integers(0, 1023))
def test_paligemmas_words_and_places_survive_being_tokens(vocabulary, chosen, place):
    tokenizer = Tokenizer.from_texts([" ".join(vocabulary)])
    text = f"<loc{place:04}>" + " ".join(vocabulary[i % len(vocabulary)] for i in chosen) + "\n"
    assert (
        tokenizer.decode([tokenizer.bos_token_id, *tokenizer(text), tokenizer.eos_token_id, tokenizer.pad_token_id])
        == text
    )


# --- caches ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@example(sizes=[0], seed=3, place=43, cut=False, description=False)  # NumPy's parser of headers raised TokenError
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), SEEDS, st.integers(0, 2**20), st.booleans(), st.booleans())
def test_a_cache_gives_what_was_put_in_whatever_happens_to_its_files(sizes, seed, place, cut, description):
    """Pieces of any lengths; then one of its files is cut short or has a bit turned, anywhere."""
    pixels = np.random.default_rng(seed).integers(0, 256, (sum(sizes), 3, 4, 5), dtype=np.uint8)
    pieces = np.split(pixels, np.cumsum(sizes)[:-1])

    def build(details):
        details["skipped"] = [["x", "y"]]
        yield from pieces

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            images, details = cache.load_or_build(Path(folder), "some", {"seed": seed}, build)
            assert np.array_equal(images, pixels) and details == {"skipped": [["x", "y"]]}
            del images
            path = cache.cache_path(Path(folder), "some", {"seed": seed})
            path = path.with_suffix(".json") if description else path
            data = bytearray(path.read_bytes())
            data[place % len(data)] ^= 1 << seed % 8
            path.write_bytes(data[: place % len(data)] if cut else data)
