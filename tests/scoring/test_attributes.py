"""The attribute classifier: the one that ships must be right, and wrong input must be refused."""

import json

import pytest
import torch

from helpers.data.faces import to_float
from helpers.data.toy_faces import PAINTER_VERSION
from helpers.scoring import attributes
from helpers.scoring.attributes import (
    ATTRIBUTES,
    AttributeClassifier,
    augment,
    held_out_accuracy,
    load_classifier,
    main,
    render_faces,
    train,
)
from helpers.scoring.frechet import frechet_distance, kernel_distance
from helpers.weights import load_weights, weights_path


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


@pytest.fixture(scope="module")
def faces():
    images, expected = render_faces(150, seed=77)
    return to_float(images), expected


def test_the_shipped_classifier_is_right_about_new_faces(classifier):
    accuracy = held_out_accuracy(classifier, count=600, seed=123)  # not the seed that its training command reports
    assert accuracy["species"] >= 0.99
    assert min(accuracy.values()) >= 0.97, accuracy


def test_it_judges_the_face_and_not_the_brush(classifier):
    accuracy = held_out_accuracy(classifier, count=240, seed=124, augmented=True)
    assert accuracy["species"] >= 0.98 and min(accuracy.values()) >= 0.90, accuracy


def test_the_shipped_file_is_small_and_says_where_it_comes_from():
    metadata = load_weights(AttributeClassifier(), "scorer")
    assert metadata["command"].startswith("python -m helpers.scoring.attributes --steps")
    assert metadata["painter_version"] == PAINTER_VERSION, "the painter changed: train the scorer again"
    assert json.loads(metadata["held_out_accuracy"]).keys() == ATTRIBUTES.keys()
    assert weights_path("scorer").stat().st_size < 1_000_000
    assert sum(p.numel() for p in AttributeClassifier().parameters()) < 400_000


def test_training_and_held_out_faces_differ_from_each_other_and_from_every_data_set():
    seeds = {attributes.TRAIN_SEED, attributes.HELD_OUT_SEED}
    assert len(seeds) == 2 and min(seeds) > 1_000_000 and abs(attributes.TRAIN_SEED - attributes.HELD_OUT_SEED) > 1000


@pytest.mark.parametrize("size", [32, 48, 128])
def test_images_of_another_size_are_classified_alike(classifier, faces, size):
    images, expected = faces
    other = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    agreement = classifier.agreement(other, expected)
    assert agreement["species"] >= 0.98 and min(agreement.values()) >= 0.85, agreement


def test_a_prediction_does_not_depend_on_the_batch(classifier, faces, monkeypatch):
    images = faces[0][:40]
    together = classifier.features(images)
    assert together.shape == (40, 128) and not together.requires_grad
    torch.testing.assert_close(classifier.features(images[7:8]), together[7:8], atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(attributes, "CHUNK", 16)
    classifier.train()
    torch.testing.assert_close(classifier.features(images), together, atol=1e-4, rtol=1e-4)
    assert classifier.training
    classifier.eval()


def test_agreement_is_the_share_of_correct_predictions(classifier, faces):
    images, expected = faces
    everything = classifier.agreement(images, expected)
    assert everything.keys() == ATTRIBUTES.keys()
    assert classifier.agreement(images, {"species": [face.species for face in expected]}) == {
        "species": everything["species"]
    }
    predictions = classifier.predict(images)
    assert classifier.agreement(images, predictions) == dict.fromkeys(ATTRIBUTES, 1.0)
    assert classifier.agreement(images, {"fur": (predictions["fur"] + 1) % 6}) == {"fur": 0.0}
    cats = sum(name == "cat" for name in classifier.predict_names(images)["species"])
    assert classifier.agreement(images, {"species": "cat"})["species"] == pytest.approx(cats / len(images))


def test_noise_and_grey_agree_at_chance_only(classifier):
    """A score must fall when there is no face: at 99 % for real faces and 99 % for noise it would say nothing."""
    noise = torch.rand(120, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = render_faces(120, seed=5)[1]
    for images in (noise, torch.zeros(120, 3, 64, 64)):
        agreement = classifier.agreement(images, expected)
        assert agreement["species"] < 0.5 and all(value < 0.55 for value in agreement.values()), agreement


def test_features_rank_sets_of_images(classifier, faces):
    """Other faces of the same painter are near, augmented ones further, one species alone furthest."""
    images = faces[0]
    same = to_float(render_faces(150, seed=78)[0])
    augmented = augment(same, torch.Generator().manual_seed(0))
    cats = same[::3].repeat(3, 1, 1, 1)
    for distance in (frechet_distance, kernel_distance):
        values = [
            distance(classifier.features(images), classifier.features(other)).value for other in (same, augmented, cats)
        ]
        assert values == sorted(values) and values[2] > 3 * abs(values[0]), values


@pytest.mark.parametrize(
    "images, error, message",
    [
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), TypeError, "to_float converts"),
        (torch.full((2, 3, 64, 64), 200.0), ValueError, "are they 0..255"),
        (torch.full((2, 3, 64, 64), float("nan")), ValueError, "diverged"),
        (torch.zeros(2, 64, 64), ValueError, "square images"),
        (torch.zeros(2, 1, 64, 64), ValueError, "square images"),
        (torch.zeros(2, 3, 64, 32), ValueError, "square images"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(classifier, images, error, message):
    with pytest.raises(error, match=message):
        classifier.predict(images)


@pytest.mark.parametrize(
    "expected, message",
    [
        ({"species": "horse"}, "unknown species 'horse'; there are: cat, dog, wild"),
        ({"hat": "red"}, "no attribute 'hat'; it has species"),
        ({"fur": ["black"] * 3}, "150 images, but 3 expected values of fur"),
    ],
)
def test_unknown_expectations_are_refused(classifier, faces, expected, message):
    with pytest.raises(ValueError, match=message):
        classifier.agreement(faces[0], expected)


def test_no_images_have_no_agreement(classifier, faces):
    with pytest.raises(ValueError, match="no images"):
        classifier.agreement(faces[0][:0], [])


def test_training_learns_and_repeats_itself(faces):
    images, expected = render_faces(60, seed=79)

    def losses():
        torch.manual_seed(3)
        return list(train(AttributeClassifier(), images, expected, steps=10, seed=0, batch_size=16))

    first = losses()
    assert first == losses()
    assert sum(first[-3:]) < 0.9 * sum(first[:3])


def test_the_command_trains_scores_and_writes(tmp_path, capsys):
    out = tmp_path / "tiny.safetensors"
    main(["--steps", "2", "--faces", "20", "--held-out", "6", "--seed", "4", "--out", str(out)])
    metadata = load_weights(AttributeClassifier(), out)
    assert metadata["command"].endswith("--steps 2 --faces 20 --held-out 6 --seed 4")
    assert json.loads(metadata["held_out_accuracy"]) == held_out_accuracy_of(out)
    assert "held-out accuracy, clean: species" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--steps", "0"])


def held_out_accuracy_of(path):
    classifier = AttributeClassifier()
    load_weights(classifier, path)
    return held_out_accuracy(classifier, count=6, seed=4)
