"""From JPEGs to batches: the course's cache beside torchvision's ImageFolder and PyTorch's DataLoader.

    python -m benchmarks data    # times both on images like AFHQ's, and writes the record

The course decodes everything once, on all cores, and reads from memory ever after. The peer decodes what it needs, in
worker processes, and again in every epoch.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.data.jpegs import jpegs_like_afhq
from benchmarks.measure import Comparison, alternating, range_of, recorded
from benchmarks.record import hardware, write_record
from helpers.course import cpu_count, repository_root
from helpers.data import load_faces
from helpers.data.faces import CLASS_NAMES

RESULTS = "00_assets/results/data.json"
IMAGES = 960
BATCH = 64
SIZE = 64
BOUNDS = {"first batch": None, "first epoch": 1.0, "later epoch": 1.0}  # the first batch has no promise: see above


def comparisons() -> list[Comparison]:
    """Batches from the cache beside torchvision's loader, from the record."""
    if not (record := recorded(RESULTS)):
        return [Comparison("JPEGs to batches", "ImageFolder + DataLoader", None)]
    return [
        Comparison(
            f"512 px JPEGs to 64 px: {what}, time",
            record["peer"],
            entry["ratio"],
            entry["spread"],
            BOUNDS[what],
            more=False,
        )
        for what, entry in record["times"].items()
    ]


def run() -> None:
    """Time both loaders in turns on the same files; write the record."""
    with tempfile.TemporaryDirectory() as folder:
        tree = write_jpegs(Path(folder) / "pictures")
        theirs = peer(tree)
        calls = {
            "first batch": (lambda: first_batch(ours(tree, Path(folder))), lambda: first_batch(theirs)),
            "first epoch": (lambda: sum(map(len, ours(tree, Path(folder)))), lambda: count_images(theirs)),
        }
        times = {what: _entry(pair) for what, pair in calls.items()}
        faces = load_faces("animal-faces", size=SIZE, root=tree, cache_dir=Path(folder) / "kept", progress=False)
        times["later epoch"] = _entry((lambda: sum(map(len, batches(faces))), lambda: count_images(theirs)))
    record = {
        "hardware": hardware(),
        "pictures": IMAGES,
        "batch": BATCH,
        "workers": cpu_count(),
        "peer": f"torchvision {version('torchvision')}, ImageFolder + DataLoader",
        "times": times,
    }
    write_record(repository_root() / RESULTS, record)


def _entry(calls: tuple[Callable[[], object], Callable[[], object]]) -> dict:
    our_times, their_times = alternating(calls)
    ratios = [a / b for a, b in zip(our_times, their_times, strict=True)]
    entry = {
        "seconds": [round(statistics.median(times), 3) for times in (our_times, their_times)],
        "ratio": round(statistics.median(ratios), 4),
        "spread": range_of(ratios),
    }
    print(entry, flush=True)
    return entry


def write_jpegs(tree: Path) -> Path:
    """Write synthetic faces with grain, as large on disk as AFHQ's photographs: `train/cat/*.jpg` and so on."""
    jpegs = jpegs_like_afhq(24)
    for i in range(IMAGES):
        file = tree / "train" / CLASS_NAMES[i % 3] / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpegs[i % len(jpegs)])
    return tree


def ours(tree: Path, folder: Path) -> Iterator[Tensor]:
    """Batches of the course's loader, from a cache that does not exist yet."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    yield from batches(load_faces("animal-faces", size=SIZE, root=tree, cache_dir=folder / "cache", progress=False))


def batches(faces) -> Iterator[Tensor]:
    """(B, 3, 64, 64) in [-1, 1], every image once, in random order."""
    for chosen in torch.randperm(len(faces)).split(BATCH):
        yield faces.tensor(chosen.numpy())


def peer(tree: Path):
    """torchvision's ImageFolder in PyTorch's DataLoader, with a worker per core."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose(
        [
            transforms.Resize(SIZE),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return DataLoader(ImageFolder(str(tree / "train"), transform), BATCH, shuffle=True, num_workers=cpu_count())


def first_batch(loader) -> tuple[object, Iterator]:
    """The first batch, and the iterator: if it were dropped here, the end of its workers would be timed too."""
    iterator = iter(loader)
    return next(iterator), iterator


def count_images(loader) -> int:
    """The number of images in one epoch."""
    return sum(len(images) for images, _ in loader)
