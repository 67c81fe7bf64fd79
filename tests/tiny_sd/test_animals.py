"""Generated animals, measured: counted evaluations, scores that notice faults, records, claims, the image."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.report import Row
from benchmarks.tiny_sd import animals, animals_image
from benchmarks.tiny_sd.animals_baselines import autoencoder_alone, autoencoder_rows, baseline
from benchmarks.tiny_sd.animals_scores import (
    CHOICE_SEED,
    SEED,
    Photographs,
    Sampling,
    Trial,
    balanced,
    best,
    choose_sampling,
    colour_range,
    evaluate,
    generate,
    nearest_training,
)
from helpers.data import Faces
from helpers.data.faces import to_float
from helpers.scoring.photographs import GROUPS
from helpers.tiny_sd.codecs import PretrainedCodec, TrainedCodec
from helpers.weights import TRAINING_COMMANDS, read_metadata

CLASSES = ("cat", "dog", "wild")
FAST = Sampling(2.0, steps=2)


def coloured(labels, seed: int, size: int = 16) -> torch.Tensor:
    """Noise, uint8 (N, 3, size, size), whose strongest channel is the label's: cats are red, dogs green."""
    noise = torch.randint(0, 120, (len(labels), 3, size, size), generator=torch.Generator().manual_seed(seed))
    for image, label in zip(noise, labels, strict=True):
        image[label] += 130
    return noise.to(torch.uint8)


def faces(per_class: tuple[int, int, int], split: str, seed: int) -> Faces:
    labels = np.repeat(np.arange(3), per_class)
    return Faces(coloured(labels, seed).numpy(), labels, CLASSES, source="animal-faces", split=split)


class ColourJudge:
    """Sees the class of the strongest channel; its features are coarse pixels."""

    def predict(self, images):
        probabilities = torch.zeros(len(images), 1000)
        strongest = images.mean((2, 3)).argmax(1)
        firsts = torch.tensor([GROUPS[name][0] for name in CLASSES])
        probabilities[torch.arange(len(images)), firsts[strongest]] = 1
        return probabilities, torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


@pytest.fixture
def photographs() -> Photographs:
    return Photographs(faces((30, 24, 20), "train", 1), faces((26, 22, 20), "val", 2))


@pytest.fixture
def animal_model(model, monkeypatch):
    """A tiny untrained network, whose samples are replaced by coloured noise; the network is evaluated all the same."""
    really = model.generate

    def generate(labels, *, seed=0, progress=False, **options):
        really(labels, seed=seed, **options)
        numbers = [CLASSES.index(label) for label in labels]
        return torch.cat([to_float(coloured([number], 100_000 + seed + i)) for i, number in enumerate(numbers)])

    monkeypatch.setattr(model, "generate", generate)
    return model


# Scores


@pytest.mark.parametrize(
    ("sampling", "evaluations"),
    [
        (Sampling(2.0, steps=4), 8),
        (Sampling(1.0, steps=4), 4),
        (Sampling(2.0, (0.0, 0.6), steps=4), 6),
    ],
)
def test_evaluations_of_the_network_are_counted(model, sampling, evaluations):
    images, counted = generate(model, ["cat", "dog", "dog"], sampling, seed=3)
    assert counted == evaluations
    torch.testing.assert_close(images, model.generate(["cat", "dog", "dog"], seed=3, **sampling.arguments()))


def test_a_sampling_that_costs_too_much_is_refused_before_the_work(model, monkeypatch):
    counts = []
    really = model.generate

    def counted(labels, **options):
        counts.append(len(labels))
        return really(labels, **options)

    monkeypatch.setattr(model, "generate", counted)
    with pytest.raises(ValueError, match="evaluate the network 52 times"):
        generate(model, ["cat"] * 5, Sampling(2.0, steps=26), seed=0)
    assert counts == [1]


