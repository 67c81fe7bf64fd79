"""Faults: what becomes of trainings, files and caches when something goes wrong, tried anew each time.

python -m benchmarks check faults    # minutes: kills, full disks, damaged files, hostile files, two processes
python -m benchmarks faults          # the same, and writes the table
"""

import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.faults import files, hostile, processes, training
from benchmarks.faults.training import Outcome
from benchmarks.report import Row, at_most, lines, true
from helpers.course import repository_root

RECORD = "00_assets/results/faults.json"
KILLS = 20
DAMAGES = 40
TRIES = 5


def check() -> list[Row]:
    """Try every fault, and compare two processes with one."""
    return _rows(*_all())


def _all() -> tuple[list[Outcome], float]:
    """What every fault did, and how far the losses of two processes are from those of one."""
    with tempfile.TemporaryDirectory() as folder:
        apart = processes.curves(Path(folder))
        return [*tried(), *processes.hit(Path(folder), TRIES)], apart


def _rows(outcomes: list[Outcome], apart: float) -> list[Row]:
    rows = [
        true(
            one.fault,
            f"{one.noticed} of {one.tried} as promised; lost: {lost_of(one)}",
            f"all {one.tried}",
            one.noticed == one.tried,
        )
        for one in outcomes
    ]
    return [*rows, at_most("loss of two processes (torchrun), away from one's", apart, 1e-4)]


def lost_of(outcome: Outcome) -> str:
    """What was lost; unknown where a try did not end as promised."""
    return outcome.lost if outcome.noticed == outcome.tried else "unknown"


def tried() -> Iterator[Outcome]:
    """What each fault did, all but those of several processes."""
    with training.playground() as ground, tqdm(desc="faults", unit=" kind", leave=False) as bar:
        for outcome in _single(ground):
            bar.update()
            yield outcome


def _single(ground: training.Playground) -> Iterator[Outcome]:
    yield training.killed(ground, KILLS)
    yield training.killed(ground, KILLS, signal.SIGINT, seed=1)
    yield training.disk_full(ground, TRIES)
    yield training.not_a_number(ground, TRIES)
    with tempfile.TemporaryDirectory() as folder:
        yield from files.all_damaged(Path(folder), DAMAGES)
    with tempfile.TemporaryDirectory() as folder:
        yield files.full_disk(Path(folder), TRIES)
    yield files.built_at_once(TRIES)
    with tempfile.TemporaryDirectory() as folder:
        if (outcome := files.read_only_checkout(Path(folder))) is not None:
            yield outcome
        else:
            print("not checked here: a checkout mounted read-only (no right to mount)", file=sys.stderr)
    yield from hostile.hostile()


def run() -> None:
    """Write the table of what was tried, how often it ended as promised, and what it cost."""
    outcomes, apart = _all()
    print(lines(_rows(outcomes, apart)))
    record = {"two_processes_apart": apart, "faults": [one._asdict() | {"lost": lost_of(one)} for one in outcomes]}
    (repository_root() / RECORD).write_text(json.dumps(record, indent=1) + "\n")
