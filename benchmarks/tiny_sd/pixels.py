"""Method 1: what the shipped weights generate, and how fast the course trains beside two libraries.

    python -m benchmarks check method1    # the shipped weights: seconds to minutes
    python -m benchmarks method1          # the race: hours; BENCH_MINUTES=2,5 shortens it, 0 is the speeds alone

The race's clock counts the processor time of this process, per core: what else the computer does hardly matters. All
contenders run in one process, in turn, on the same faces.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.measure import Comparison
from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, at_least, at_most
from helpers.course import repository_root
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

if TYPE_CHECKING:
    from benchmarks.tiny_sd.contenders import Contender
    from helpers.data import Faces

NAME = "tiny_sd_pixels"
RESULTS = "00_assets/results/method1.json"
ROUNDS = 5  # alternating turns of the speed race
ROUND_SECONDS = 6
IMAGES = 30  # generated to judge a contender
PEERS = 4  # who must have raced at least: two libraries in the course's shape, each without and with our stem


def results_path() -> Path:
    """Where the record of the race is."""
    return repository_root() / RESULTS


def check() -> list[Row]:
    """Recompute the claims about Method 1; some minutes."""
    return [*_shipped(), *_race()]


def _shipped() -> list[Row]:
    from helpers.data.captions import caption
    from helpers.data.toy_faces import toy_attributes
    from helpers.scoring.attributes import held_out_accuracy, load_classifier
    from helpers.tiny_sd.model import TinySD

    if not weights_path(NAME).exists():
        return [Row("shipped weights of Method 1", "none yet", TRAINING_COMMANDS[NAME], False)]
    classifier = load_classifier()
    model = TinySD.from_weights(NAME)
    metadata = read_metadata(NAME)
    attributes = toy_attributes(300, seed=77)  # attributes nobody trained on; only their captions are used
    by_class = model.generate([face.species for face in attributes], seed=10_000)
    by_caption = model.generate(prompts=[caption(face) for face in attributes], seed=20_000)
    species = classifier.agreement(by_class, {"species": [face.species for face in attributes]})["species"]
    agreement = classifier.agreement(by_caption, attributes)
    megabytes = weights_path(NAME).stat().st_size / 1e6
    cores = float(metadata["core_minutes"]) / 2
    rows = [
        at_least("scorer's held-out accuracy, species", 100 * held_out_accuracy(classifier)["species"], 99, "%"),
        at_least("species, asked by class (300 samples, 48 evaluations)", 100 * species, 97, "%"),
        at_least("species, asked by caption", 100 * agreement["species"], 97, "%"),
    ]
    rows += [
        at_least(f"{name}, asked by caption", 100 * agreement[name], 85, "%") for name in ("fur", "eyes", "pattern")
    ]
    rows += [at_most("weights", megabytes, 8, "MB"), at_most("training, minutes of two cores", cores, 40, "min")]
    return rows


def _race() -> list[Row]:
    """Read the race's record; recomputing it takes hours (`python -m benchmarks method1`)."""
    if not results_path().exists():
        return [Row("race beside two libraries", "never run", "python -m benchmarks method1", False)]
    record = read_record(results_path())
    rows = [comparison.row() for comparison in comparisons()]
    for minutes in (2, 5, 20):
        at = [entry for entry in record["agreement"] if entry["minutes"] == minutes]
        ours = [entry["species"] for entry in at if entry["name"] == "this course"]
        peers = [entry["species"] for entry in at if entry["name"] != "this course"]
        if ours and len(peers) >= PEERS:
            rows.append(
                at_least(
                    f"species agreement after {minutes} min, less the best of {len(peers)} peers'",
                    100 * (ours[0] - max(peers)),
                    10,
                    "points",
                )
            )
        else:
            rows.append(Row(f"species agreement after {minutes} min", "not measured", "clearly ahead", False))
    return rows


def comparisons() -> list[Comparison]:
    """What the record says of speed. Nothing is promised: the networks differ, and images/s say nothing of learning.

    Who learns more from photographs in the same time is in `benchmarks.tiny_sd.recipes`.
    """
    shapes = {
        "ratio": "in the course's shape",
        "ratio_same_stem": "with our stem",
        "ratio_documented_shape": "in its documented shape",
    }
    record = read_record(results_path())
    what = "Method 1, training: images/s"
    peer = "the better of two libraries"
    return [
        Comparison(what, f"{peer}, {shape}", record.get(key), record.get(f"{key}_spread"), more=True)
        for key, shape in shapes.items()
    ]


