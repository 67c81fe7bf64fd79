"""The two distances against closed forms, against slower formulas, and for what they are used for: ranking."""

import itertools
import math

import pytest
import torch

from helpers.scoring.frechet import frechet_distance, kernel_distance


def normal(n, D, seed=0, mean=0.0, std=1.0):
    generator = torch.Generator().manual_seed(seed)
    return mean + std * torch.randn(n, D, generator=generator, dtype=torch.float64)


def by_square_roots(a, b):
    """The formula as published, with symmetric square roots from eigenvalues."""

    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T

    C_a = torch.cov(a.T)
    C_b = torch.cov(b.T)
    half = root(C_a)
    shared = root(half @ C_b @ half).trace()
    return ((a.mean(0) - b.mean(0)).square().sum() + C_a.trace() + C_b.trace() - 2 * shared).item()


@pytest.mark.parametrize("n, m", [(400, 300), (20, 300), (300, 20), (15, 12), (2, 2)])
def test_frechet_is_exact_for_many_and_for_few_features(n, m):
    """D = 32 lies between the counts: full-rank and singular covariances, in every combination."""
    mixing = normal(32, 32, seed=2) / 4
    a = normal(n, 32, 0) @ mixing
    b = 0.3 + normal(m, 32, 1, std=1.4)
    distance = frechet_distance(a, b)
    assert distance.value == pytest.approx(by_square_roots(a, b), rel=1e-6)
    assert distance.counts == (n, m) and math.isnan(distance.stderr)


def test_frechet_of_known_gaussians_in_the_limit():
    """Independent numbers: |mean difference|^2 + sum of (std_a - std_b)^2."""
    a = normal(60_000, 6, 0, mean=0.5, std=2.0)
    b = normal(60_000, 6, 1, mean=-0.5, std=1.0)
    assert frechet_distance(a, b).value == pytest.approx(6 * 1.0 + 6 * 1.0, rel=0.02)


def test_frechet_of_a_set_with_itself_is_zero():
    a = normal(100, 24)
    assert frechet_distance(a, a).value == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a[:10], a[:10].flip(0)).value == pytest.approx(0, abs=1e-9)


def test_frechet_is_biased_at_small_n_and_the_kernel_distance_is_not():
    """The warning of the docstrings, measured: equal distributions, ever more features."""
    sets = [(normal(n, 32, 2 * n), normal(n, 32, 2 * n + 1)) for n in (40, 160, 640)]
    biases = [frechet_distance(a, b).value for a, b in sets]
    assert biases[0] > 2.5 * biases[1] > 6 * biases[2] > 0
    kernels = [kernel_distance(normal(40, 32, 100 + i), normal(40, 32, 900 + i)).value for i in range(60)]
    error = torch.tensor(kernels).std().item() / math.sqrt(len(kernels))
    assert abs(sum(kernels) / len(kernels)) < 4 * error
    assert min(kernels) < 0 < max(kernels)


def test_kernel_distance_is_its_definition():
    """The double sum of Binkowski et al., written out, and across the chunks that rows are read in."""
    a = normal(5, 3, 0)
    b = normal(4, 3, 1, mean=1)

    def k(x, y):
        return ((x @ y / 3 + 1) ** 3).item()

    within_a = sum(k(x, y) for x, y in itertools.permutations(a, 2)) / 20  # without pairs of a row with itself
    within_b = sum(k(x, y) for x, y in itertools.permutations(b, 2)) / 12
    between = sum(k(x, y) for x, y in itertools.product(a, b)) / 20
    expected = within_a + within_b - 2 * between
    assert kernel_distance(a, b).value == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_does_not_depend_on_the_chunks(monkeypatch):
    a = normal(101, 8, 0)
    b = normal(57, 8, 1, mean=0.3)
    whole = kernel_distance(a, b).value
    monkeypatch.setattr("helpers.scoring.frechet.CHUNK", 10)
    assert kernel_distance(a, b).value == pytest.approx(whole, rel=1e-9)


def test_both_rank_shifts():
    a = normal(200, 32, 0)
    for distance in (frechet_distance, kernel_distance):
        values = [distance(a, normal(200, 32, 1, mean=mean)).value for mean in (0.0, 0.2, 0.5, 1.0)]
        assert values == sorted(values)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("n", [200, 120])
def test_the_standard_error_is_the_deviation_of_fresh_samples(distance, n, monkeypatch):
    """Half-samples of one sample must vary as much as new samples do; also where the halves are capped (n = 200)."""
    monkeypatch.setattr("helpers.scoring.frechet.MAX_SUBSET", 60)
    fresh = [distance(normal(n, 4, 2 * i), normal(n, 4, 2 * i + 1, mean=0.6)).value for i in range(80)]
    truth = torch.tensor(fresh).std().item()
    claims = [distance(normal(n, 4, 2 * i), normal(n, 4, 2 * i + 1, mean=0.6), repeats=20).stderr for i in range(8)]
    assert 0.7 * truth < sum(claims) / len(claims) < 1.4 * truth


def test_standard_errors_are_reproducible_and_printed():
    a = normal(50, 4, 0)
    b = normal(50, 4, 1)
    distance = kernel_distance(a, b, repeats=10, seed=1)
    assert distance == kernel_distance(a, b, repeats=10, seed=1) != kernel_distance(a, b, repeats=10, seed=2)
    assert str(distance).endswith("(n = 50, 50)") and "±" in str(distance)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_bad_features_are_refused(distance):
    a = normal(10, 4)
    for other in (normal(10, 5), normal(1, 4), normal(10, 4)[0], normal(0, 4)):
        with pytest.raises(ValueError, match=r"n, m >= 2 are needed, got \(10, 4\) and"):
            distance(a, other)
    with pytest.raises(ValueError, match="NaN"):
        distance(a, a / 0)
    with pytest.raises(ValueError, match="at least 2 repeats"):
        distance(a, a, repeats=1)
