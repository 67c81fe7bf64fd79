"""Questions about drawn faces and their answers."""

from collections import Counter

import numpy as np
import pytest

from helpers.data import load_faces
from helpers.data.questions import a_yes_no_question, animal, open_questions, sample_face_grid, yes_no_questions
from helpers.data.toy_faces import PATTERNS, SPECIES, sample_attributes


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "val", 64, limit=24, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def test_answers_are_the_attributes(faces):
    for face in faces.attributes:
        said = {one.kind: one.answer for one in open_questions(face)}
        assert said == {
            "species": animal(face.species),
            "fur": face.fur,
            "eyes": face.eyes,
            "background": face.background,
            "pattern": face.pattern,
        }


def test_exactly_one_of_the_names_is_right(faces):
    for face in faces.attributes:
        groups = yes_no_questions(face)
        for about in ("species", "fur", "eyes", "background", "pattern"):
            assert [one.answer for one in groups[about]].count("yes") == 1
        assert groups["mane"][0].answer == ("yes" if face.mane else "no")
        assert groups["tongue"][0].answer == ("yes" if face.tongue else "no")


def test_yes_is_about_as_often_right_as_no():
    rng = np.random.default_rng(0)
    faces = [sample_attributes(rng) for _ in range(200)]
    answers = Counter(a_yes_no_question(face, rng).answer for face in faces for _ in range(5))
    assert 0.45 < answers["yes"] / answers.total() < 0.55


def test_only_what_was_wished_is_asked_about():
    rng = np.random.default_rng(0)
    faces = [sample_attributes(rng) for _ in range(100)]
    asked = [a_yes_no_question(face, rng, ["pattern", "tongue"]) for face in faces for _ in range(3)]
    assert {one.text for one in asked if "fur" not in one.text} == {"is its tongue out?"}
    assert {one.text for one in asked if "fur" in one.text} == {f"is the fur {pattern}?" for pattern in PATTERNS}


def test_what_is_counted_is_there(faces):
    rng = np.random.default_rng(1)
    groups = [sample_face_grid(len(faces), rng) for _ in range(200)]
    for group in groups:
        said = {one.text: int(one.answer) for one in group.counting(faces)}
        total = said["how many animals are there?"]
        assert total == sum(i is not None for i in group.corners)
        assert total == sum(said[f"how many {animal(one, True)} are there?"] for one in SPECIES)
        corners = [one.answer for one in group.places(faces)]
        assert corners == ["nothing" if i is None else animal(faces.attributes[i].species) for i in group.corners]
        assert all(said[f"how many {animal(one, True)} are there?"] == corners.count(animal(one)) for one in SPECIES)
    numbers = Counter(sum(i is not None for i in group.corners) for group in groups)
    assert set(numbers) == {1, 2, 3, 4} and min(numbers.values()) > 25


def test_a_picture_of_several(faces):
    group = sample_face_grid(len(faces), np.random.default_rng(3))
    picture = group.picture(faces)
    assert picture.shape == (3, 64, 64) and picture.dtype == np.uint8
    for i, position in enumerate(group.corners):
        corner = picture[:, i // 2 * 32 :, i % 2 * 32 :][:, :32, :32].astype(float)
        if position is None:
            assert len(np.unique(corner.reshape(3, -1), axis=1).T) == 1
        else:
            small = faces.images[position][:, ::2, ::2].astype(float)
            assert np.corrcoef(corner.ravel(), small.ravel())[0, 1] > 0.95
