"""Nearest neighbours against the plain double loop, and copies that must be caught."""

import numpy as np
import pytest
import torch

from helpers.data.faces import to_float
from helpers.scoring import neighbours
from helpers.scoring.neighbours import memorization_check, nearest


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (70, 3, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize("chunk", [512, 16])
def test_the_nearest_are_those_of_the_double_loop(images, chunk, monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", chunk)
    samples = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(1)) / 2
    indices, distances = nearest(samples, images, k=4)
    plain = torch.stack([(to_float(images) - sample).square().mean((1, 2, 3)).sqrt() for sample in samples])
    expected = plain.sort(1)
    torch.testing.assert_close(distances, expected.values[:, :4], rtol=1e-5, atol=1e-6)
    assert torch.equal(indices, expected.indices[:, :4])


def test_a_copy_is_at_distance_zero_and_a_slight_change_is_measured_exactly(images):
    samples = to_float(images[[3, 65]])
    samples[1, 0, 0, 0] += 1e-3  # products of float32 numbers alone would lose this
    indices, distances = nearest(samples, images)
    assert indices[:, 0].tolist() == [3, 65]
    assert distances[0].item() == 0
    assert distances[1].item() == pytest.approx(1e-3 / 192**0.5, rel=1e-2)


def test_memory_maps_and_uint8_samples(images, tmp_path):
    np.save(tmp_path / "p.npy", images)
    neighbours_of = nearest(images[10:12], np.load(tmp_path / "p.npy", mmap_mode="r"), k=2)
    assert neighbours_of.indices[:, 0].tolist() == [10, 11]


def test_another_space_has_other_neighbours(images):
    """By mean brightness alone; the nearest are found by sorting the means."""
    brightness = to_float(images).mean((1, 2, 3))
    by_brightness = nearest(images[:5], images, k=2, space=lambda x: x.mean((1, 2, 3))[:, None])
    assert by_brightness.indices[:, 0].tolist() == [0, 1, 2, 3, 4]
    gaps = (brightness[:5, None] - brightness).abs().sort(1).values[:, 1]
    torch.testing.assert_close(by_brightness.distances[:, 1], gaps, atol=1e-5, rtol=0)


def smooth(n, seed):
    small = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(small, (8, 8), mode="bilinear")


def test_copying_is_caught_and_new_images_are_not_accused():
    train = smooth(300, 0)
    validation = smooth(150, 1)
    fresh = smooth(150, 2)
    honest = memorization_check(fresh, train, validation)
    assert 0.9 < honest.ratio < 1.1 and len(honest.suspects) < 10
    fresh[7] = train[123]
    copying = memorization_check(fresh, train, validation)
    assert 7 in copying.suspects.tolist() and copying.samples.indices[7].item() == 123
    parrot = memorization_check((train[:100] + 0.01).clamp(-1, 1), train, validation)
    assert parrot.ratio < 0.1 and len(parrot.suspects) > 95


def test_bad_arguments_are_refused(images):
    with pytest.raises(ValueError, match="one size"):
        nearest(torch.zeros(1, 3, 16, 16), images)
    with pytest.raises(ValueError, match="unknown space 'latents'"):
        nearest(images, images, space="latents")
    for k in (0, 71):
        with pytest.raises(ValueError, match="k must lie between 1 and"):
            nearest(images, images, k=k)
    with pytest.raises(ValueError, match="no images: 0 samples"):
        memorization_check(images[:0], images, images)
