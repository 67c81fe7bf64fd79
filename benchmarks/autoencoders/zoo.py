"""Every variant of the zoo with three seeds: the table that notebook 07 reads."""

import math
import statistics
import time

from benchmarks.record import read_record, write_record
from benchmarks.report import Row, at_most, claim
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
    """Rows about the table: every variant is in it, trained with the settings that ship."""
    path = repository_root() / TABLE
    if not path.exists():
        return [Row("variants of the zoo", "never run", "python -m benchmarks autoencoders", False)]
    record = read_record(path)
    there = [
        name
        for name, entry in record["variants"].items()
        if len(entry["psnr"]["seeds"]) == SEEDS and None not in entry["psnr"]["seeds"]
    ]
    return [
        claim("variants trained with three seeds", len(there), f"{len(VARIANTS)}", set(there) == set(VARIANTS)),
        claim("steps and images a step", record["training"], f"{_training()}", record["training"] == _training()),
        _as_recorded(record),
    ]


def _as_recorded(record: dict, name: str = "VAE") -> Row:
    """Train one entry anew and compare its PSNR with the table's; another machine rounds differently."""
    faces, unseen = (load_faces(split=split, size=32) for split in ("train", "val"))
    recorded = record["variants"][name]["psnr"]
    apart = abs(_trained(name, 0, faces, VariantEvaluator(unseen))["psnr"] - recorded["seeds"][0])
    return at_most(f"{name} trained anew: PSNR away from the table's", apart, 0.2, "dB")


def _training() -> list[int]:
    return [CONFIG.steps, BATCH_SIZE]


def run() -> None:
    """Train every variant three times, write the table."""
    faces, unseen = (load_faces(split=split, size=32) for split in ("train", "val"))
    variants = {}
    judge = VariantEvaluator(unseen)
    for name in VARIANTS:
        scores = [_trained(name, seed, faces, judge) for seed in range(SEEDS)]
        variants[name] = {key: mean_and_std([score[key] for score in scores]) for key in scores[0]}
        print(name, {key: entry["mean"] for key, entry in variants[name].items()}, flush=True)
    record = {"training": _training(), "seeds": SEEDS, "faces": len(unseen), "variants": variants}
    path = repository_root() / TABLE
    write_record(path, record)


def _trained(name: str, seed: int, faces, judge: VariantEvaluator) -> dict[str, float]:
    model = build_variant(name, seed)
    start = time.process_time()
    for _ in train_variant(model, faces, CONFIG):
        pass
    return {"core_seconds": time.process_time() - start} | judge(model, seed)


def mean_and_std(values: list[float]) -> dict:
    """Mean and standard deviation over the seeds, with the values, as an entry of the table."""
    if any(map(math.isnan, values)):  # a code without noise has no rate
        return {"mean": None, "spread": None, "seeds": [None] * len(values)}
    return {
        "mean": round(statistics.mean(values), 4),
        "spread": round(statistics.stdev(values), 4),
        "seeds": [round(value, 4) for value in values],
    }
