"""How long the course takes to import, on top of PyTorch, beside the libraries that do the same.

python -m benchmarks check startup
python -m benchmarks startup
"""

import json
import os
import statistics
import subprocess
import sys

from benchmarks.measure import ROUNDS, Comparison, range_of, recorded
from benchmarks.record import hardware, write_record
from benchmarks.report import Row, at_most
from helpers.course import repository_root

RESULTS = "00_assets/results/startup.json"
MOST = 0.3  # seconds on top of PyTorch
LIGHT = {
    "import helpers": "import helpers",
    "pictures, a network and training, import": "from helpers.data import load_faces; from helpers.training import "
    "train; from helpers.tiny_sd.model import TinySD",
}
PAIRS = {  # what is timed -> (ours, theirs, the peer's name)
    "Stable Diffusion 1, import": (
        "from helpers.sd1.pipeline import StableDiffusion1",
        "from diffusers import StableDiffusionPipeline",
        "diffusers",
    ),
    "PaliGemma, import": (
        "from helpers.vlm.pipeline import PaliGemma",
        "from transformers import PaliGemmaForConditionalGeneration",
        "transformers",
    ),
}


def check() -> list[Row]:
    """Time what every notebook imports now; read what was measured beside the libraries."""
    return [
        *(at_most(f"{what}, on top of torch", spent, MOST, "s") for what, spent in _light().items()),
        *(comparison.row() for comparison in comparisons()),
    ]


def comparisons() -> list[Comparison]:
    """Imports beside those of the libraries, from the record."""
    if not (record := recorded(RESULTS)):
        return [Comparison("import", "diffusers", None)]
    return [
        Comparison(entry["what"], entry["peer"], entry["ratio"], entry["spread"], 1.0, more=False)
        for entry in record["imports"]
    ]


def run() -> None:
    """Import both in processes of their own, alternating; write the record."""
    entries = []
    for what, (ours, theirs, peer) in PAIRS.items():
        our_times, their_times = seconds([ours, theirs], ROUNDS)
        ratios = [a / b for a, b in zip(our_times, their_times, strict=True)]
        entries.append(
            {
                "what": what,
                "peer": peer,
                "seconds": [round(statistics.median(t), 2) for t in (our_times, their_times)],
                "ratio": round(statistics.median(ratios), 3),
                "spread": range_of(ratios),
            }
        )
        print(entries[-1], flush=True)
    light = {what: round(spent, 3) for what, spent in _light().items()}
    record = {"hardware": hardware(), "seconds": light, "imports": entries}
    write_record(repository_root() / RESULTS, record)


IMPORTS = """
import json, os, sys, time, torch
statements, rounds = json.loads(sys.argv[1])
for statement in statements * rounds:
    read, write = os.pipe()
    if os.fork() == 0:
        start = time.perf_counter()
        exec(statement)
        os.write(write, str(time.perf_counter() - start).encode())
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"failed: {statement}")
    os.close(write)
    print(os.read(read, 100).decode(), flush=True)
"""


def seconds(statements: list[str], rounds: int) -> list[list[float]]:
    """Of imports on top of PyTorch, in turns, after one round of warm-up; each in a process forked from one with it."""
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps([statements, rounds + 1])],
        cwd=repository_root(),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    times = list(map(float, process.stdout.split()))
    return [times[i :: len(statements)][1:] for i in range(len(statements))]


def _light() -> dict[str, float]:
    return dict(zip(LIGHT, map(statistics.median, seconds(list(LIGHT.values()), ROUNDS)), strict=True))
