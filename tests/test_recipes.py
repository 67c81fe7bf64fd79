"""The recipe search: what is trained, how it is recorded, and what is claimed from the record."""

import json
import math
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_sd import claims as tiny_sd
from benchmarks.tiny_sd import pixels, recipes, recipes_budget, recipes_changes, recipes_trainings
from benchmarks.tiny_sd.recipes_changes import BASELINES, CHANGES, Change, changes, method_of
from benchmarks.tiny_sd.recipes_record import add_run, find_row, read_rows, seeds_of
from helpers.tiny_sd import train as command
from helpers.training import EMA

SETUP = {"size": 64, "samples_per_class": 100, "encoding_counted": True}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))


def judged(seed: int, kid: float, **more: object) -> dict:
    """An entry as a training leaves it."""
    return {
        "seed": seed,
        "kid": kid,
        "kid_error": 0.01,
        "judged": 80.0 + seed,
        "steps": 1000,
        "images": 32000,
        "judged_by_class": {"cat": 90.0, "dog": 70.0 + 3 * seed, "wild": 80.0},
        "epochs": 3.9,
        "parameters": 7,
        "core_minutes_used": 10.1,
        "processor": "some processor",
        "date": "2030-01-01",
        "options": "--x",
    } | more


# --- what is tried ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pretrained", "pixels"])
def test_every_change_is_understood_by_the_training_command(method):
    usual = command.parser().parse_args(BASELINES[method].split())
    for name, change in changes(method).items():
        options = command.parser().parse_args((BASELINES[method] + " " + change.options).split())
        differs = [key for key, value in vars(options).items() if value != vars(usual)[key]]
        variant = bool(differs) + change.coarse + (not change.trained)
        assert variant == (name not in ("baseline", "recipe")), f"{name} differs from the baseline in one way"
        assert change.trained or change.sampling or change.average


def test_names_are_there_once():
    for method, some in CHANGES.items():
        assert len({change.name for change in some}) == len({(c.name, c.text) for c in some}) == len(some), method
    assert [method_of("peers", change) for change in CHANGES["peers"]][::2] == [
        "peer denoising-diffusion-pytorch",
        "peer diffusers UNet2DModel",
    ]


def test_unknown_names_and_missing_encoders_are_refused():
    parse = recipes.parser().parse_args
    with pytest.raises(SystemExit, match="no change wide of pixels; there are: baseline, narrower"):
        recipes.chosen(parse(["--method", "pixels", "--only", "wide"]))
    with pytest.raises(SystemExit, match="needs --autoencoder"):
        recipes.chosen(parse([]))
    with pytest.raises(SystemExit, match="perceptual loss needs --perceptual-encoder"):
        recipes.chosen(parse(["--method", "pixels"]))
    assert "recipe" not in [change.name for change in recipes.chosen(parse(["--autoencoder", "x"]))], "when it is known"


def test_the_recipe_is_what_was_written_down(monkeypatch):
    kept = Change("recipe", "", "--optimizer muon", coarse=True, sampling={"guidance_scale": 2.0})
    monkeypatch.setitem(recipes_changes.RECIPES, "pixels", kept)
    assert changes("pixels")["recipe"] == kept._replace(text="the recipe: all changes that were kept")


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_updates_fill_the_budget_and_phases_share_it():
    assert recipes_budget.updates(600.0, [0.5]) == [1200]
    assert recipes_budget.updates(600.0, [0.1, 0.5]) == [3000, 600]
    assert recipes_budget.updates(1e-6, [0.5]) == [1]
    with pytest.raises(SystemExit, match="longer than the whole budget"):
        recipes_budget.updates(-1.0, [0.5])


def test_folders_of_nobody_are_recorded():
    arguments = ["--autoencoder", "/home/me/taef2", "--widths", "8", "--perceptual-encoder", "taef2"]
    assert recipes_trainings.public(arguments) == "--autoencoder taef2 --widths 8 --perceptual-encoder taef2"


# --- the record -------------------------------------------------------------------------------------------------------


