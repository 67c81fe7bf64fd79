"""FID by the competitor's protocol: which photographs, the formula, and going on after a kill. Inception is played by
a network of a few features."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.tiny_sd import animals_fid
from benchmarks.tiny_sd.animals_scores import Photographs, Sampling
from helpers.data import Faces

CLASSES = ("cat", "dog", "wild")
FAST = Sampling(1.0, steps=1)


class Corners(nn.Module):
    """Twelve features: each colour's means of an image's quarters."""

    def __init__(self):
        super().__init__()
        self.read = 0

    def forward(self, images):
        self.read += len(images)
        return nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)


def faces(per_class, split, seed):
    labels = np.repeat(np.arange(3), per_class)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 8, 8), dtype=np.uint8)
    return Faces(images, labels, CLASSES, split=split)


@pytest.fixture
def photographs():
    return Photographs(faces((30, 30, 24), "train", 0), faces((12, 6, 3), "val", 1))


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


def test_held_out_photographs_come_first_and_training_ones_fill_up(photographs):
    first, second = animals_fid.reference(photographs, per_class=10)
    assert first.held_out == {"cat": 10, "dog": 6, "wild": 3} and first.training == {"cat": 0, "dog": 4, "wild": 7}
    for name in CLASSES:
        used = {image.tobytes() for image in first.images[name]}
        others = {image.tobytes() for image in second.images[name]}
        held_out = {image.tobytes() for image in photographs.held_out.of_class(name).images}
        assert len(used) == len(others) == 10 and not used & others and not others & held_out
        assert len(used & held_out) == first.held_out[name]
    assert first.described()["sha256"] != second.described()["sha256"]
    with pytest.raises(ValueError, match="3 held-out and 24 training photographs of class 'wild' are too few"):
        animals_fid.reference(photographs, per_class=14)


def test_negatives_are_what_the_competitor_s_script_makes():
    assert animals_fid.negative(torch.tensor([0, 1, 100, 255], dtype=torch.uint8)).tolist() == [0, 255, 156, 1]


def test_distances_are_the_formula_in_float64():
    """Heusel et al. 2017, eq. 6, with a square root by eigenvalues; the course's code takes none."""
    generator = torch.Generator().manual_seed(0)
    real = {name: torch.randn(40, 6, generator=generator) for name in CLASSES}
    generated = {name: 1.3 * torch.randn(40, 6, generator=generator) + 0.2 for name in CLASSES}
    distances = animals_fid.distances(generated, real)

    def formula(a, b):
        a = a.double().numpy()
        b = b.double().numpy()
        first = np.cov(a, rowvar=False)
        second = np.cov(b, rowvar=False)
        values, vectors = np.linalg.eigh(first)
        root = (vectors * np.sqrt(values)) @ vectors.T
        shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()
        return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared

    assert distances["dog"] == pytest.approx(formula(generated["dog"], real["dog"]), abs=1e-3)
    pooled = (torch.cat(list(some.values())) for some in (generated, real))
    assert distances["overall"] == pytest.approx(formula(*pooled), abs=1e-3)


def measured(model, photographs, network, earlier=None, seeds=2, **options):
    saved = []
    record = animals_fid.measure(
        model,
        "checksum",
        options.pop("sampling", FAST),
        photographs,
        network,
        earlier,
        lambda record: saved.append(dict(record)),
        per_class=10,
        seeds=seeds,
        **options,
    )
    return record, saved


def test_every_seed_is_saved_and_a_second_call_goes_on(home, model, photographs):
    model.height = model.width = 8
    network = Corners()
    whole, saved = measured(model, photographs, network)
    assert [len(record["seeds"]) for record in saved] == [1, 2] and network.read == 2 * 30 + 2 * 30
    assert whole["seeds"][0]["overall"] != whole["seeds"][1]["overall"]
    assert 0 <= whole["other_photographs"]["overall"] < whole["seeds"][0]["overall"]
    second_network = Corners()
    resumed, saved = measured(model, photographs, second_network, earlier=saved[0])
    assert resumed["seeds"] == whole["seeds"] and second_network.read == 0 and len(saved) == 1
    assert resumed["photographs"]["held_out"] == {"cat": 10, "dog": 6, "wild": 3}


def test_another_sampling_starts_afresh(home, model, photographs):
    model.height = model.width = 8
    _, saved = measured(model, photographs, Corners(), seeds=1)
    network = Corners()
    record, _ = measured(model, photographs, network, earlier=saved[0], seeds=1, sampling=Sampling(1.0, steps=2))
    assert network.read == 30 and len(record["seeds"]) == 1  # the photographs' features are kept
    assert record["seeds"] != saved[0]["seeds"]


def test_negatives_are_measured_beside_the_images(home, model, photographs):
    model.height = model.width = 8
    record, _ = measured(model, photographs, Corners(), seeds=1, inverted=True)
    assert record["inverted"] and record["seeds"][0]["inverted"].keys() == {"overall", *CLASSES}
    # colours turned round, and 0 to 0: linear features lie about as far apart
    assert record["seeds"][0]["inverted"]["overall"] == pytest.approx(record["seeds"][0]["overall"], rel=0.3)


def test_damaged_features_are_computed_again(home):
    network = Corners()
    images = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8)
    features = animals_fid.kept_features("some", lambda: images, network)
    torch.testing.assert_close(features, Corners()(images))
    path = home / "features" / "some.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    torch.testing.assert_close(animals_fid.kept_features("some", lambda: images, network), features)
    assert network.read == 120
    assert torch.equal(animals_fid.kept_features("some", lambda: 1 / 0, network), features)


def test_mean_and_deviation_over_the_seeds():
    seeds = [{"overall": value} for value in (1.0, 2.0, 3.0)]
    assert animals_fid.mean_and_deviation(seeds, "overall") == pytest.approx((2.0, 1.0))
