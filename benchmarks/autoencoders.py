"""The autoencoders: every variant of the zoo with three seeds, and the quantiser beside a library's.

    python -m benchmarks check autoencoders    # reads the table, recomputes the rest
    python -m benchmarks autoencoders          # trains every variant three times
"""

import json
import math
import statistics
import time

import torch

from benchmarks.report import Row, at_most, true
from benchmarks.side_by_side import peak_memory
from helpers.autoencoders.quantizers import nearest
from helpers.autoencoders.zoo import CONFIG, VARIANTS, made, scores, train_variant
from helpers.course import repository_root
from helpers.data import load_faces

TABLE = "00_assets/results/vae_variants.json"
SEEDS = 3


def check() -> list[Row]:
    """Recompute the claims about autoencoders."""
    return [*_zoo(), _memory()]


def _zoo() -> list[Row]:
    path = repository_root() / TABLE
    if not path.exists():
        return [Row("variants of the zoo", "never run", "python -m benchmarks autoencoders", False)]
    record = json.loads(path.read_text())
    there = [name for name, entry in record["variants"].items() if len(entry["psnr"]["seeds"]) == SEEDS]
    return [true("variants trained with three seeds", len(there), f"{len(VARIANTS)}", set(there) == set(VARIANTS))]


def _memory(vectors: int = 8192, K: int = 8192) -> Row:
    """The search for the nearest of 8,192 codes, against the matrix of all distances."""
    z, codebook = torch.randn(vectors, 8), torch.randn(K, 8)
    nearest(z, codebook)
    whole = 4 * vectors * K
    return at_most("quantiser's peak memory at K = 8192, of the full distance matrix",
                   peak_memory(lambda: nearest(z, codebook)) / whole, 1.0, "x")  # fmt: skip


def run() -> None:
    """Train every variant three times, write the table."""
    faces, unseen = (load_faces(split=split, size=32) for split in ("train", "val"))
    variants = {}
    for name in VARIANTS:
        found = [_trained(name, seed, faces, unseen) for seed in range(SEEDS)]
        variants[name] = {key: _spread([one[key] for one in found]) for key in found[0]}
        print(name, {key: entry["mean"] for key, entry in variants[name].items()}, flush=True)
    record = {"steps": CONFIG.steps, "seeds": SEEDS, "faces": len(unseen), "variants": variants}
    path = repository_root() / TABLE
    path.write_text(json.dumps(record, indent=1) + "\n")


def _trained(name: str, seed: int, faces, unseen) -> dict[str, float]:
    model, start = made(name, seed), time.process_time()
    for _ in train_variant(model, faces, CONFIG):
        pass
    return {"core_seconds": time.process_time() - start} | scores(model, unseen, seed)


def _spread(values: list[float]) -> dict:
    if any(map(math.isnan, values)):  # a code without noise has no rate
        return {"mean": None, "spread": None, "seeds": [None] * len(values)}
    return {"mean": round(statistics.mean(values), 4), "spread": round(statistics.stdev(values), 4),
            "seeds": [round(value, 4) for value in values]}  # fmt: skip
