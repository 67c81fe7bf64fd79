"""Every variant of the zoo with three seeds: the table that notebook 05 reads."""

import json
import math
import statistics
import time

from benchmarks.report import Row, at_most, true
from helpers.autoencoders.zoo.compare import (
    BATCH_SIZE,
    CONFIG,
    VARIANTS,
    VariantEvaluator,
    build_variant,
    train_variant,
)
from helpers.course import repository_root
from helpers.data import load_faces

TABLE = "00_assets/results/vae_variants.json"
SEEDS = 3


def check() -> list[Row]:
    """Is every variant in the table, and was it made with the settings that ship?"""
    path = repository_root() / TABLE
    if not path.exists():
        return [Row("variants of the zoo", "never run", "python -m benchmarks autoencoders", False)]
    record = json.loads(path.read_text())
    there = [
        name
        for name, entry in record["variants"].items()
        if len(entry["psnr"]["seeds"]) == SEEDS and None not in entry["psnr"]["seeds"]
    ]
    return [
        true("variants trained with three seeds", len(there), f"{len(VARIANTS)}", set(there) == set(VARIANTS)),
        true("steps and pictures a step", record["training"], f"{_training()}", record["training"] == _training()),
        _as_recorded(record),
    ]


def _as_recorded(record: dict, name: str = "VAE") -> Row:
    """One entry trained anew: another machine rounds otherwise, so the spread of the seeds is the measure."""
    faces, unseen = (load_faces(split=split, size=32) for split in ("train", "val"))
    told = record["variants"][name]["psnr"]
    apart = abs(_trained(name, 0, faces, VariantEvaluator(unseen))["psnr"] - told["seeds"][0])
    return at_most(f"{name} trained anew: PSNR away from the table's", apart, 0.2, "dB")


def _training() -> list[int]:
    return [CONFIG.steps, BATCH_SIZE]


def run() -> None:
    """Train every variant three times, write the table."""
    faces, unseen = (load_faces(split=split, size=32) for split in ("train", "val"))
    variants = {}
    judge = VariantEvaluator(unseen)
    for name in VARIANTS:
        found = [_trained(name, seed, faces, judge) for seed in range(SEEDS)]
        variants[name] = {key: _spread([one[key] for one in found]) for key in found[0]}
        print(name, {key: entry["mean"] for key, entry in variants[name].items()}, flush=True)
    record = {"training": _training(), "seeds": SEEDS, "faces": len(unseen), "variants": variants}
    path = repository_root() / TABLE
    path.write_text(json.dumps(record, indent=1) + "\n")


def _trained(name: str, seed: int, faces, judge: VariantEvaluator) -> dict[str, float]:
    model = build_variant(name, seed)
    start = time.process_time()
    for _ in train_variant(model, faces, CONFIG):
        pass
    return {"core_seconds": time.process_time() - start} | judge(model, seed)


def _spread(values: list[float]) -> dict:
    if any(map(math.isnan, values)):  # a code without noise has no rate
        return {"mean": None, "spread": None, "seeds": [None] * len(values)}
    return {
        "mean": round(statistics.mean(values), 4),
        "spread": round(statistics.stdev(values), 4),
        "seeds": [round(value, 4) for value in values],
    }
