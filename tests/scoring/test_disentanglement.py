"""Scores of codes that are made to be good, mixed or useless."""

import pytest
import torch

from helpers.scoring.disentanglement import dci, mig, mutual_information, sap


@pytest.fixture(scope="module")
def attributes():
    return torch.randint(4, (3000, 3), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def codes(attributes):
    generator = torch.Generator().manual_seed(1)
    own = attributes.float() + 0.05 * torch.randn(attributes.shape, generator=generator)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    spare = torch.randn(3000, 2, generator=generator)
    return {
        "one each": torch.cat([own, spare], 1),
        "mixed": torch.cat([own @ turn, spare], 1),
        "nothing": torch.randn(3000, 5, generator=generator),
    }


def test_scores_rank_codes_as_they_should(codes, attributes):
    told = {
        name: (mig(some, attributes), sap(some, attributes), *dci(some, attributes)[:2]) for name, some in codes.items()
    }
    for i in range(4):
        assert told["one each"][i] > 0.4 and told["one each"][i] > 2 * told["mixed"][i], told
    assert told["nothing"][0] < 0.02 and told["nothing"][1] < 0.05


def test_informativeness_does_not_mind_a_turn(codes, attributes):
    assert dci(codes["one each"], attributes)[2] > 0.9 and dci(codes["nothing"], attributes)[2] < 0.35


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
