"""Random patterns: the same for everybody, cached, varied, and one split never the other's."""

import numpy as np
import pytest

from helpers.data.patterns import draw_pattern, load_patterns


@pytest.fixture(scope="module")
def patterns(tmp_path_factory):
    return load_patterns("train", 32, limit=60, cache_dir=tmp_path_factory.mktemp("patterns"), progress=False)


def test_the_same_seed_draws_the_same_pattern():
    first, same, other = (draw_pattern(np.random.default_rng(seed), 32) for seed in (1, 1, 2))
    assert first.shape == (3, 32, 32) and first.dtype == np.uint8
    assert np.array_equal(first, same) and not np.array_equal(first, other)


def test_they_come_in_the_object_that_faces_come_in(patterns):
    assert len(patterns) == 60 and patterns.size == 32 and patterns.class_names == ("pattern",)
    assert patterns.source == "patterns" and patterns.attributes is None


def test_they_vary_in_colour_and_in_detail(patterns):
    means = patterns.images.mean((2, 3))
    assert (means.std(0) > 25).all(), "every channel is dark in some and light in others"
    edges = np.abs(np.diff(patterns.images.astype(float), axis=3)).mean((1, 2, 3))
    assert edges.min() < 3 and edges.max() > 12, "smooth ones and busy ones"


def test_the_first_are_the_same_for_every_number_and_come_from_the_cache(patterns, tmp_path):
    few = load_patterns("train", 32, limit=5, cache_dir=tmp_path, progress=False)
    assert np.array_equal(few.images, patterns.images[:5])
    cached = load_patterns("train", 32, limit=5, cache_dir=tmp_path, progress=False)
    assert isinstance(cached.images, np.memmap) and np.array_equal(cached.images, few.images)


def test_validation_patterns_are_others(patterns, tmp_path):
    val = load_patterns("val", 32, limit=5, cache_dir=tmp_path, progress=False)
    assert not np.array_equal(val.images, patterns.images[:5])
    with pytest.raises(ValueError, match="train, val"):
        load_patterns("test", 32, cache_dir=tmp_path)
