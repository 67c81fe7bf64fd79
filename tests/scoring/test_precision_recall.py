"""Precision and recall: known answers for sets that agree, miss a mode, or lie elsewhere."""

import pytest
import torch

from helpers.scoring.precision_recall import precision_recall


def cloud(count: int, centre: float, seed: int) -> torch.Tensor:
    return centre + 0.1 * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def test_two_samples_of_one_distribution_cover_each_other():
    scores = precision_recall(cloud(300, 0, 1), cloud(300, 0, 2))
    assert scores.precision > 0.7 and scores.recall > 0.7


def test_a_missing_mode_costs_recall_alone():
    real = torch.cat([cloud(200, 0, 1), cloud(200, 5, 2)])
    scores = precision_recall(real, cloud(400, 0, 3))
    assert scores.precision > 0.7 and 0.3 < scores.recall < 0.55


def test_samples_of_no_mode_cost_precision_alone():
    samples = torch.cat([cloud(200, 0, 1), cloud(200, 5, 2)])
    scores = precision_recall(cloud(400, 0, 3), samples)
    assert 0.3 < scores.precision < 0.55 and scores.recall > 0.7


def test_sets_that_lie_apart_have_nothing():
    assert precision_recall(cloud(50, 0, 1), cloud(50, 9, 2)) == (0.0, 0.0)


def test_by_hand():
    real = torch.tensor([[0.0], [1.0], [3.0]])
    samples = torch.tensor([[0.9], [2.5], [9.0]])
    # radii with k = 1: real 1, 1, 2; samples 1.6, 1.6, 6.5
    assert precision_recall(real, samples, k=1) == pytest.approx((2 / 3, 1.0))


def test_a_common_offset_changes_nothing():
    """Distances by matrix products in float32 would."""
    real = cloud(60, 0, 1)
    samples = cloud(60, 0.1, 2)
    assert precision_recall(real.double() + 1e4, samples.double() + 1e4) == precision_recall(real, samples)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        precision_recall(torch.full((5, 2), torch.nan), torch.zeros(5, 2))


@pytest.mark.parametrize(
    ("shapes", "k", "message"),
    [(((5, 2), (5, 3)), 3, "two sets"), (((5, 2), (3, 2)), 3, "k must lie"), (((5, 2), (5, 2)), 0, "k must lie")],
)
def test_sets_that_cannot_be_compared_are_refused(shapes, k, message):
    with pytest.raises(ValueError, match=message):
        precision_recall(*(torch.zeros(shape) for shape in shapes), k=k)