def test_seeds_of_a_change_share_a_row(tmp_path):
    path = tmp_path / "results" / "recipes.json"
    change = changes("pixels")["muon"]
    row = add_run(path, "pixels", change, 10.0, SETUP, judged(0, 0.20))
    assert row["seeds"] == 1 and row["kid_std"] is None and row["kid"] == 0.2
    add_run(path, "pixels", change, 45.0, SETUP, judged(0, 0.1))
    row = add_run(path, "pixels", change, 10.0, SETUP, judged(1, 0.24))
    assert row["seeds"] == 2 and row["kid"] == pytest.approx(0.22)
    assert row["kid_std"] == pytest.approx(0.04 / math.sqrt(2), abs=1e-4), "over seeds, with n - 1"
    assert row["judged"] == 80.5 and row["judged_by_class"] == {"cat": 90.0, "dog": 71.5, "wild": 80.0}
    rows = read_rows(path)
    assert len(rows) == 2 and seeds_of(find_row(rows, "pixels", "muon", 10)) == {0, 1}
    assert row["note"] == "1,000 updates, 3.9 epochs; cat 90 %, dog 72 %, wild 80 %"
    page = {
        "method": str,
        "change": str,
        "core_minutes": float,
        "seeds": int,
        "kid": float,
        "judged": float,
        "note": str,
        "kept": bool,
        "processor": str,
    }
    assert all(isinstance(row[name], value_type) for name, value_type in page.items()), "what the page reads"
    assert not list(path.parent.glob(".*")), "nothing half-written is left"


def test_the_same_seed_again_takes_the_place_of_the_first(tmp_path):
    for kid in (0.3, 0.2):
        row = add_run(tmp_path / "r.json", "pixels", changes("pixels")["muon"], 10.0, SETUP, judged(0, kid))
    assert row["seeds"] == 1 and row["kid"] == 0.2


def test_a_training_that_took_longer_says_so(tmp_path):
    row = add_run(
        tmp_path / "r.json", "pixels", changes("pixels")["muon"], 10.0, SETUP, judged(0, 0.2, core_minutes_used=11.5)
    )
    assert row["note"].endswith("; used 11.5 core-minutes")


def test_figures_of_another_setup_are_not_mixed(tmp_path):
    path = tmp_path / "r.json"
    change = changes("pixels")["muon"]
    add_run(path, "pixels", change, 10.0, SETUP, judged(0, 0.2))
    with pytest.raises(SystemExit, match=r"another setup \(\{'samples_per_class': 100\}\)"):
        add_run(path, "pixels", change, 10.0, SETUP | {"samples_per_class": 60}, judged(1, 0.2))
    assert seeds_of(read_rows(path)[0]) == {0}


def test_rows_are_in_the_order_of_the_changes(tmp_path):
    path = tmp_path / "r.json"
    for name, minutes in (("muon", 45.0), ("muon", 10.0), ("baseline", 10.0)):
        add_run(path, "pixels", changes("pixels")[name], minutes, SETUP, judged(0, 0.2))
    assert [(row["name"], row["core_minutes"]) for row in read_rows(path)] == [
        ("baseline", 10),
        ("muon", 10),
        ("muon", 45),
    ]


def test_what_is_kept_is_marked_by_a_person(tmp_path, capsys):
    path = tmp_path / "r.json"
    for name in ("baseline", "muon"):
        add_run(path, "pixels", changes("pixels")[name], 10.0, SETUP, judged(0, 0.2))
    assert [row["kept"] for row in read_rows(path)] == [True, False]
    arguments = ["--method", "pixels", "--record", str(path)]
    assert recipes.main([*arguments, "--keep", "muon"]) == 0
    assert [row["kept"] for row in read_rows(path)] == [True, True]
    add_run(path, "pixels", changes("pixels")["muon"], 10.0, SETUP, judged(1, 0.3))
    assert read_rows(path)[1]["kept"], "another seed changes nothing of that"
    assert recipes.main([*arguments, "--drop", "muon"]) == 0
    assert [row["kept"] for row in read_rows(path)] == [True, False]
    with pytest.raises(SystemExit, match="nothing is recorded of pixels, wider"):
        recipes.main([*arguments, "--keep", "wider"])
    assert recipes.main([*arguments, "--list"]) == 0
    assert "2 seeds, KID 0.250" in capsys.readouterr().out