def contenders(faces: "Faces", steps: int) -> list[tuple[str, Callable[[], "Contender"]]]:
    """Label and constructor of every contender."""
    from benchmarks.tiny_sd.contenders import denoising_diffusion_pytorch, diffusers_unet, ours

    return [
        ("this course", lambda: ours(faces, steps)),
        ("denoising-diffusion-pytorch", lambda: denoising_diffusion_pytorch(faces, 16)),
        ("diffusers UNet2DModel", lambda: diffusers_unet(faces, 16)),
        ("denoising-diffusion-pytorch, our stem", lambda: denoising_diffusion_pytorch(faces, 64, stem=True)),
        ("diffusers UNet2DModel, our stem", lambda: diffusers_unet(faces, 64, stem=True)),
        (
            "denoising-diffusion-pytorch, documented shape",
            lambda: denoising_diffusion_pytorch(faces, 16, documented=True),
        ),
        ("diffusers UNet2DModel, documented shape", lambda: diffusers_unet(faces, 16, documented=True)),
    ]


def clock() -> float:
    """Seconds of processor time per core this process may use: wall time on a quiet machine."""
    return time.process_time() / torch.get_num_threads()


def speeds(racers: dict[str, "Contender"]) -> dict[str, list[float]]:
    """Images a second of every contender in every round, the rounds alternating."""
    rates: dict[str, list[float]] = {name: [] for name in racers}
    for racer in racers.values():
        racer.step()  # warm-up
    for _ in range(ROUNDS):
        for name, racer in racers.items():
            start = clock()
            steps = 0
            while steps == 0 or clock() - start < ROUND_SECONDS:
                racer.step()
                steps += 1
            rates[name].append(steps * racer.batch_size / (clock() - start))
        print({name: f"{rate[-1]:.1f} images/s" for name, rate in rates.items()}, flush=True)
    return rates


def judge(racer: "Contender") -> float:
    """Share of generated images whose species is the one of their label, by the classifier."""
    from helpers.scoring.attributes import load_classifier

    labels = torch.arange(IMAGES) % 3
    images = racer.sample(labels)
    return load_classifier().agreement(images, {"species": ["cat", "dog", "wild"] * (IMAGES // 3)})["species"]


def time_speeds() -> None:
    """The speeds alone: minutes."""
    run(minutes="0")


def run(minutes: str | None = None) -> None:
    """Race for BENCH_MINUTES (default 2,5,20) and write the record after every judgement."""
    from helpers.data import load_faces

    minutes = minutes or os.environ.get("BENCH_MINUTES", "2,5,20")
    marks = sorted(float(text) for text in minutes.split(",") if float(text) > 0)
    faces = load_faces("toy-faces", "train", 64)
    racers = {name: make() for name, make in contenders(faces, steps=10_000)}
    rates = speeds(racers)
    record = summary(racers, rates)
    if results_path().exists():  # keep what an earlier race measured at other marks
        earlier = read_record(results_path())
        record["agreement"] = [
            {"hardware": earlier["hardware"]} | entry for entry in earlier["agreement"] if entry["minutes"] not in marks
        ]
    write(record)
    if not marks:
        return
    # the course's cosine ends about when the time does, and never before: the fastest round, and a tenth more
    ours_steps = int(1.1 * 60 * max(marks) * max(rates["this course"]) / racers["this course"].batch_size)
    for name, make in contenders(faces, steps=max(ours_steps, 300)):
        racer = make()
        used = 0.0
        for mark in marks:
            while used < 60 * mark:
                start = clock()
                racer.step()
                used += clock() - start
            entry = {"name": name, "minutes": mark, "species": judge(racer), "pictures": IMAGES}
            record["agreement"].append(entry)
            print(entry, flush=True)
            write(record)


def summary(racers: dict[str, "Contender"], rates: dict[str, list[float]]) -> dict:
    """The record's speeds and ratios; each ratio is the median over rounds of a ratio within one round."""

    def ratios(shape: str) -> list[float]:
        peers = [name for name in rates if name != "this course" and name.partition(", ")[2] == shape]
        best = max(peers, key=lambda name: statistics.median(rates[name]))
        return [our_rate / peer for our_rate, peer in zip(rates["this course"], rates[best], strict=True)]

    shapes = {"ratio": "", "ratio_same_stem": "our stem", "ratio_documented_shape": "documented shape"}
    figures: dict[str, Any] = {}
    for figure, shape in shapes.items():
        values = ratios(shape)
        figures[figure] = round(statistics.median(values), 2)
        figures[f"{figure}_spread"] = [round(min(values), 2), round(max(values), 2)]
    speed = [
        {
            "name": name,
            "parameters": racer.parameters,
            "batch_size": racer.batch_size,
            "images_per_second": round(statistics.median(rates[name]), 2),
            "spread": [round(min(rates[name]), 2), round(max(rates[name]), 2)],
        }
        for name, racer in racers.items()
    ]
    return {
        "hardware": hardware(),
        "size": 64,
        **figures,
        "speed": speed,
        "agreement": [],
    }


def write(record: dict) -> None:
    """Replace the record of the race."""
    write_record(results_path(), record)
