"""Recomputes what the course claims, or measures it anew.

python -m benchmarks check [TOPIC ...]   # every figure that ships with its means; exit 1 where one is short
python -m benchmarks TOPIC               # measures the topic and writes 00_assets/results/TOPIC.json
python -m benchmarks all                 # everything that has a peer, beside it: under 25 minutes on two cores
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

from benchmarks import report

TOPICS = {  # name -> module with check() -> list[Row], and run() where there is something to measure
    "course": "benchmarks.course",
    "data": "benchmarks.data.claims",
    "method1": "benchmarks.tiny_sd.pixels",
    "animal_faces": "benchmarks.data.animal_faces",
    "sd1": "benchmarks.sd1.claims",
    "sd3": "benchmarks.sd3.claims",
    "autoencoders": "benchmarks.autoencoders.claims",
    "tiny_sd": "benchmarks.tiny_sd.claims",
    "paligemma": "benchmarks.paligemma.claims",
    "exercises": "benchmarks.exercises",
    "own_images": "benchmarks.own_images",
    "startup": "benchmarks.startup",
    "threads": "benchmarks.threads",
    "faults": "benchmarks.faults.claims",
    "live": "benchmarks.live.claims",
    "house": "benchmarks.house",
}


def topic(name: str) -> ModuleType:
    """The module of a topic.

    Raises:
        ValueError: if there is no such topic.
    """
    if name not in TOPICS:
        raise ValueError(f"there is no topic {name!r}; topics: {', '.join(TOPICS)}")
    return importlib.import_module(TOPICS[name])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line per claim; 1 where one is short, 2 where the command was not understood."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Recompute what the course claims (check), or measure one topic anew.",
        epilog=f"Topics: {', '.join(TOPICS)}.",
    )
    parser.add_argument("words", nargs="+", metavar="check [TOPIC ...] | TOPIC | all")
    first, *rest = parser.parse_args(arguments).words
    if [first, *rest] == ["all"]:
        return importlib.import_module("benchmarks.race_all").main()
    try:
        if first == "check":
            modules = [topic(name) for name in rest or TOPICS]
        else:
            modules = [topic(name) for name in (first, *rest)]
    except ValueError as error:
        parser.error(str(error))
    if first != "check":
        return max(_run(module) for module in modules)
    rows: list[report.Row] = []
    for module in modules:
        rows += module.check()
    print(report.as_table(rows))
    return 0 if all(row.ok for row in rows) else 1


def _run(module: ModuleType) -> int:
    if not hasattr(module, "run"):
        print(f"{module.__name__} has nothing to measure anew; try: python -m benchmarks check", file=sys.stderr)
        return 2
    module.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