# --- the command ------------------------------------------------------------------------------------------------------


class Pretend:
    """Trainings that take no time; the third one is interrupted."""

    done: list = []
    setup = SETUP

    def __init__(self, options):
        self.options = options

    def run(self, change, seed):
        if len(self.done) == 2:
            self.done.append("interrupted")
            raise KeyboardInterrupt
        self.done.append((change.name, seed))
        return judged(seed, 0.2)


def test_an_interrupted_search_goes_on_with_what_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes_trainings, "Trainings", Pretend)
    monkeypatch.setattr(Pretend, "done", [])
    arguments = [
        "--method",
        "pixels",
        "--only",
        "baseline",
        "muon",
        "--seeds",
        "2",
        "--record",
        str(tmp_path / "r.json"),
    ]
    assert recipes.main(arguments) == 130
    assert recipes.main(arguments) == 0
    assert Pretend.done == [("baseline", 0), ("muon", 0), "interrupted", ("baseline", 1), ("muon", 1)]
    assert [row["seeds"] for row in read_rows(tmp_path / "r.json")] == [2, 2]


# --- the claims -------------------------------------------------------------------------------------------------------


def record(path: Path, kids: dict[str, float], seeds: int = 3, **setup: object) -> None:
    """Rows at 45 core-minutes: "pixels" and "pretrained" are our recipes, other names are peers'."""
    for name, kid in kids.items():
        method = name if name in recipes.CLAIMS else "peers"
        change = changes(method)["recipe" if method == name else name]
        for seed in range(seeds):
            add_run(path, method_of(method, change), change, 45.0, SETUP | setup, judged(seed, kid))


PEERS = {"ddp-documented": 0.5, "ddp-stem": 0.3, "diffusers-documented": 0.6, "diffusers-stem": 0.4}


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(recipes, "repository_root", lambda: tmp_path)
    return tmp_path / recipes.RECORD


def claims() -> dict[str, tuple[str, bool]]:
    return {row.name[:8]: (row.measured, row.ok) for row in recipes.check() if row.expected != "printed"}


def test_nothing_measured_is_short(file):
    assert claims() == {"Method 1": ("never run", False), "Method 2": ("never run", False)}


@pytest.mark.parametrize(("first", "second", "ok"), [(0.15, 0.075, True), (0.16, 0.08, False)])
def test_ours_are_compared_with_the_best_peer(file, first, second, ok):
    record(file, PEERS | {"pixels": first, "pretrained": second})
    assert claims() == {"Method 1": (f"{first / 0.3:.3g} x", ok), "Method 2": (f"{second / 0.3:.3g} x", ok)}
    printed = [row.measured for row in recipes.check() if row.expected == "printed"]
    assert len(printed) == 6 and f"KID {first:.3f} ± 0.000, judged correct 81 %, 3 seeds" in printed


def test_a_missing_peer_seed_or_encoding_is_short(file):
    record(file, {name: kid for name, kid in PEERS.items() if name != "ddp-stem"} | {"pixels": 0.01})
    assert claims()["Method 1"] == ("seeds of ours and of 4 peers: 3, 3, 0, 3, 3", False)
    record(file, {"ddp-stem": 0.3}, seeds=2)
    assert claims()["Method 1"] == ("seeds of ours and of 4 peers: 3, 3, 2, 3, 3", False)
    record(file, {"ddp-stem": 0.3})
    record(file, {"pretrained": 0.01}, encoding_counted=False)
    assert claims() == {"Method 1": ("0.0333 x", True), "Method 2": ("without the time of encoding", False)}


def test_speeds_beside_peers_are_figures_without_a_promise():
    rows = [comparison.row() for comparison in pixels.comparisons()]
    assert len(rows) == 3 and all(row.ok and row.expected == "no promise" for row in rows)


