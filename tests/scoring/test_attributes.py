"""The reader of faces: the one that ships must be right, and asking it wrongly must be noticed."""

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
    drawn,
    held_out_accuracy,
    load_classifier,
    main,
    train,
)
from helpers.scoring.frechet import frechet_distance, kernel_distance
from helpers.weights import load_weights, weights_path


@pytest.fixture(scope="module")
def reader():
    return load_classifier()


@pytest.fixture(scope="module")
def faces():
    images, wanted = drawn(150, seed=77)
    return to_float(images), wanted


def test_the_shipped_reader_is_right_about_faces_drawn_now(reader):
    accuracy = held_out_accuracy(reader, count=600, seed=123)  # not the seed that its training command reports
    assert accuracy["species"] >= 0.99
    assert min(accuracy.values()) >= 0.97, accuracy


def test_it_judges_the_face_and_not_the_brush(reader):
    accuracy = held_out_accuracy(reader, count=240, seed=124, flawed=True)
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
def test_pictures_of_another_size_are_read_alike(reader, faces, size):
    images, wanted = faces
    other = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    agreement = reader.agreement(other, wanted)
    assert agreement["species"] >= 0.98 and min(agreement.values()) >= 0.85, agreement


def test_what_is_read_does_not_depend_on_the_company(reader, faces, monkeypatch):
    images = faces[0][:40]
    together = reader.features(images)
    assert together.shape == (40, 128) and not together.requires_grad
    torch.testing.assert_close(reader.features(images[7:8]), together[7:8], atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(attributes, "CHUNK", 16)
    reader.train()
    torch.testing.assert_close(reader.features(images), together, atol=1e-4, rtol=1e-4)
    assert reader.training
    reader.eval()


def test_agreement_counts_what_was_asked(reader, faces):
    images, wanted = faces
    everything = reader.agreement(images, wanted)
    assert everything.keys() == ATTRIBUTES.keys()
    assert reader.agreement(images, {"species": [one.species for one in wanted]}) == {"species": everything["species"]}
    found = reader.predict(images)
    assert reader.agreement(images, found) == dict.fromkeys(ATTRIBUTES, 1.0)
    assert reader.agreement(images, {"fur": (found["fur"] + 1) % 6}) == {"fur": 0.0}
    cats = sum(name == "cat" for name in reader.predict_names(images)["species"])
    assert reader.agreement(images, {"species": "cat"})["species"] == pytest.approx(cats / len(images))


def test_noise_and_grey_agree_at_chance_only(reader):
    """A score must fall when there is no face: at 99 % for real faces and 99 % for noise it would say nothing."""
    noise = torch.rand(120, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = drawn(120, seed=5)[1]
    for pictures in (noise, torch.zeros(120, 3, 64, 64)):
        agreement = reader.agreement(pictures, wanted)
        assert agreement["species"] < 0.5 and all(value < 0.55 for value in agreement.values()), agreement


def test_features_rank_sets_of_pictures(reader, faces):
    """Other faces of the same painter are near, flawed ones further, one species alone furthest."""
    images = faces[0]
    same = to_float(drawn(150, seed=78)[0])
    flawed = augment(same, torch.Generator().manual_seed(0))
    cats = same[::3].repeat(3, 1, 1, 1)
    for distance in (frechet_distance, kernel_distance):
        values = [distance(reader.features(images), reader.features(other)).value for other in (same, flawed, cats)]
        assert values == sorted(values) and values[2] > 3 * abs(values[0]), values


@pytest.mark.parametrize(
    "pictures, error, said",
    [
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), TypeError, "to_float converts"),
        (torch.full((2, 3, 64, 64), 200.0), ValueError, "are they 0..255"),
        (torch.full((2, 3, 64, 64), float("nan")), ValueError, "diverged"),
        (torch.zeros(2, 64, 64), ValueError, "square pictures"),
        (torch.zeros(2, 1, 64, 64), ValueError, "square pictures"),
        (torch.zeros(2, 3, 64, 32), ValueError, "square pictures"),
    ],
)
def test_pictures_that_are_none_are_refused(reader, pictures, error, said):
    with pytest.raises(error, match=said):
        reader.predict(pictures)


@pytest.mark.parametrize(
    "wanted, said",
    [
        ({"species": "horse"}, "unknown species 'horse'; there are: cat, dog, wild"),
        ({"hat": "red"}, "no attribute 'hat'; it reads species"),
        ({"fur": ["black"] * 3}, "150 pictures, but 3 wanted fur"),
    ],
)
def test_wishes_that_are_none_are_refused(reader, faces, wanted, said):
    with pytest.raises(ValueError, match=said):
        reader.agreement(faces[0], wanted)


def test_no_pictures_have_no_agreement(reader, faces):
    with pytest.raises(ValueError, match="no picture"):
        reader.agreement(faces[0][:0], [])


def test_training_learns_and_repeats_itself(faces):
    images, wanted = drawn(60, seed=79)

    def losses():
        torch.manual_seed(3)
        return list(train(AttributeClassifier(), images, wanted, steps=10, seed=0, batch=16))

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
    reader = AttributeClassifier()
    load_weights(reader, path)
    return held_out_accuracy(reader, count=6, seed=4)