def test_good_images_score_well_and_the_scores_are_json(animal_model, photographs):
    scores, images = evaluate(animal_model, ColourJudge(), photographs, FAST, per_class=20)
    assert json.loads(json.dumps(scores))["sampling"] == {
        "guidance_scale": 2.0,
        "interval": [0.0, 1.0],
        "steps": 2,
        "sampler": "dpm_solver_pp_2m",
    }
    assert len(images) == scores["n"] == 60 and scores["held_out"] == 60 and scores["seed"] == SEED
    assert scores["evaluations"] == 4 and scores["images_per_second"] > 0
    assert scores["agreement"] == {name: {"of three": 1.0, "of a thousand": 1.0} for name in ("overall", *CLASSES)}
    assert abs(scores["kid"]["value"]) < 3 * scores["kid"]["standard_error"]
    assert scores["precision"] > 0.7 and scores["recall"] > 0.7
    assert 0.9 < scores["nearest_training"]["ratio"] < 1.1 and scores["nearest_training"]["suspects"] <= 2


def test_without_photographs_only_the_judge_scores(animal_model):
    scores, _ = evaluate(animal_model, ColourJudge(), None, FAST, per_class=2)
    assert "agreement" in scores and not {"kid", "precision", "nearest_training"} & set(scores)


def test_dogs_that_look_like_cats_and_a_foreign_distribution_are_noticed(animal_model, photographs, monkeypatch):
    good, _ = evaluate(animal_model, ColourJudge(), photographs, FAST, per_class=20)
    ours = animal_model.generate
    monkeypatch.setattr(
        animal_model,
        "generate",
        lambda labels, **options: 0.3 * ours(["cat" if label == "dog" else label for label in labels], **options),
    )
    bad, _ = evaluate(animal_model, ColourJudge(), photographs, FAST, per_class=20)
    shares = {name: share["of three"] for name, share in bad["agreement"].items()}
    assert shares == {"overall": pytest.approx(2 / 3), "cat": 1, "dog": 0, "wild": 1}
    assert bad["kid"]["value"] > good["kid"]["value"] + 3 * good["kid"]["standard_error"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_of_training_photographs_are_suspects_also_when_mirrored(photographs, mirrored):
    held_out = photographs.held_out.tensor()
    copies = photographs.training.tensor(np.arange(0, 74, 6))
    near = nearest_training(copies.flip(-1) if mirrored else copies, held_out, photographs.training.images)
    assert near["ratio"] == near["smallest"] == 0 and near["suspects"] == len(copies) == 13
    assert near["smallest_held_out"] > 0.1 and near["suspects_by_chance"] == pytest.approx(0.13)


class HalfContrast:
    """A codec whose images come back pale."""

    def encode(self, images):
        return images / 2

    def decode(self, latents):
        return latents

    def describe(self):
        return "pixels"


def test_an_autoencoder_is_scored_by_what_it_leaves_of_photographs(photographs, model):
    plain = baseline(ColourJudge(), photographs, per_class=20)
    pale = baseline(ColourJudge(), photographs, per_class=20, codec=HalfContrast())
    assert pale["n"] == plain["n"] == 60 and pale["agreement"] == plain["agreement"]
    assert pale["kid"]["value"] > plain["kid"]["value"] + 3 * pale["kid"]["standard_error"]
    assert autoencoder_alone(model, ColourJudge(), photographs) == {}, "pixels have none"


def test_samples_that_were_clipped_do_not_reach_the_colours_of_photographs():
    """The predecessor's red reached from 0.256 to 0.714 of full scale: less than half of what the data had."""
    data = 2 * torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    clipped = data.clone()
    clipped[:, 0] = data[:, 0].clamp(2 * 0.256 - 1, 2 * 0.714 - 1)
    assert colour_range(data, data) == {"red": 1, "green": 1, "blue": 1}
    share = colour_range(clipped, data)
    assert share["red"] == pytest.approx(0.458, abs=0.02) and share["green"] == 1


def test_balanced_positions_are_all_different_or_refused(photographs):
    chosen = balanced(photographs.training, 20)
    assert len(set(chosen)) == 60 and np.bincount(photographs.training.labels[chosen]).tolist() == [20, 20, 20]
    with pytest.raises(ValueError, match="21 images of every class are needed, and one class has 20"):
        balanced(photographs.training, 21)


# How to sample


def test_the_lowest_kid_among_the_best_judged_is_chosen():
    mild, middle, strong = (Sampling(scale) for scale in (1.5, 3.0, 5.0))
    trials = [Trial(mild, 0.80, 0.01, 0.5), Trial(middle, 0.955, 0.02, 0.2), Trial(strong, 0.97, 0.05, 0.3)]
    assert best(trials) == middle
    assert best([trials[0], trials[2]]) == strong


def test_of_equally_good_samplings_the_most_varied_is_chosen():
    always, interval = Sampling(7.0), Sampling(7.0, (0.2, 0.8), 30)
    assert best([Trial(always, 0.98, 0.030, 0.08), Trial(interval, 0.97, 0.032, 0.20)]) == interval
    assert best([Trial(always, 0.98, 0.030, 0.08), Trial(interval, 0.97, 0.040, 0.20)]) == always


def test_sampling_is_chosen_on_other_noise_and_on_training_photographs(animal_model, photographs, monkeypatch):
    seeds = []
    ours = animal_model.generate

    def watched(labels, *, seed, **options):
        seeds.append(seed)
        return ours(labels, seed=seed, **options)

    monkeypatch.setattr(animal_model, "generate", watched)
    candidates = [Sampling(2.0, steps=1), Sampling(3.0, steps=1)]
    chosen, trials = choose_sampling(animal_model, ColourJudge(), photographs.training, candidates, per_class=4)
    assert chosen in candidates and [trial.sampling for trial in trials] == candidates
    assert set(seeds) == {CHOICE_SEED}
    assert SEED + 3 * 100 < CHOICE_SEED  # no image of the choice has the noise of a judged one


# The record and its claims


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty repository: no weights, no record."""
    for module in ("helpers.weights.shipped", "benchmarks.tiny_sd.animals", "benchmarks.tiny_sd.animals_image"):
        monkeypatch.setattr(f"{module}.repository_root", lambda: tmp_path)
    monkeypatch.setattr("helpers.data.animal_faces.photographs_available", lambda size: False)
    monkeypatch.setattr(animals, "evaluate", lambda *some, **options: evaluate(*some, **{"per_class": 20} | options))
    return tmp_path


def put(model, name: str, seed: str = "1") -> None:
    model.save(
        animals.weights_path(name),
        {
            "command": "python -m helpers.tiny_sd.train",
            "seed": seed,
            "steps": "7",
            "core_minutes": "3.5",
            "encoding_core_minutes": "1.0",
        },
    )


@pytest.fixture
def measured(shelf, model, animal_model, photographs, monkeypatch):
    """One network with weights and a record; the weights on the shelf give the coloured samples too."""
    put(model, "tiny_sd_animals")
    monkeypatch.setattr(animals.TinySD, "from_weights", lambda name, autoencoder=None: animal_model)
    animals.write(
        "photographs",
        "16",
        {"counts": animals.counts_of(photographs), **baseline(ColourJudge(), photographs, per_class=20)},
    )
    animals.measure("tiny_sd_animals", ColourJudge(), photographs, FAST, "the command")
    return shelf


def rows_by_name(rows: list[Row]) -> dict[str, Row]:
    assert len({row.name for row in rows}) == len(rows), "two rows say the same"
    return {row.name.removeprefix("real animals, Method 2, 64 px: "): row for row in rows}


def test_networks_that_are_not_there_are_short(shelf, monkeypatch):
    monkeypatch.setattr(animals, "_judge", lambda: None)
    rows = animals.check()
    assert [row.measured for row in rows] == ["none yet"] * 4 and not any(row.ok for row in rows)


def test_weights_without_scores_and_other_weights_are_short(measured, model, monkeypatch):
    monkeypatch.setattr(animals, "_judge", ColourJudge)
    put(model, "tiny_sd_animals_own")
    assert [row.measured for row in animals.check()].count("never measured") == 2  # its scores; the FID of the other
    torch.nn.init.ones_(model.unet.norm.weight)
    torch.nn.init.ones_(model.unet.norm.bias)
    put(model, "tiny_sd_animals", seed="2")
    assert "measured with other weights" in [row.measured for row in animals.check()]


def test_what_can_be_recomputed_is(measured, monkeypatch):
    monkeypatch.setattr(animals, "_judge", ColourJudge)
    rows = rows_by_name(animals._rows("tiny_sd_animals", ColourJudge()))
    assert rows["judged as asked, overall (60 samples, recomputed)"] == (
        "real animals, Method 2, 64 px: judged as asked, overall (60 samples, recomputed)",
        "100 %",
        ">= 97 %",
        True,
    )
    assert rows["judged as asked, dog (20 samples, recomputed)"].expected == ">= 92 %"
    kid = rows["KID to held-out photographs, judge's features (from the record: no photographs here)"]
    assert kid.expected == "<= 0.03" and "n = 60 and 60" in kid.measured
    assert rows["network evaluations for an image"].expected == "<= 50"
    assert rows["trained"].measured == "4 core minutes, 7 steps"
    assert not rows["FID, 500 against 500 photographs of each class (from the record)"].ok


def test_photographs_at_hand_are_used_only_if_they_are_those_of_the_record(measured, photographs, monkeypatch):
    monkeypatch.setattr("helpers.data.animal_faces.photographs_available", lambda size: True)
    monkeypatch.setattr(animals, "load_photographs", lambda size: photographs)
    _, source = animals._recomputed("tiny_sd_animals", animals.recorded()["networks"]["tiny_sd_animals"], ColourJudge())
    assert source["kid"] == source["agreement"] == "recomputed"
    other = Photographs(photographs.training, photographs.held_out[:67])
    monkeypatch.setattr(animals, "load_photographs", lambda size: other)
    _, source = animals._recomputed("tiny_sd_animals", animals.recorded()["networks"]["tiny_sd_animals"], ColourJudge())
    assert source["kid"] == "from the record: other photographs here" and source["agreement"] == "recomputed"


def test_what_photographs_score_is_printed_beside_the_claims(measured, monkeypatch):
    monkeypatch.setattr(animals, "_judge", lambda: None)
    row = animals.check()[0]
    assert row.name.startswith("real animals, 60 photographs at 16 px") and row.ok
    assert row.measured.startswith("100 % (cat 100, dog 100, wild 100), ")


def test_without_the_judge_everything_is_read_from_the_record(measured):
    names = rows_by_name(animals._rows("tiny_sd_animals", None))
    assert "judged as asked, cat (20 samples, from the record: no judge here)" in names


def test_scores_below_their_bounds_are_short(measured):
    entry = animals.recorded()["networks"]["tiny_sd_animals"]
    entry["agreement"]["wild"]["of three"] = 0.91
    entry["kid"]["value"] = 0.031
    entry["evaluations"] = 51.0
    animals.write("networks", "tiny_sd_animals", entry)
    short = [row for row in animals._rows("tiny_sd_animals", None) if not row.ok]
    assert [row.measured for row in short] == [
        "91 %",
        f"0.031 ± {entry['kid']['standard_error']:.2g}, n = 60 and 60",
        "51",
        "never measured",
    ]


def test_a_record_keeps_other_networks_and_the_fid_of_the_same_weights(measured, photographs):
    animals.write("networks", "tiny_sd_animals_own", {"weights": "x"})
    entry = animals.recorded()["networks"]["tiny_sd_animals"] | {"fid": {"seeds": []}}
    animals.write("networks", "tiny_sd_animals", entry)
    animals.measure("tiny_sd_animals", ColourJudge(), photographs, FAST, "the command")
    networks = animals.recorded()["networks"]
    assert networks["tiny_sd_animals"]["fid"] == {"seeds": []} and networks["tiny_sd_animals_own"] == {"weights": "x"}
    animals.measure("tiny_sd_animals", ColourJudge(), photographs, Sampling(2.0, steps=1), "the command")
    assert "fid" not in animals.recorded()["networks"]["tiny_sd_animals"], "another sampling has another FID"


def test_an_entry_says_where_it_comes_from(measured):
    entry = animals.recorded()["networks"]["tiny_sd_animals"]
    assert entry["weights"] == read_metadata("tiny_sd_animals")["sha256"]
    assert entry["training"] == {
        "command": "python -m helpers.tiny_sd.train",
        "seed": 1,
        "steps": 7,
        "core_minutes": 4.5,
        "precision": "fp32",
    }
    by = entry["measured_by"]
    assert by["command"] == "the command" and set(by) == {"command", "date", "hardware", "core_minutes"}


def test_core_minutes_of_method_3_include_its_autoencoder(shelf, model):
    put(model, "tiny_sd_animals")  # stands for any file that tells its core minutes
    metadata = {"command": "c", "seed": "0", "steps": "1", "core_minutes": "10"}
    codec = TrainedCodec.__new__(TrainedCodec)
    codec.source = "tiny_sd_animals"
    assert animals.training_of(SimpleNamespace(codec=codec), metadata)["core_minutes"] == 13.5
    codec = PretrainedCodec.__new__(PretrainedCodec)
    assert animals.training_of(SimpleNamespace(codec=codec), metadata)["core_minutes"] == 10


def test_every_network_has_its_training_command():
    for name in animals.NETWORKS:
        assert TRAINING_COMMANDS[name].endswith(f"--export 00_assets/weights/{name}.safetensors")
        assert "--source animal-faces" in TRAINING_COMMANDS[name]


@pytest.mark.parametrize(("mean", "ok"), [(44.0, True), (46.0, False)])
def test_fid_is_claimed_of_the_larger_network_only_and_laid_beside_the_competitor(mean, ok):
    seeds = [{"seed": i} | dict.fromkeys(("overall", *CLASSES), mean + i - 2) for i in range(5)]
    for seed in seeds:
        seed["inverted"] = dict.fromkeys(("overall", *CLASSES), 40.0)
    entry = {"fid": {"seeds": seeds, "inverted": True, "other_photographs": {"overall": 20.0}}}
    rows = animals._fid_rows("tiny_sd_animals_128", "title", entry)
    assert [row.ok for row in rows] == [ok, True, True] and rows[0].expected == "<= 45"
    assert rows[0].measured.startswith(f"{mean:.1f} ± 1.6 over 5 seeds (cat {mean:.1f}")
    assert rows[2].expected == "printed; theirs 33.9 (diffusion-pytorch)"
    assert animals._fid_rows("tiny_sd_animals", "title", entry)[0].ok
    entry["fid"]["seeds"].pop()
    rows = animals._fid_rows("tiny_sd_animals_128", "title", entry)
    assert rows[0].measured == "4 of 5 seeds" and not rows[0].ok
    assert " over 4 seeds (cat " in rows[1].measured and rows[1].expected == "printed"
    del entry["fid"]["seeds"][1:]
    assert "±" not in animals._fid_rows("tiny_sd_animals_128", "title", entry)[1].measured


def test_the_command_names_what_it_does_not_know(shelf, capsys):
    assert animals.main(["tiny_sd_horses"]) == 2 and "unknown: tiny_sd_horses" in capsys.readouterr().err
    assert animals.main([]) == 2 and "no weights are there yet" in capsys.readouterr().err


def test_the_command_measures_and_records_the_photographs_too(shelf, animal_model, photographs, monkeypatch, capsys):
    put(animal_model, "tiny_sd_animals_pixels")
    monkeypatch.setattr(animals.TinySD, "from_weights", lambda name, autoencoder=None: animal_model)
    monkeypatch.setattr(animals, "load_photographs", lambda size: photographs)
    monkeypatch.setattr(animals, "baseline", lambda judge, photographs: {"n": 3})
    monkeypatch.setattr("helpers.scoring.photographs.PhotographClassifier", ColourJudge)
    assert animals.main(["--guidance-scale", "3", "--steps", "2", "--interval", "0", "0.5"]) == 0
    record = animals.recorded()
    assert record["photographs"]["16"]["n"] == 3
    entry = record["networks"]["tiny_sd_animals_pixels"]
    assert animals.sampling_of(entry) == Sampling(3.0, (0.0, 0.5), 2)
    assert entry["measured_by"]["command"].endswith("--guidance-scale 3 --steps 2 --interval 0 0.5")
    assert json.loads(capsys.readouterr().out).keys() == {"tiny_sd_animals_pixels"}


def test_autoencoders_are_measured_without_the_rest(measured, animal_model, photographs, monkeypatch):
    monkeypatch.setattr(animals, "load_photographs", lambda size: photographs)
    monkeypatch.setattr(
        "benchmarks.tiny_sd.animals_baselines.baseline", lambda *some, codec: baseline(*some, per_class=20, codec=codec)
    )
    monkeypatch.setattr("helpers.scoring.photographs.PhotographClassifier", ColourJudge)
    monkeypatch.setattr(animal_model, "codec", HalfContrast())
    before = animals.recorded()["networks"]["tiny_sd_animals"]
    assert "autoencoder_alone" not in before
    assert animals.main(["tiny_sd_animals", "--autoencoders"]) == 0
    entry = animals.recorded()["networks"]["tiny_sd_animals"]
    alone = entry.pop("autoencoder_alone")
    assert entry == before and alone["n"] == 60
    (row,) = autoencoder_rows("title", entry | {"autoencoder_alone": alone})
    assert row.measured.startswith("100 % (cat 100, dog 100, wild 100), 0.") and row.expected == "printed"
    assert autoencoder_rows("title", entry) == []
    with torch.no_grad():
        next(animal_model.unet.parameters()).add_(1)
    put(animal_model, "tiny_sd_animals")
    with pytest.raises(ValueError, match="not measured yet: python -m benchmarks.tiny_sd.animals tiny_sd_animals"):
        animals.main(["tiny_sd_animals", "--autoencoders"])


# The image


def test_the_image_is_a_row_of_each_class_from_the_first_seeds(shelf, animal_model, monkeypatch):
    put(animal_model, "tiny_sd_animals")
    monkeypatch.setattr(animals.TinySD, "from_weights", lambda name, autoencoder=None: animal_model)
    model, sampling = animals.shown_network()
    path = animals_image.write_image(model, sampling, columns=4)
    assert path == shelf / animals_image.IMAGE
    image = np.asarray(Image.open(path))
    assert image.shape == (3 * 128, 4 * 128, 3)
    assert image.reshape(3, 128, 4 * 128, 3).mean((1, 2)).argmax(1).tolist() == [0, 1, 2]


def test_the_larger_network_is_shown_where_it_is_there(shelf, model, monkeypatch):
    monkeypatch.setattr(animals.TinySD, "from_weights", lambda name, autoencoder=None: SimpleNamespace(name=name))
    for name in ("tiny_sd_animals", "tiny_sd_animals_128"):
        put(model, name)
        assert animals.shown_network()[0].name == name
    assert animals.shown_network()[1] == animals.DEFAULT


def test_an_image_that_is_too_large_loses_levels_and_not_size():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    exact = animals_image.png(noise)
    coarse = animals_image.png(noise, most=10_500)
    assert len(coarse) <= 10_500 < len(exact)
    difference = np.asarray(noise).astype(int) - np.asarray(Image.open(__import__("io").BytesIO(coarse)))
    assert 0 < np.abs(difference).max() <= 4
    with pytest.raises(ValueError, match="more than 1,000"):
        animals_image.png(noise, most=1000)