def test_the_claims_are_checked_with_the_three_methods(monkeypatch):
    for module, name in (
        (tiny_sd, "_notebooks"),
        (tiny_sd, "_shipped"),
        (tiny_sd, "_comparison"),
        (tiny_sd.cost, "check"),
        (tiny_sd.animals, "check"),
    ):
        monkeypatch.setattr(module, name, list)
    assert tiny_sd.check() == recipes.check() != []


# --- a training, as small as it can be --------------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch, faces16) -> Namespace:
    """A search on synthetic faces of 16 px, judged by a stand-in."""

    def load(source, split, size, **_):
        images = faces16.images[:, :, :: 16 // size, :: 16 // size]
        return replace(faces16, images=np.ascontiguousarray(images), split=split)

    class Judge(recipes_trainings.Judge):
        def __init__(self, size, per_class):
            self.names = faces16.class_names
            self.per_class = per_class

        def __call__(self, images):
            assert images.shape == (6, 3, 16, 16) and images.abs().max() <= 1
            return {"kid": images.mean().item(), "kid_error": 0.0, "judged": 0.0, "judged_by_class": {"cat": 0.0}}

    monkeypatch.setattr(recipes_trainings, "load_faces", load)
    monkeypatch.setattr(recipes_trainings, "Judge", Judge)
    monkeypatch.setitem(BASELINES, "pixels", "--widths 8 16 --patch 2 --batch-size 4 --ema 0.99")
    monkeypatch.setattr(recipes_trainings, "SAMPLING", {"steps": 2, "guidance_scale": 3.0})
    arguments = ["--method", "pixels", "--minutes", "0.005", "--size", "16", "--samples", "2"]
    return recipes.parser().parse_args(arguments)


@pytest.fixture(scope="module")
def faces16():
    from helpers.data import Faces
    from helpers.data.toy_faces import SPECIES, draw_face, toy_attributes

    attributes = toy_attributes(30, seed=5)
    images = np.stack([draw_face(face, 16) for face in attributes])
    labels = np.array([SPECIES.index(face.species) for face in attributes])
    return Faces(images, labels, SPECIES, source="animal-faces", split="train")


def test_a_change_is_trained_and_the_baseline_leaves_what_its_variants_need(tiny, monkeypatch):
    threads = torch.get_num_threads()
    trainings = recipes_trainings.Trainings(tiny)
    with pytest.raises(SystemExit, match="needs the baseline's weights"):
        trainings.run(changes("pixels")["guidance-2"], 0)
    base = trainings.run(changes("pixels")["baseline"], 0)
    assert base["images"] == 4 * base["steps"] and base["epochs"] == pytest.approx(base["images"] / 30, abs=1e-3)
    assert base["options"].startswith("--method pixels --source animal-faces --size 16 --widths 8 16")
    other = trainings.run(changes("pixels")["guidance-2"], 0)
    assert other["steps"] == base["steps"] and other["kid"] != base["kid"], "the same weights, sampled otherwise"
    assert other["sampling"] == {"steps": 2, "guidance_scale": 2.0}
    average = trainings.run(changes("pixels")["average-0.05"], 0)
    assert average["kid"] != base["kid"] and average["sampling"] == base["sampling"]
    reloaded = trainings.run(changes("pixels")["interval"]._replace(sampling=None), 0)
    assert reloaded["kid"] == base["kid"], "what is judged are the weights of the file"
    torch.set_num_threads(threads)


def test_a_change_gets_as_many_updates_as_cost_what_the_baselines_do(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "record", tmp_path / "r.json")
    trainings = recipes_trainings.Trainings(tiny)
    batch = changes("pixels")["batch-16"]
    muon = changes("pixels")["muon"]
    monkeypatch.setattr(recipes_trainings, "update_seconds", lambda trials: [0.1, 0.02][-len(trials) :])
    assert trainings.run(batch, 0)["steps"] == 3, "0.3 s of 0.1 s, where no baseline was trained"
    base = trainings.run(changes("pixels")["baseline"], 0)
    assert base["steps"] == 15
    add_run(tiny.record, "pixels", changes("pixels")["baseline"], tiny.minutes, trainings.setup, base | {"steps": 20})
    run = trainings.run(batch, 0)
    assert run["steps"] == 4, "20 updates of 0.02 s cost as much as 4 of 0.1 s"
    add_run(tiny.record, "pixels", batch, tiny.minutes, trainings.setup, run)
    monkeypatch.setattr(recipes_trainings, "update_seconds", lambda trials: pytest.fail("measured again"))
    assert trainings.run(batch, 1)["steps"] == 4, "all seeds get the same number"
    with pytest.raises(pytest.fail.Exception):
        trainings.run(muon, 0)


@pytest.mark.parametrize("length", [0.05, 0.09, 0.15])
def test_an_average_has_its_relative_length(length):
    """Weights that count the updates show which updates an average is made of."""
    counter = torch.nn.Linear(1, 1, bias=False)
    squares = torch.nn.Linear(1, 1, bias=False)
    averages = [recipes_trainings.RelativeEMA(module, length) for module in (counter, squares)]
    for step in range(1, 2001):
        for module, average, value in zip((counter, squares), averages, (step / 2000, (step / 2000) ** 2), strict=True):
            torch.nn.init.constant_(module.weight, value)
            average.update(module, step)
    mean, square = (average.module.weight.item() for average in averages)
    assert math.sqrt(square - mean**2) == pytest.approx(length, rel=0.02)


def test_the_usual_average_is_as_long_as_the_table_says():
    counter = torch.nn.Linear(1, 1, bias=False)
    usual = EMA(counter, 0.999)
    relative = recipes_trainings.RelativeEMA(counter, 0.0904)
    for step in range(1, 2001):
        torch.nn.init.constant_(counter.weight, step / 2000)
        usual.update(counter, step)
        relative.update(counter, step)
    assert usual.module.weight.item() == pytest.approx(relative.module.weight.item(), abs=0.002)


def test_updates_are_timed_in_turns(tiny, monkeypatch):
    order = []
    trial = lambda name: Namespace(begin=lambda: (order.append(name) or name for _ in range(10)))  # noqa: E731
    seconds = recipes_budget.update_seconds([trial("a"), trial("b")])
    assert order == ["a", "b"] * 10 and len(seconds) == 2 and max(seconds) < 0.1


def test_coarse_to_fine_sees_small_images_first(tiny, monkeypatch):
    sizes = []
    original = recipes_trainings.Batches.losses

    def watching(self, model, generator):
        sizes.append(self.faces.size)
        return original(self, model, generator)

    monkeypatch.setattr(recipes_trainings.Batches, "losses", watching)
    run = recipes_trainings.Trainings(tiny).run(changes("pixels")["coarse-to-fine"], 0)
    training = sizes[-run["steps"] :]
    assert training == [8] * run["phases"][0] + [16] * run["phases"][1]
    assert "first half at half the size" in run["options"]


def test_mirrored_images_come_after_the_others(faces16):
    both = recipes_trainings.with_mirrored(faces16)
    assert np.array_equal(both.images[30:], faces16.images[..., ::-1]) and np.array_equal(
        both.images[:30], faces16.images
    )
    assert np.array_equal(both.labels, np.tile(faces16.labels, 2))


def test_the_judge_is_given_as_many_labels_of_each_class():
    judge = recipes_trainings.Judge.__new__(recipes_trainings.Judge)
    judge.names = ("cat", "dog", "wild")
    judge.per_class = 2
    assert judge.labels().tolist() == [0, 0, 1, 1, 2, 2]


def test_the_record_of_the_repository_can_be_read():
    rows = (
        json.loads(Path(recipes.repository_root() / recipes.RECORD).read_text())
        if (recipes.repository_root() / recipes.RECORD).exists()
        else []
    )
    assert all(row["seeds"] == len(row["runs"]) for row in rows)
    assert not [row for row in rows if "/" in row["options"]], "no folder of anybody's"
