"""Faults: trainings, files and caches when something goes wrong, tried anew each time.

python -m benchmarks check faults    # minutes: kills, full disks, damaged and hostile files, two processes, bad inputs
python -m benchmarks faults          # the same, and writes the table
"""

import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.faults import files, hostile, inputs, processes, training
from benchmarks.faults.training import Outcome
from benchmarks.record import write_record
from benchmarks.report import Row, as_table, at_most, claim
from helpers.course import repository_root

RECORD = "00_assets/results/faults.json"
KILLS = 20
DAMAGES = 40
TRIES = 5


def check() -> list[Row]:
    """Try every fault, compare two processes with one, and run the tests of inputs from bug reports."""
    reports = inputs.try_all(inputs.marked_files(repository_root() / "tests"))
    return [*_rows(*_all()), *inputs.rows(reports)]


def _all() -> tuple[list[Outcome], float]:
    """The outcome of every fault, and the largest difference between the losses of two processes and of one."""
    with tempfile.TemporaryDirectory() as folder:
        apart = processes.curves(Path(folder))
        return [*tried(), *processes.hit(Path(folder), TRIES)], apart


def _rows(outcomes: list[Outcome], apart: float) -> list[Row]:
    rows = [
        claim(
            outcome.fault,
            f"{outcome.noticed} of {outcome.tried} as promised; lost: {lost_of(outcome)}",
            f"all {outcome.tried}",
            outcome.noticed == outcome.tried,
        )
        for outcome in outcomes
    ]
    return [*rows, at_most("loss of two processes (torchrun), away from one's", apart, 1e-4)]


def lost_of(outcome: Outcome) -> str:
    """The work that was lost; "unknown" where a try did not end as promised."""
    return outcome.lost if outcome.noticed == outcome.tried else "unknown"


def tried() -> Iterator[Outcome]:
    """The outcome of each fault, all but those of several processes."""
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
        outcome = files.read_only_checkout(Path(folder))
        if outcome is None:
            print("not checked here: a checkout mounted read-only (no right to mount)", file=sys.stderr)
        else:
            yield outcome
    yield from hostile.hostile()


def run() -> None:
    """Write the table of what was tried, how often it ended as promised, and what it cost."""
    outcomes, apart = _all()
    print(as_table(_rows(outcomes, apart)))
    record = {
        "two_processes_apart": apart,
        "faults": [outcome._asdict() | {"lost": lost_of(outcome)} for outcome in outcomes],
    }
    write_record(repository_root() / RECORD, record)
