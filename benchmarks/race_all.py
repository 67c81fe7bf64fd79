"""Everything of the course that has a peer, timed beside it in one go: `python -m benchmarks all`, or `make bench`.

Each part runs in a process of its own, both contenders in turns within it, and writes its record; then one table is
printed, and filled into the page on what was measured. Where there is a GPU, training on it is measured as well.
"""

import importlib.util
import json
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks.measure import Comparison, hardware, recorded
from benchmarks.report import lines
from helpers.course import repository_root
from pages import evidence, fill


class Part(NamedTuple):
    """What is timed: a module with `comparisons()`, its function that measures, and the record that this writes."""

    module: str
    measure: str
    record: str

    def comparisons(self) -> list[Comparison]:
        return importlib.import_module(self.module).comparisons()


PARTS = tuple(
    Part(f"benchmarks.{module}", measure, f"00_assets/results/{record}.json")
    for module, measure, record in (
        ("startup", "run", "startup"),
        ("data_path", "run", "data"),
        ("method1", "beside", "method1"),
        ("sd1", "run", "sd1"),
        ("sd3", "run", "sd3"),
        ("vq", "run", "vq"),
        ("paligemma", "run", "paligemma"),
    )
)
ON_A_GPU = Part("benchmarks.cuda", "run", "00_assets/results/cuda.json")  # alone: no peer beside it
PEERS = ("denoising_diffusion_pytorch", "vector_quantize_pytorch", "diffusers", "transformers")


def main() -> int:
    """Measure, print and record; 1 where a ratio is short of what is promised."""
    if absent := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        print(f"not installed: {', '.join(absent)}. pip install -e '.[bench]' (make bench does)", file=sys.stderr)
        return 2
    start = time.perf_counter()
    failed = [part.module for part in (*PARTS, ON_A_GPU) if not _measured(part)]
    rows = [one.row() for one in comparisons()]
    print(lines(rows))
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes on {hardware()}")
    keep()
    if failed:
        print(f"failed, so the table shows earlier figures of: {', '.join(failed)}", file=sys.stderr)
    return 0 if all(row.ok for row in rows) and not failed else 1


def _measured(part: Part) -> bool:
    start = time.perf_counter()
    print(f"== {part.module.removeprefix('benchmarks.')}", flush=True)
    code = f"import {part.module} as part; part.{part.measure}()"
    status = subprocess.run([sys.executable, "-c", code], cwd=repository_root(), check=False).returncode
    print(f"== {time.perf_counter() - start:.0f} s", flush=True)
    return status == 0


def comparisons() -> list[Comparison]:
    """What the records say, in the order of the parts."""
    return [one for part in PARTS for one in part.comparisons()]


def keep() -> None:
    """Keep the rows of all records, and fill the table into its page."""
    rows = [
        {
            "what": one.what,
            "peer": one.peer,
            "ratio": one.ratio,
            "spread": one.spread,
            "ok": one.row().ok,
            "promised": "" if one.wanted is None else f"{'at least' if one.more else 'at most'} {one.wanted:g}",
            "hardware": one.hardware or recorded(part.record)["hardware"],
        }
        for part in PARTS
        for one in part.comparisons()
        if one.ratio is not None
    ]
    evidence.BESIDE.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    fill.main()


if __name__ == "__main__":
    keep()
