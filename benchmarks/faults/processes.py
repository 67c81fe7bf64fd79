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
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil
import torch

from benchmarks.faults.training import EVERY, TINY, Outcome, last_step, same_run, saved_step, steps_of
from helpers.course import repository_root
from helpers.tiny_sd import train
from helpers.weights import read_metadata

STEPS = 40
PATIENCE = 300  # seconds


@contextmanager
def launched(home: Path, run: Path, processes: int, *more: str) -> Iterator[subprocess.Popen]:
    """`torchrun --nproc_per_node N -m helpers.tiny_sd.train ...` on the CPU, its output in a file."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        "-m",
        "helpers.tiny_sd.train",
        *TINY,
        "--steps",
        str(STEPS),
        "--out",
        str(run),
        *more,
    ]
    surroundings = os.environ | {"COURSE_HOME": str(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (run.parent / f"{run.name}.said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=repository_root(), env=surroundings, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        for running in [*workers(process), process] if process.poll() is None else []:
            os.kill(running.pid, signal.SIGKILL)
        process.wait()


def said(run: Path) -> str:
    """All that a launched training printed."""
    return (run.parent / f"{run.name}.said").read_text()


def losses(run: Path) -> list[float]:
    """The loss of every step in a run's log."""
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def curves(home: Path) -> float:
    """The largest difference between the losses of two processes and of one."""
    with (
        mock.patch.dict(os.environ, {"COURSE_HOME": str(home)}),
        mock.patch.object(torch.cuda, "is_available", return_value=False),
    ):
        train.main([*TINY, "--steps", str(STEPS), "--out", str(home / "by1")])
    with launched(home, home / "by2", 2) as process:
        if process.wait(PATIENCE):
            raise RuntimeError(f"two processes do not train:\n{said(home / 'by2')[-2000:]}")
    if (processes := read_metadata(home / "by2" / "weights.safetensors")["processes"]) != "2":
        raise RuntimeError(f"two processes were asked for, and {processes} trained")
    single = losses(home / "by1")
    double = losses(home / "by2")
    if not len(single) == len(double) == STEPS:
        raise RuntimeError(f"{STEPS} steps should be logged, there are {len(single)} and {len(double)}")
    return max(abs(a - b) for a, b in zip(single, double, strict=True))


def hit(home: Path, interrupts: int) -> list[Outcome]:
    """Kill one of two processes, then interrupt all of them several times; resume each time.

    The launcher's workers are sessions of their own: Ctrl-C reaches it alone and is passed on. A cluster's scheduler
    signals every process, and the launcher does so again: every second time that is tried.

    Needs `curves` to have run in this home: the run must end as its two processes did, whom nothing disturbed.
    """
    run = home / "hit"
    ended = {"killed": 0, "interrupted": 0}
    lost = {"killed": 0, "interrupted": 0}
    for attempt in range(1 + interrupts):
        what = "interrupted" if attempt else "killed"
        with launched(home, run, 2, *(["--resume"] if attempt else [])) as process:
            _wait_for_step(process, run, max(EVERY, last_step(run)) + 2)
            if what == "killed":
                os.kill(next(worker.pid for worker in workers(process) if rank_of(worker) == "1"), signal.SIGKILL)
            else:
                for worker in [*(workers(process) if attempt % 2 else []), process]:
                    os.kill(worker.pid, signal.SIGINT)
            ended[what] += process.wait(PATIENCE) != 0 and saved_step(run) > 0
        lost[what] = max(lost[what], last_step(run) - saved_step(run))
    with launched(home, run, 2, "--resume") as process:
        same = process.wait(PATIENCE) == 0 and same_run(run, home / "by2")
    tried = {
        "one of two processes killed, resumed": ("killed", 1),
        "two processes interrupted (Ctrl-C), resumed": ("interrupted", interrupts),
    }
    return [
        Outcome(name, times, ended[what] if same else 0, steps_of(lost[what])) for name, (what, times) in tried.items()
    ]


def _wait_for_step(process: subprocess.Popen, run: Path, step: int) -> None:
    until = time.monotonic() + PATIENCE
    while last_step(run) < step:
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"two processes do not train:\n{said(run)[-2000:]}")
        time.sleep(0.01)


def workers(launch: subprocess.Popen) -> list[psutil.Process]:
    """The training processes below a launch."""
    return [child for child in psutil.Process(launch.pid).children(recursive=True) if rank_of(child)]


def rank_of(process: psutil.Process) -> str | None:
    """ "0", "1", ...; None for a process that does not train."""
    with suppress(psutil.Error):  # it may be gone by now
        return process.environ().get("LOCAL_RANK")
    return None
