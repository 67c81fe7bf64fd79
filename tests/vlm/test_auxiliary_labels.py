"""The labels that the vision tower learns beside the answers."""

import numpy as np
import pytest
import torch

from benchmarks.paligemma.reference import PROCESSOR, SMALL
from helpers.data import load_faces
from helpers.data.questions import FaceGrid
from helpers.vlm.auxiliary_labels import (
    CORNER_CLASSES,
    FACE_CLASSES,
    UNLABELLED,
    WithAuxiliaryHeads,
    face_labels,
    grid_labels,
)
from helpers.vlm.paligemma import PaliGemmaModel


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "val", 64, limit=24, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return WithAuxiliaryHeads(PaliGemmaModel(SMALL))


def test_labels_are_the_attributes(faces):
    for face in faces.attributes:
        labels = face_labels(face)
        named = {name: choices[i] for (name, choices), i in zip(FACE_CLASSES.items(), labels, strict=False)}
        assert named == {name: getattr(face, name) for name in FACE_CLASSES}
        assert set(labels[len(FACE_CLASSES) :]) == {UNLABELLED}
    labels = grid_labels(FaceGrid((3, None, None, 5), 0), faces)
    species = [faces.attributes[3].species, None, None, faces.attributes[5].species]
    assert [CORNER_CLASSES[i] for i in labels[len(FACE_CLASSES) :]] == species
    assert set(labels[: len(FACE_CLASSES)]) == {UNLABELLED}


def test_each_corner_is_classified_from_its_quarter(model):
    species = (1, 3, 0, 2)
    states = torch.zeros(1, 4, 4, SMALL.vision.width)
    for corner, index in enumerate(species):  # the first channels of a state are one-hot
        states[0, corner // 2 * 2 :, corner % 2 * 2 :][:2, :2] = 100 * torch.eye(4, SMALL.vision.width)[index]
    with torch.no_grad():
        model.corner.weight.copy_(torch.eye(4, SMALL.vision.width))
        model.corner.bias.zero_()
        labels = torch.tensor([[UNLABELLED] * len(FACE_CLASSES) + list(species)])
        swapped = torch.tensor([[UNLABELLED] * len(FACE_CLASSES) + list(species[::-1])])
        right = model.label_losses(states.flatten(1, 2), labels)
        wrong = model.label_losses(states.flatten(1, 2), swapped)
    assert right.item() == pytest.approx(0, abs=1e-6) and wrong.item() > 50


def test_unlabelled_entries_have_no_loss(model):
    states = torch.randn(2, 16, SMALL.vision.width)
    unlabelled = torch.full((2, len(FACE_CLASSES) + 4), UNLABELLED)
    assert model.label_losses(states, unlabelled).tolist() == [0, 0]


def test_label_losses_are_added_to_answer_losses(model, faces):
    images = list(torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    one_row_each = PROCESSOR(images, ["caption en"] * 2, ["a cat"] * 2)
    batch = one_row_each._replace(
        ids=one_row_each.ids.repeat_interleave(2, 0),
        attention_mask=one_row_each.attention_mask.repeat_interleave(2, 0),
        suffix=one_row_each.suffix.repeat_interleave(2, 0),
    )
    labels = torch.tensor([face_labels(face) for face in faces.attributes[:2]])
    with torch.no_grad():
        total = model(batch, labels)
        answer_losses = model.model(batch)
        label_losses = model.label_losses(model.model.vision(batch.images), labels)
    np.testing.assert_allclose(total - answer_losses, label_losses.repeat_interleave(2), rtol=1e-4)
