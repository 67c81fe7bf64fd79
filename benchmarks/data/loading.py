"""From JPEGs to batches: the course's cache beside torchvision's ImageFolder and PyTorch's DataLoader.

    python -m benchmarks data    # times both on pictures like AFHQ's, and writes the record

The course decodes everything once, on all cores, and reads from memory ever after. The peer decodes what it needs, in
worker processes, and again in every epoch.
"""

import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Comparison, alternating, hardware, recorded, spread_of
from helpers.course import cpu_count, repository_root
from helpers.data import load_faces
from helpers.data.faces import CLASS_NAMES

RESULTS = "00_assets/results/data.json"
PICTURES = 960
BATCH = 64
SIZE = 64
WANTED = {"first batch": None, "first epoch": 1.0, "later epoch": 1.0}  # the first batch has no promise: see above


def comparisons() -> list[Comparison]:
    """What the record says."""
    if not (record := recorded(RESULTS)):
        return [Comparison("JPEGs to batches", "ImageFolder + DataLoader", None)]
    return [
        Comparison(
            f"512 px JPEGs to 64 px: {what}, time",
            record["peer"],
            entry["ratio"],
            entry["spread"],
            WANTED[what],
            more=False,
        )
        for what, entry in record["times"].items()
    ]


def run() -> None:
    """Both in turns on the same files; write the record."""
    with tempfile.TemporaryDirectory() as folder:
        tree = written(Path(folder) / "pictures")
        theirs = peer(tree)
        calls = {
            "first batch": (lambda: first(ours(tree, Path(folder))), lambda: first(theirs)),
            "first epoch": (lambda: sum(map(len, ours(tree, Path(folder)))), lambda: seen(theirs)),
        }
        times = {what: _entry(pair) for what, pair in calls.items()}
        faces = load_faces("animal-faces", size=SIZE, root=tree, cache_dir=Path(folder) / "kept", progress=False)
        times["later epoch"] = _entry((lambda: sum(map(len, batches(faces))), lambda: seen(theirs)))
    record = {
        "hardware": hardware(),
        "pictures": PICTURES,
        "batch": BATCH,
        "workers": cpu_count(),
        "peer": f"torchvision {version('torchvision')}, ImageFolder + DataLoader",
        "times": times,
    }
    (repository_root() / RESULTS).write_text(json.dumps(record, indent=1) + "\n")


def _entry(calls: tuple[Callable[[], object], Callable[[], object]]) -> dict:
    own, other = alternating(calls)
    ratios = [a / b for a, b in zip(own, other, strict=True)]
    entry = {
        "seconds": [round(statistics.median(times), 3) for times in (own, other)],
        "ratio": round(statistics.median(ratios), 4),
        "spread": spread_of(ratios),
    }
    print(entry, flush=True)
    return entry


def written(tree: Path) -> Path:
    """Drawn faces under grain, as large on disk as AFHQ's photographs: `train/cat/*.jpg` and so on."""
    from benchmarks.data.claims import jpegs_like_afhq

    jpegs = jpegs_like_afhq(24)
    for i in range(PICTURES):
        file = tree / "train" / CLASS_NAMES[i % 3] / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpegs[i % len(jpegs)])
    return tree


def ours(tree: Path, folder: Path) -> Iterator[Tensor]:
    """Batches of the course's pictures, from a cache that does not exist yet."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    yield from batches(load_faces("animal-faces", size=SIZE, root=tree, cache_dir=folder / "cache", progress=False))


def batches(faces) -> Iterator[Tensor]:
    """(B, 3, 64, 64) in [-1, 1], every picture once, in random order."""
    for chosen in torch.randperm(len(faces)).split(BATCH):
        yield faces.tensor(chosen.numpy())


def peer(tree: Path):
    """The same from torchvision, with a worker per core."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    look = transforms.Compose(
        [
            transforms.Resize(SIZE),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return DataLoader(ImageFolder(str(tree / "train"), look), BATCH, shuffle=True, num_workers=cpu_count())


def first(loader) -> tuple[object, Iterator]:
    """The first batch, and what would bring the next: thrown away here, its workers' end would be on the clock."""
    iterator = iter(loader)
    return next(iterator), iterator


def seen(loader) -> int:
    """How many pictures an epoch brought."""
    return sum(len(pictures) for pictures, _ in loader)
