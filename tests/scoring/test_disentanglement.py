"""Scores of latents that are good, mixed or useless by construction."""

import pytest
import torch

from helpers.scoring.disentanglement import dci, mig, mutual_information, sap


@pytest.fixture(scope="module")
def attributes():
    return torch.randint(4, (3000, 3), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def latents(attributes):
    generator = torch.Generator().manual_seed(1)
    aligned = attributes.float() + 0.05 * torch.randn(attributes.shape, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    spare = torch.randn(3000, 2, generator=generator)
    return {
        "one each": torch.cat([aligned, spare], 1),
        "mixed": torch.cat([aligned @ rotation, spare], 1),
        "nothing": torch.randn(3000, 5, generator=generator),
    }


def test_scores_rank_latents_as_they_should(latents, attributes):
    scores = {}
    for name, z in latents.items():
        scores[name] = (mig(z, attributes), sap(z, attributes), *dci(z, attributes)[:2])
    for i in range(4):
        assert scores["one each"][i] > 0.4 and scores["one each"][i] > 2 * scores["mixed"][i], scores
    assert scores["nothing"][0] < 0.02 and scores["nothing"][1] < 0.05


def test_informativeness_does_not_depend_on_a_rotation(latents, attributes):
    assert dci(latents["one each"], attributes)[2] > 0.9 and dci(latents["nothing"], attributes)[2] < 0.35


def test_mutual_information_of_a_copy_is_the_entropy(attributes):
    known, entropy = mutual_information(attributes.float(), attributes)
    torch.testing.assert_close(known.diagonal(), entropy)
    assert known[0, 1] < 0.01


def test_rare_values_are_seen():
    rare = (torch.arange(1000) >= 30).long()[:, None]
    known, entropy = mutual_information(rare.float(), rare)
    assert known.item() == pytest.approx(entropy.item())


def test_shapes_are_checked(attributes):
    with pytest.raises(ValueError, match="got \\(10, 2\\) and \\(3000, 3\\)"):
        mutual_information(torch.zeros(10, 2), attributes)
