"""Questions about synthetic faces and their answers."""

from collections import Counter

import numpy as np
import pytest

from helpers.data import load_faces
from helpers.data.questions import (
    open_questions,
    sample_face_grid,
    sample_yes_no_question,
    species_name,
    yes_no_questions,
)
from helpers.data.toy_faces import PATTERNS, SPECIES, sample_attributes


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "val", 64, limit=24, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def test_answers_are_the_attributes(faces):
    for face in faces.attributes:
        answers = {question.topic: question.answer for question in open_questions(face)}
        assert answers == {
            "species": species_name(face.species),
            "fur": face.fur,
            "eyes": face.eyes,
            "background": face.background,
            "pattern": face.pattern,
        }


def test_exactly_one_of_the_names_is_right(faces):
    for face in faces.attributes:
        groups = yes_no_questions(face)
        for about in ("species", "fur", "eyes", "background", "pattern"):
            assert [question.answer for question in groups[about]].count("yes") == 1
        assert groups["mane"][0].answer == ("yes" if face.mane else "no")
        assert groups["tongue"][0].answer == ("yes" if face.tongue else "no")


def test_yes_is_about_as_often_right_as_no():
    rng = np.random.default_rng(0)
    faces = [sample_attributes(rng) for _ in range(200)]
    answers = Counter(sample_yes_no_question(face, rng).answer for face in 5 * faces)
    assert 0.45 < answers["yes"] / answers.total() < 0.55


def test_questions_are_about_the_chosen_attributes_only():
    rng = np.random.default_rng(0)
    faces = [sample_attributes(rng) for _ in range(100)]
    questions = [sample_yes_no_question(face, rng, ["pattern", "tongue"]) for face in 3 * faces]
    texts = {question.text for question in questions}
    assert texts == {"is its tongue out?"} | {f"is the fur {pattern}?" for pattern in PATTERNS}


def test_what_is_counted_is_there(faces):
    rng = np.random.default_rng(1)
    groups = [sample_face_grid(len(faces), rng) for _ in range(200)]
    for group in groups:
        counts = {question.text: int(question.answer) for question in group.counting(faces)}
        total = counts["how many animals are there?"]
        assert total == sum(i is not None for i in group.corners)
        assert total == sum(counts[f"how many {species_name(species, True)} are there?"] for species in SPECIES)
        corners = [question.answer for question in group.places(faces)]
        assert corners == ["nothing" if i is None else species_name(faces.attributes[i].species) for i in group.corners]
        for species in SPECIES:
            assert counts[f"how many {species_name(species, True)} are there?"] == corners.count(species_name(species))
    numbers = Counter(sum(i is not None for i in group.corners) for group in groups)
    assert set(numbers) == {1, 2, 3, 4} and min(numbers.values()) > 25


def test_a_grid_shows_its_faces(faces):
    group = sample_face_grid(len(faces), np.random.default_rng(3))
    image = group.render(faces)
    assert image.shape == (3, 64, 64) and image.dtype == np.uint8
    for i, position in enumerate(group.corners):
        corner = image[:, i // 2 * 32 :, i % 2 * 32 :][:, :32, :32].astype(float)
        if position is None:
            assert len(np.unique(corner.reshape(3, -1), axis=1).T) == 1
        else:
            small = faces.images[position][:, ::2, ::2].astype(float)
            assert np.corrcoef(corner.ravel(), small.ravel())[0, 1] > 0.95
