"""The three methods of tiny Stable Diffusion beside each other, on drawn faces.

    python -m benchmarks check tiny_sd    # the shipped weights, the cost of an update, the records: some minutes
    python -m benchmarks tiny_sd          # three methods, three seeds each: about an hour on two cores

What is trained, and how, is in `benchmarks.tiny_sd.trainings`.
"""

import json
import os
import statistics
import time

import torch
from tqdm.auto import tqdm

from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, at_least, at_most, claim
from benchmarks.tiny_sd import animals, cost, recipes
from benchmarks.tiny_sd.trainings import (
    CHANNELS,
    SAMPLES,
    SEEDS,
    STEPS,
    Judge,
    jobs,
    settings,
    side_by_side,
    workers,
)
from helpers.course import repository_root
from helpers.weights import TRAINING_COMMANDS, read_metadata, weights_path

RECORD = "00_assets/results/tiny_sd.json"
SHIPPED = {"pixels": "tiny_sd_pixels", "pretrained": "tiny_sd_pretrained", "own": "tiny_sd_own"}
NOTEBOOKS = ("11_tiny_sd_pretrained_vae", "12_tiny_sd_own_vae", "13_three_methods_compared")


def check() -> list[Row]:
    """Recompute the claims about the three methods; some minutes."""
    methods = [*_notebooks(), *_shipped(), *cost.check(), *_comparison()]
    return [*methods, *animals.check(), *recipes.check()]


def _notebooks() -> list[Row]:
    times = json.loads((repository_root() / "00_assets/results/course.json").read_text())["seconds"]
    return [
        at_most(f"notebook {name}", times[name], 120, "s")
        if name in times
        else Row(f"notebook {name}", "not measured", "<= 120 s", False)
        for name in NOTEBOOKS
    ]


def _shipped() -> list[Row]:
    from helpers.data.toy_faces import toy_attributes
    from helpers.scoring.attributes import load_classifier
    from helpers.tiny_sd.model import TinySD

    rows = []
    classifier = load_classifier()
    classes = [face.species for face in toy_attributes(SAMPLES, seed=77)]  # of faces nobody trained on
    for method, name in SHIPPED.items():
        if not weights_path(name).exists():
            rows.append(Row(f"shipped weights, {method}", "none yet", TRAINING_COMMANDS[name], False))
            continue
        images = TinySD.from_weights(name).generate(classes, seed=10_000)
        species = classifier.agreement(images, {"species": classes})["species"]
        rows.append(at_least(f"{method}: species as asked by class ({SAMPLES} samples)", 100 * species, 97, "%"))
    general = weights_path("general_autoencoder")
    if general.exists():
        rows.append(at_most("general-purpose autoencoder", general.stat().st_size / 1e6, 8, "MB"))
        source = read_metadata("general_autoencoder")["source"]
        rows.append(claim("it was trained on", source, "patterns, never a face", source == "patterns"))
        faces_psnr, general_psnr = (_psnr(name) for name in ("faces_autoencoder", "general_autoencoder"))
        rows.append(
            at_least("autoencoder of faces, half the channels: PSNR on unseen faces", faces_psnr, general_psnr, "dB")
        )
    return rows


@torch.no_grad()
def _psnr(name: str) -> float:
    """PSNR of an autoencoder on 300 unseen synthetic faces, dB."""
    from helpers.autoencoders.load import load_autoencoder
    from helpers.data import load_faces
    from helpers.scoring.reconstruction import psnr

    autoencoder = load_autoencoder(name)
    images = load_faces(split="val").tensor(slice(0, 300))
    reconstructions = [autoencoder.to_images(autoencoder.to_latents(part)) for part in images.split(50)]
    return psnr(images, torch.cat(reconstructions))


def _comparison() -> list[Row]:
    path = repository_root() / RECORD
    if not path.exists():
        return [Row("comparison, three seeds", "never run", "python -m benchmarks tiny_sd", False)]
    record = read_record(path)
    seeds = {name: len(runs) for name, runs in record["runs"].items()}
    if set(seeds.values()) != {SEEDS}:
        return [Row("comparison, seeds of each method", str(seeds), f"{SEEDS} each", False)]
    rows = [
        claim("comparison, seeds of each method", seeds, f"{SEEDS} each", set(seeds.values()) == {SEEDS}),
        at_most("comparison, all of it", record["minutes"], 90, "min"),
        claim(
            "comparison, settings",
            "as in the code" if record["settings"] == settings() else "others",
            "as in the code",
            record["settings"] == settings(),
        ),
    ]
    table = {name: len(scores) for name, scores in record["channels"].items()}
    rows.append(
        claim(
            "comparison, autoencoders of 1 to 8 channels",
            table,
            f"{len(CHANNELS)} each",
            set(table.values()) == {len(CHANNELS)},
        )
    )
    for name, runs in record["runs"].items():
        last = [run["marks"][-1] for run in runs]
        scores = {
            "core minutes": [mark["core_seconds"] / 60 for mark in last],
            "colour of the eyes as asked": [mark["attributes"]["eyes"] for mark in last],
            "pattern as asked": [mark["attributes"]["pattern"] for mark in last],
            **{score: [mark[score] for mark in last] for score in ("frechet", "kernel", "species", "recall")},
        }
        for what, values in scores.items():
            summary = f"{statistics.mean(values):.3g} ± {statistics.stdev(values):.2g} over {len(values)} seeds"
            rows.append(Row(f"comparison, {name}, {what}", summary, "printed", True))
    return rows


def begun() -> dict:
    """A new record; with BENCH_RESUME=1 the one on disk, if it was made with the same settings."""
    path = repository_root() / RECORD
    if os.environ.get("BENCH_RESUME") and path.exists():
        record = read_record(path)
        if record["settings"] == settings():
            return record
    return {
        "hardware": hardware(f"{workers()} trainings at once, one thread each"),
        "settings": settings(),
        "minutes": 0.0,
        "runs": {method: [] for method in STEPS},
        "channels": {"faces": {}, "patterns": {}},
    }


def done(record: dict, job: tuple[str, ...]) -> bool:
    """Whether the record has what this job finds."""
    task, what, number = job
    if task == "channels":
        return number in record["channels"][what]
    return any(run["seed"] == int(number) for run in record["runs"][what])


def run() -> None:
    """Train what the record lacks; it is written after each training, so that BENCH_RESUME=1 can go on."""
    from helpers.data import load_faces
    from helpers.data.patterns import load_patterns

    record = begun()
    start = time.perf_counter() - 60 * record["minutes"]
    for split in ("train", "val"):
        load_faces(split=split)  # drawn once, here, with a bar, and not by every process
    load_patterns()
    missing = [job for job in jobs() if not done(record, job)]
    for (task, what, number), scores in tqdm(side_by_side(missing, workers()), total=len(missing), unit="training"):
        if task == "channels":
            record["channels"][what] = dict(sorted({**record["channels"][what], number: scores}.items()))
        else:
            record["runs"][what] = sorted([*record["runs"][what], scores], key=lambda entry: entry["seed"])
        record["minutes"] = round((time.perf_counter() - start) / 60, 1)
        write_record(repository_root() / RECORD, record)
    record["real"] = Judge().baseline()
    write_record(repository_root() / RECORD, record)
    cost.run()
