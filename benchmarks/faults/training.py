"""Trainings that are killed, interrupted, starved of disk or driven to NaN, each beside one that nothing disturbed.

They run in processes forked from one that has imported everything: twenty of them start in the time of one.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from safetensors.torch import load_file

from helpers.tiny_sd import batches, train
from helpers.training import run as training
from helpers.weights import read_metadata

STEPS = 40  # of the training that is disturbed
EVERY = 4  # steps between its checkpoints
TINY = [
    "--size",
    "16",
    "--limit",
    "60",
    "--widths",
    "8",
    "16",
    "--batch-size",
    "8",
    "--log-every",
    "1",
    "--sample-every",
    "0",
    "--checkpoint-every",
    str(EVERY),
    "--precision",
    "fp32",  # "auto" measures, and so small a network is as fast in either
]
PATIENCE = 120  # seconds without a step after which a training hangs


class Outcome(NamedTuple):
    """The result of one fault, over all tries."""

    fault: str
    tried: int
    noticed: int  # how often it ended as promised
    lost: str  # what work was lost, at most


@contextmanager
def playground() -> Iterator["Playground"]:
    """A folder for trainings, with one in it that nothing disturbed."""
    with tempfile.TemporaryDirectory() as folder:
        yield Playground(Path(folder))


class Playground:
    """Starts trainings that share a home, and compares how they end with one that nothing disturbed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["accelerate", "torch._dynamo", __name__])
        for _ in range(2):  # the first process waits until everything is imported
            self.whole = self.fresh()
            start = time.perf_counter()
            process = self.start(self.whole)
            self.wait_for_step(process, self.whole, 1)
            self.start_up = time.perf_counter() - start  # seconds
            if self.ended(process, self.whole)[0]:
                raise RuntimeError(f"the training fails without any fault: {self.said(self.whole)}")

    def fresh(self) -> Path:
        """A new run's folder, which does not exist yet."""
        self.count += 1
        return self.folder / f"run{self.count:03}"

    def start(self, run: Path, *more: str, nan_at: int | None = None, most_bytes: int | None = None) -> BaseProcess:
        """Begin or resume a training; `nan_at`: a step whose loss is NaN, `most_bytes`: of the largest file."""
        argv = [*TINY, "--steps", str(STEPS), "--out", str(run), *more]
        (self.folder / f"{run.name}.err").unlink(missing_ok=True)
        process = self.context.Process(target=_train, args=(argv, self.folder, run.name, nan_at, most_bytes))
        process.start()
        return process

    def wait_until_it_runs(self, run: Path) -> None:
        """Wait until a training that was started has begun to run."""
        until = time.monotonic() + PATIENCE
        while not (self.folder / f"{run.name}.err").exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{run.name} has not begun in {PATIENCE} s")
            time.sleep(0.002)

    def wait_for_step(self, process: BaseProcess, run: Path, step: int) -> None:
        """Return when this step is in the log, or the training is over."""
        until = time.monotonic() + PATIENCE
        while process.is_alive() and last_step(run) < step:
            if time.monotonic() > until:
                raise TimeoutError(f"no step {step} in {PATIENCE} s: {self.said(run)}")
            time.sleep(0.002)

    def ended(self, process: BaseProcess, run: Path) -> tuple[int, str]:
        """Wait for the end: the exit status, and the standard error without the progress bar."""
        process.join(PATIENCE)
        if process.exitcode is None:
            raise TimeoutError(f"{run.name} has not ended in {PATIENCE} s: {self.said(run)}")
        return process.exitcode, self.said(run)

    def said(self, run: Path) -> str:
        """The lines on the standard error of a training, without those of its progress bar."""
        lines = (self.folder / f"{run.name}.err").read_text().replace("\r", "\n").splitlines()
        return "\n".join(line for line in lines if line.strip() and "step/s" not in line and "?step" not in line)

    def goes_on(self, run: Path) -> bool:
        """Resume without a fault; whether the run ends as the undisturbed one, bit by bit."""
        status, _ = self.ended(self.start(run, "--resume"), run)
        return status == 0 and same_run(run, self.whole)


