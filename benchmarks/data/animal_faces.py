"""The photographs, summarised: counts and averages, which show no single photograph.

    python -m benchmarks animal_faces    # reads the photographs where they are, writes the record of notebook 01

Only the cats are AFHQ's (Choi et al., CC BY-NC 4.0); dogs and wild animals come from research collections. No
photograph ships: the record holds counts, colours, near-duplicates, and averages over thousands of images.
"""

import json
import time

from benchmarks.report import Row, at_least, at_most, claim
from helpers.course import repository_root
from helpers.data import load_faces
from helpers.data.summary import RECORD, file_statistics, load_summary, save_summary, summarise

MOST_BYTES = 300_000  # of the record, both files together
FEWEST_AVERAGED = 1000  # images in an average: no single photograph can be recognised in it


def check() -> list[Row]:
    """Read the record; its photographs are not part of the repository."""
    path = repository_root() / RECORD
    if not path.with_suffix(".npz").exists():
        return [Row("photographs, summarised", "never run", "python -m benchmarks animal_faces", False)]
    summary = load_summary()
    size = sum(path.with_suffix(suffix).stat().st_size for suffix in (".json", ".npz"))
    train = sum(summary.counts["train"].values())
    return [
        at_least(
            f"photographs ({train:,} for training): averaged over, equally many of each class",
            summary.averaged,
            FEWEST_AVERAGED,
        ),
        at_most("photographs: size of the record", size, MOST_BYTES, "bytes"),
        claim(
            "photographs: every class has some",
            summary.counts["train"],
            "three classes",
            len(summary.counts["train"]) == 3 and all(summary.counts["train"].values()),
        ),
    ]


def run() -> None:
    """Summarise the photographs at 64 px, and print what is written."""
    start = time.perf_counter()
    train = load_faces("animal-faces", "train", 64)
    val = load_faces("animal-faces", "val", 64)
    summary = summarise(train, val, file_statistics())
    save_summary(summary, repository_root() / RECORD)
    print(json.dumps({"counts": summary.counts, "averaged": summary.averaged, "duplicates": summary.duplicates}))
    print(f"{time.perf_counter() - start:.0f} s")
