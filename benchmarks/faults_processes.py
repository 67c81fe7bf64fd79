"""Training on two processes: the same losses as one, and a worker that dies.

`torchrun` starts them, for `accelerate launch --cpu --num_processes 2` starts one, and says nothing
(https://github.com/huggingface/accelerate/issues/2741); with GPUs it does what torchrun does.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from benchmarks.faults_training import EVERY, TINY, Outcome, last_step, same_run, saved_step
from helpers.course import repository_root
from helpers.tiny_sd import train
from helpers.weights import read_metadata

STEPS = 16
PATIENCE = 300  # seconds


@contextmanager
def launched(home: Path, run: Path, processes: int, *more: str) -> Iterator[subprocess.Popen]:
    """`torchrun --nproc_per_node N -m helpers.tiny_sd.train ...` on the CPU, its words in a file."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               "-m", "helpers.tiny_sd.train", *TINY, "--steps", str(STEPS), "--out", str(run), *more]  # fmt: skip
    surroundings = os.environ | {"COURSE_HOME": str(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (run.parent / f"{run.name}.said").open("w") as said:
        process = subprocess.Popen(command, cwd=repository_root(), env=surroundings, stdout=said, stderr=said,
                                   start_new_session=True)  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def said(run: Path) -> str:
    """All that a launched training printed."""
    return (run.parent / f"{run.name}.said").read_text()


def losses(run: Path) -> list[float]:
    """Of every step in its log."""
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def curves(home: Path) -> float:
    """The largest difference between the losses of two processes and of one."""
    with mock.patch.dict(os.environ, {"COURSE_HOME": str(home)}):
        train.main([*TINY, "--steps", str(STEPS), "--out", str(home / "by1")])
    with launched(home, home / "by2", 2) as process:
        if process.wait(PATIENCE):
            raise RuntimeError(f"two processes do not train:\n{said(home / 'by2')[-2000:]}")
    if (told := read_metadata(home / "by2" / "weights.safetensors")["processes"]) != "2":
        raise RuntimeError(f"two processes were asked for, and {told} trained")
    one, two = losses(home / "by1"), losses(home / "by2")
    if not len(one) == len(two) == STEPS:
        raise RuntimeError(f"{STEPS} steps should be logged, there are {len(one)} and {len(two)}")
    return max(abs(a - b) for a, b in zip(one, two, strict=True))


def dead_worker(home: Path, tries: int = 1) -> Outcome:
    """One of two processes is killed: the launch ends, and resumed it ends as the run that nothing disturbed.

    Needs `curves` to have run in this home: its two processes are what the result is compared with.
    """
    good, lost = 0, 0
    for attempt in range(tries):
        run = home / f"dead{attempt}"
        with launched(home, run, 2) as process:
            until = time.monotonic() + PATIENCE
            while last_step(run) < EVERY + 2 + attempt:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"two processes do not train:\n{said(run)[-2000:]}")
                time.sleep(0.01)
            os.kill(worker(process, rank=1), signal.SIGKILL)
            failed = process.wait(PATIENCE) != 0
        lost = max(lost, last_step(run) - saved_step(run))
        with launched(home, run, 2, "--resume") as process:
            resumed = process.wait(PATIENCE) == 0
        good += failed and resumed and same_run(run, home / "by2")
    return Outcome("one of two processes killed", tries, good, f"{lost} steps of {EVERY} between checkpoints")


def worker(launch: subprocess.Popen, rank: int) -> int:
    """The process of this rank below a launch."""
    import psutil

    for child in psutil.Process(launch.pid).children(recursive=True):
        if child.environ().get("LOCAL_RANK") == str(rank):
            return child.pid
    raise RuntimeError(f"the launch has no process of rank {rank}")
