"""How long the course takes to import, on top of PyTorch, beside the libraries that do the same.

    python -m benchmarks check startup
    python -m benchmarks startup
"""

import json
import os
import statistics
import subprocess
import sys

from benchmarks.report import Row, at_most
from benchmarks.side_by_side import ROUNDS, Comparison, hardware, recorded, spread_of
from helpers.course import repository_root

RESULTS = "00_assets/results/startup.json"
MOST = 0.3  # seconds for `import helpers` on top of PyTorch
PAIRS = {  # what is timed -> (ours, theirs, the peer's name)
    "Stable Diffusion 1, import": ("from helpers.sd1.pipeline import StableDiffusion1",
                                   "from diffusers import StableDiffusionPipeline", "diffusers"),
    "PaliGemma, import": ("from helpers.vlm.pipeline import PaliGemma",
                          "from transformers import PaliGemmaForConditionalGeneration", "transformers"),
}  # fmt: skip


def check() -> list[Row]:
    """Time `import helpers` now; read what was measured beside the libraries."""
    return [at_most("import helpers, on top of torch", _median("import helpers"), MOST, "s"),
            *(one.row() for one in comparisons())]  # fmt: skip


def comparisons() -> list[Comparison]:
    """What the record says."""
    if not (record := recorded(RESULTS)):
        return [Comparison("import", "diffusers", None)]
    return [Comparison(entry["what"], entry["peer"], entry["ratio"], entry["spread"], 1.0, more=False)
            for entry in record["imports"]]  # fmt: skip


def run() -> None:
    """Import both in processes of their own, in turns; write the record."""
    entries = []
    for what, (ours, theirs, peer) in PAIRS.items():
        rounds = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS + 1)][1:]  # the first is warm-up
        own, other = zip(*rounds, strict=True)
        ratios = [a / b for a, b in zip(own, other, strict=True)]
        entries.append({"what": what, "peer": peer, "seconds": [round(statistics.median(t), 2) for t in (own, other)],
                        "ratio": round(statistics.median(ratios), 3), "spread": spread_of(ratios)})  # fmt: skip
        print(entries[-1], flush=True)
    record = {"hardware": hardware(), "import_helpers_seconds": round(_median("import helpers"), 3), "imports": entries}
    (repository_root() / RESULTS).write_text(json.dumps(record, indent=1) + "\n")


def seconds(statement: str) -> float:
    """Of one import on top of PyTorch, in a process of its own."""
    code = f"import time, torch\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    said = subprocess.run([sys.executable, "-c", code], cwd=repository_root(), capture_output=True, text=True,
                          check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})  # fmt: skip
    return float(said.stdout.split()[-1])


def _median(statement: str, times: int = 5) -> float:
    return statistics.median(seconds(statement) for _ in range(times))
