"""Every fault that `python -m benchmarks check faults` tries, a few times each."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import files, hostile, processes, training
from benchmarks.faults.training import EVERY, Outcome, Playground, playground, same_run, saved_step
from benchmarks.refusals import refused

HOSTILE = (
    hostile.pickles,
    hostile.zips,
    hostile.headers,
    hostile.configurations,
    hostile.images,
)


@pytest.fixture(scope="module")
def ground() -> Iterator[Playground]:
    with playground() as ground:
        yield ground


def holds(outcome: Outcome) -> bool:
    return outcome.tried == outcome.noticed > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_hit_at_random_moments_and_resumed_it_ends_as_if_nothing_had_been(ground, number):
    outcome = training.killed(ground, 3, number)
    assert holds(outcome), outcome
    assert int(outcome.lost.split()[0]) <= (EVERY if number == signal.SIGKILL else 0)


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(ground):
    assert holds(training.disk_full(ground, 1))


def test_a_limit_on_files_stands_in_where_no_disk_can_be_mounted(ground, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    outcome = training.disk_full(ground, 1, seed=1)
    assert holds(outcome) and "stand-in" in outcome.fault


def test_a_loss_that_is_no_number_stops_at_its_step(ground):
    assert holds(training.not_a_number(ground, 1))


def test_another_end_would_be_noticed(ground, tmp_path):
    """The comparison above can fail: another seed is another run."""
    process = ground.start(tmp_path, "--seed", "1")
    assert ground.ended(process, tmp_path)[0] == 0 and saved_step(tmp_path) == training.STEPS
    assert same_run(ground.whole, ground.whole) and not same_run(tmp_path, ground.whole)


def test_damaged_files_are_never_believed(tmp_path):
    assert all(map(holds, files.all_damaged(tmp_path, 12)))


def test_a_reader_that_believes_everything_would_be_noticed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    before = path.read_bytes()
    outcome = files.damaged("a file", path, lambda: path.read_bytes() == before, 10, "nothing")
    assert outcome.noticed == 0 and path.read_bytes() == before


def test_one_cache_built_at_once_by_several(tmp_path):
    assert holds(files.built_at_once(2))


def test_no_room_for_a_cache(tmp_path):
    assert holds(files.full_disk(tmp_path, 2))


def test_a_checkout_that_cannot_be_written(tmp_path):
    if (outcome := files.read_only_checkout(tmp_path)) is None:
        pytest.skip("no right to mount the checkout read-only for a process")
    assert holds(outcome)


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_hostile_files_are_refused(make, tmp_path: Path):
    faults = make(tmp_path)
    assert [name for name, fault in faults.items() if not refused(fault)] == []


@pytest.mark.slow
def test_two_processes_walk_as_one_and_lose_little_where_one_dies_or_both_are_stopped(tmp_path):
    assert processes.curves(tmp_path) <= 1e-4
    killed, interrupted = processes.hit(tmp_path, interrupts=1)
    assert holds(killed) and holds(interrupted) and interrupted.lost.startswith("0 steps")
