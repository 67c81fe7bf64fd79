"""The classifier of photographs: its groups, its arithmetic, and, where its packages are, its predictions."""

import itertools

import pytest
import torch

from helpers.scoring.photographs import GROUPS, PhotographClassifier, agreement, species


def probabilities(*rows: dict[int, float]) -> torch.Tensor:
    table = torch.zeros(len(rows), 1000)
    for values, row in zip(table, rows, strict=True):
        for index, value in row.items():
            values[index] = value
    return table


def test_groups_do_not_overlap():
    every = list(itertools.chain.from_iterable(GROUPS.values()))
    assert len(every) == len(set(every)) == 5 + 118 + 20


def test_many_weak_votes_for_a_group_beat_one_stronger_class():
    seen = probabilities({281: 0.3, 151: 0.2, 152: 0.2}, {292: 0.1, 700: 0.9})
    assert species(seen) == ["dog", "wild"]
    assert agreement(seen, ["dog", "wild"]) == {"of three": 1.0, "of a thousand": 0.0}


def test_expectations_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 images need as many"):
        agreement(probabilities({}, {}), ["cat"])
    with pytest.raises(ValueError, match="horse"):
        agreement(probabilities({}), ["horse"])


def test_without_its_packages_it_says_how_to_get_them(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite-pytorch==0.1.0"):
        PhotographClassifier()


def test_it_classifies_images_of_any_size():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the classifier of photographs is not installed")
    seen, features = PhotographClassifier().predict(torch.rand(2, 3, 48, 48) * 2 - 1)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(seen.sum(1), torch.ones(2))
