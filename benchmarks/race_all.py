"""Everything of the course that has a peer, timed beside it in one go: `python -m benchmarks all`, or `make bench`.

Each part runs in a process of its own, both contenders in turns within it, and writes its record; then one table is
printed, and filled into the page on what was measured. Where there is a GPU, training on it is measured as well.
"""

import importlib
import importlib.util
import subprocess
import sys
import time
from itertools import chain
from typing import Any, NamedTuple

from benchmarks.measure import Comparison, recorded
from benchmarks.record import hardware, write_record
from benchmarks.report import as_table
from helpers.course import repository_root
from pages import evidence, fill


class Part(NamedTuple):
    """What is timed: a module with `comparisons()`, its function that measures, and the record that this writes."""

    module: str
    measure: str
    record: str

    def comparisons(self) -> list[Comparison]:
        """What the module says of its record."""
        return importlib.import_module(self.module).comparisons()


PARTS = tuple(
    Part(f"benchmarks.{module}", measure, f"00_assets/results/{record}.json")
    for module, measure, record in (
        ("startup", "run", "startup"),
        ("data.loading", "run", "data"),
        ("tiny_sd.pixels", "time_speeds", "method1"),
        ("sd1.claims", "run", "sd1"),
        ("sd3.claims", "run", "sd3"),
        ("autoencoders.vq", "run", "vq"),
        ("paligemma.claims", "run", "paligemma"),
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
    rows = [comparison.row() for comparison in comparisons()]
    print(as_table(rows))
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes on {hardware()}")
    write_table()
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
    return list(chain.from_iterable(part.comparisons() for part in PARTS))


def write_table() -> None:
    """Keep the rows of all records, and fill the table into its page."""
    rows = []
    for part in PARTS:
        for comparison in part.comparisons():
            if comparison.ratio is not None:
                rows.append(_entry(comparison, part))
    write_record(evidence.BESIDE, {"rows": rows})
    fill.main()


def _entry(comparison: Comparison, part: Part) -> dict[str, Any]:
    """A row of the table, as the page reads it."""
    return {
        "what": comparison.what,
        "peer": comparison.peer,
        "ratio": comparison.ratio,
        "spread": comparison.ratio_range,
        "ok": comparison.row().ok,
        "promised": comparison.promise(),
        "hardware": comparison.hardware or recorded(part.record)["hardware"],
    }


if __name__ == "__main__":
    write_table()