def _train(argv: list[str], home: Path, name: str, nan_at: int | None, most_bytes: int | None) -> None:
    """Run the training command in this new process, on the CPU, with its errors in a file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a Ctrl-C before the command begins waits for it
    os.environ |= {"COURSE_HOME": str(home / "home"), "CUDA_VISIBLE_DEVICES": ""}
    with open(home / f"{name}.err", "w") as errors:
        os.dup2(errors.fileno(), 2)
        os.dup2(errors.fileno(), 1)
    torch.set_num_threads(1)
    if most_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    with (
        mock.patch.object(batches.Batches, "losses", _spoiled(batches.Batches.losses, nan_at)),
        mock.patch.object(training.Run, "__init__", _begun(training.Run.__init__)),
    ):
        sys.exit(train.main(argv))


def _begun(begin: Callable) -> Callable:
    def wrapped(self, *arguments):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        begin(self, *arguments)

    return wrapped


def _spoiled(losses: Callable, nan_at: int | None) -> Callable:
    calls = iter(range(1, sys.maxsize))

    def wrapped(self, model, generator):
        values, details = losses(self, model, generator)
        return (values * float("nan") if next(calls) == nan_at else values), details

    return wrapped if nan_at else losses


def last_step(run: Path) -> int:
    """The last step that is completely logged; 0: none."""
    try:
        lines = (run / "log.jsonl").read_text().splitlines(True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith("\n")]
    return json.loads(whole[-1])["step"] if whole else 0


def saved_step(run: Path) -> int:
    """The step of the newest checkpoint; 0: none."""
    names = ("checkpoint.safetensors", "checkpoint.previous.safetensors")
    return max((int(read_metadata(run / name)["step"]) for name in names if (run / name).exists()), default=0)


def same_run(first: Path, second: Path) -> bool:
    """Whether weights, last checkpoint and every logged loss are the same, bit by bit."""
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        a = load_file(first / name)
        b = load_file(second / name)
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            return False
    losses = [
        [(row["step"], row["loss"]) for row in map(json.loads, (run / "log.jsonl").read_text().splitlines())]
        for run in (first, second)
    ]
    return losses[0] == losses[1]


# --- the faults -----------------------------------------------------------------------------------------------------


def killed(ground: Playground, tries: int, number: signal.Signals = signal.SIGKILL, seed: int = 0) -> Outcome:
    """One training, hit by a signal at as many random moments, and resumed each time.

    Every third time it is hit while it starts, or soon after, otherwise one to six steps further on.
    """
    moments = random.Random(seed)
    run = ground.fresh()
    lost = 0
    good = 0
    hit = 0
    while hit < tries:
        process = ground.start(run, *(["--resume"] if run.exists() else []))
        if hit % 3:
            ground.wait_for_step(process, run, last_step(run) + moments.randint(1, 6))
        else:
            ground.wait_until_it_runs(run)
        time.sleep(moments.uniform(0, 0.05 if hit % 3 else ground.start_up))
        with suppress(ProcessLookupError):  # it may have ended by itself
            send(process, number)
        status, _ = ground.ended(process, run)
        if (run / "weights.safetensors").exists():  # it came to its end before: begin another
            good = good if same_run(run, ground.whole) else -tries
            run = ground.fresh()
            continue
        hit += 1
        good += status == (-number if number == signal.SIGKILL else 130)
        lost = max(lost, last_step(run) - saved_step(run))
    good = good if ground.goes_on(run) and not list(run.glob(".*")) else 0  # and nothing half-written is left
    what = {signal.SIGKILL: "training killed (SIGKILL)", signal.SIGINT: "training interrupted (Ctrl-C)"}[number]
    return Outcome(f"{what} at random moments, resumed", tries, good, steps_of(lost))


def send(process: BaseProcess, number: signal.Signals) -> None:
    """Send a signal to a process that was started."""
    assert process.pid is not None, "the process was not started"
    os.kill(process.pid, number)


def steps_of(lost: int) -> str:
    """The most steps that had to be made again."""
    return f"{lost} steps of {EVERY} between checkpoints"


def disk_full(ground: Playground, tries: int, seed: int = 0) -> Outcome:
    """The disk has no room for the next checkpoint: a clear end, the last one whole, and a resumed training."""
    good = 0
    lost = 0
    room = random.Random(seed)
    with small_disk(ground) as disk:
        for _ in range(tries):
            run = disk.folder / ground.fresh().name
            process = ground.start(run)
            ground.wait_for_step(process, run, 2 * EVERY)
            send(process, signal.SIGKILL)
            process.join()
            before = saved_step(run)
            size = (run / "checkpoint.safetensors").stat().st_size
            with disk.nearly_full(room.randrange(size // 8, size)) as limit:
                status, said = ground.ended(ground.start(run, "--resume", most_bytes=limit), run)
            lost = max(lost, last_step(run) - saved_step(run))
            clear = f"cannot be written ({disk.error})" in said and f"checkpoint of step {before} is whole" in said
            good += status == 1 and clear and saved_step(run) == before and ground.goes_on(run)
            shutil.rmtree(run)
    return Outcome(f"disk full while a checkpoint is saved ({disk.description})", tries, good, steps_of(lost))


class Disk(NamedTuple):
    """A folder that can be filled."""

    folder: Path
    description: str
    error: str  # what the system says when it is full
    can_be_filled: bool

    @contextmanager
    def nearly_full(self, left: int) -> Iterator[int | None]:
        """Leave only `left` bytes of room; yields a limit for each file where the disk itself cannot be filled."""
        if not self.can_be_filled:
            yield left
            return
        filler = self.folder / "filler"
        with open(filler, "wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.folder).free - left)))
        yield None
        filler.unlink()


@contextmanager
def small_disk(ground: Playground, size: int = 32 * 2**20) -> Iterator[Disk]:
    """A disk in memory where mounting one is allowed; else a limit on the size of a file stands in."""
    folder = ground.fresh()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        yield Disk(folder, "a limit on file sizes as a stand-in", "File too large", can_be_filled=False)
        return
    try:
        yield Disk(folder, f"{size // 2**20} MiB in memory", "No space left on device", can_be_filled=True)
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def not_a_number(ground: Playground, tries: int, seed: int = 0) -> Outcome:
    """A loss is NaN: the step is named, nothing was updated by it, the last checkpoint is good."""
    good = 0
    lost = 0
    steps = random.Random(seed)
    for _ in range(tries):
        run = ground.fresh()
        step = steps.randrange(2, STEPS)
        status, said = ground.ended(ground.start(run, nan_at=step), run)
        lost = max(lost, step - 1 - saved_step(run))
        clear = f"at step {step} the loss is nan" in said and (saved_step(run) == 0) == ("No checkpoint" in said)
        good += status == 1 and clear and saved_step(run) == (step - 1) // EVERY * EVERY and ground.goes_on(run)
    return Outcome("loss is NaN", tries, good, steps_of(lost))
