"""The labels that the vision tower learns beside the answers."""

import numpy as np
import pytest
import torch

from benchmarks.paligemma.reference import PROCESSOR, SMALL
from helpers.data import load_faces
from helpers.data.questions import FaceGrid
from helpers.vlm.auxiliary_labels import (
    CORNER,
    UNLABELLED,
    WHOLE,
    WithAuxiliaryHeads,
    labels_of_face,
    labels_of_several,
)
from helpers.vlm.paligemma import PaliGemmaModel


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "val", 64, limit=24, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def taught():
    torch.manual_seed(0)
    return WithAuxiliaryHeads(PaliGemmaModel(SMALL))


def test_labels_are_the_attributes(faces):
    for face in faces.attributes:
        labels = labels_of_face(face)
        named = {name: choices[i] for (name, choices), i in zip(WHOLE.items(), labels, strict=False)}
        assert named == {name: getattr(face, name) for name in WHOLE} and set(labels[len(WHOLE) :]) == {UNLABELLED}
    labels = labels_of_several(FaceGrid((3, None, None, 5), 0), faces)
    there = [faces.attributes[3].species, None, None, faces.attributes[5].species]
    assert [CORNER[i] for i in labels[len(WHOLE) :]] == there and set(labels[: len(WHOLE)]) == {UNLABELLED}


def test_each_corner_is_read_from_its_own_quarter(taught):
    species = (1, 3, 0, 2)
    states = torch.zeros(1, 4, 4, SMALL.vision.width)
    for corner, kind in enumerate(species):  # a state's first numbers say what is there
        states[0, corner // 2 * 2 :, corner % 2 * 2 :][:2, :2] = 100 * torch.eye(4, SMALL.vision.width)[kind]
    with torch.no_grad():
        taught.corner.weight.copy_(torch.eye(4, SMALL.vision.width))
        taught.corner.bias.zero_()
        told = [torch.tensor([[UNLABELLED] * len(WHOLE) + list(one)]) for one in (species, species[::-1])]
        right, wrong = (taught.label_losses(states.flatten(1, 2), one) for one in told)
    assert right.item() == pytest.approx(0, abs=1e-6) and wrong.item() > 50


def test_what_is_not_labelled_costs_nothing(taught):
    states = torch.randn(2, 16, SMALL.vision.width)
    nothing = torch.full((2, len(WHOLE) + 4), UNLABELLED)
    assert taught.label_losses(states, nothing).tolist() == [0, 0]


def test_labels_are_added_to_what_the_answers_cost(taught, faces):
    pictures = list(torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    asked = PROCESSOR(pictures, ["caption en"] * 2, ["a cat"] * 2)
    batch = asked._replace(
        ids=asked.ids.repeat_interleave(2, 0),
        real=asked.real.repeat_interleave(2, 0),
        suffix=asked.suffix.repeat_interleave(2, 0),
    )
    labels = torch.tensor([labels_of_face(face) for face in faces.attributes[:2]])
    with torch.no_grad():
        both = taught(batch, labels)
        answers = taught.model(batch)
        more = taught.label_losses(taught.model.vision(batch.pictures), labels)
    np.testing.assert_allclose(both - answers, more.repeat_interleave(2), rtol=1e-4)
