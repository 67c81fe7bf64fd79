"""How PyTorch's threads should wait for one another: one training step of Method 1, under each setting of OpenMP.

    python -m benchmarks check threads
    python -m benchmarks threads         # three minutes

A step is many short parallel sections, and at the end of each one the threads wait for the slowest. By default
OpenMP's threads spin while they wait: they keep their cores busy. That is quickest where every thread has a core to
itself. Beside other programs, a spinning thread takes the core that the thread it waits for would need. So each
setting is timed twice: beside whatever else the computer is doing, and beside two busy loops on top of that. How many
cores other programs kept busy is in the record: on a quiet computer none in the first case, two in the second.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.record import hardware, read_record, write_record
from benchmarks.report import Row, at_most, claim
from helpers import SPIN_COUNT
from helpers.course import repository_root

RESULTS = "00_assets/results/threads.json"
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=100": {"GOMP_SPINCOUNT": "100"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
}
AS_IT_IS = "as the computer is"
BESIDE = "beside two busy loops"
LOOPS = {AS_IT_IS: 0, BESIDE: 2}
MOST = {AS_IT_IS: 1.1, BESIDE: 1.0}  # the course's setting over the default
THREADS = 2
TURN_SECONDS = 1.5
ROUNDS = 7  # of all settings
FEWEST_ROUNDS = 3
ENOUGH = 120  # seconds after which the fewest are enough

TRAINING = """
import sys, time, numpy as np, torch  # before `helpers`, whose own setting then stays out of it
from helpers.data.faces import Faces
from helpers.tiny_sd.batches import Batches
from helpers.tiny_sd.codecs import PixelCodec
from helpers.tiny_sd.train import new_model, parser
from helpers.training import TrainConfig, train

threads, seconds = int(sys.argv[1]), float(sys.argv[2])
torch.set_num_threads(threads)
options = parser().parse_args([])
rng = np.random.default_rng(0)
faces = Faces(rng.integers(0, 256, (256, 3, options.size, options.size), np.uint8), np.arange(256) % 3,
              split="train")
model = new_model(options, faces, PixelCodec())
loop = train(model, Batches(faces, options.batch_size).losses, TrainConfig(steps=10**9))
next(loop)
next(loop)
print("ready", flush=True)
for _ in sys.stdin:
    start, used, done = time.perf_counter(), time.process_time(), 0
    while done == 0 or time.perf_counter() - start < seconds:
        next(loop)
        done += 1
    print((time.perf_counter() - start) / done, time.process_time() - used, flush=True)
"""


class Turn(NamedTuple):
    """One setting's turn: seconds of a step, and the cores that other programs kept busy meanwhile."""

    step: float
    others: float


class Trainee:
    """A process that trains Method 1 under one setting, a turn for every call of `turn`."""

    def __init__(self, setting: dict[str, str]):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        command = [sys.executable, "-c", TRAINING, str(THREADS), str(TURN_SECONDS)]
        environment = kept | {"PYTHONPATH": str(repository_root())} | setting
        self.process = subprocess.Popen(
            command, env=environment, cwd=repository_root(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin and self.process.stdout  # both are pipes
        self.commands = self.process.stdin
        self.replies = self.process.stdout

    def line(self) -> str:
        """The next line that the process prints; waits for it."""
        line = self.replies.readline()
        if not line:
            raise RuntimeError("the training ended before `end` was called")
        return line

    def turn(self) -> Turn:
        """Train for TURN_SECONDS: seconds of a step, and how busy other programs were meanwhile."""
        start = time.perf_counter()
        before = busy_seconds()
        self.commands.write("\n")
        self.commands.flush()
        step, used = map(float, self.line().split())
        spent = time.perf_counter() - start
        return Turn(step, max(0.0, (busy_seconds() - before - used) / spent))

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.communicate()


def check() -> list[Row]:
    """The record: the course's setting against the default, and the setting that `helpers` has."""
    record = read_record(repository_root() / RESULTS)
    if not record:
        return [claim("threads: how they wait", "never measured", "python -m benchmarks threads", False)]
    chosen = "=".join(SPIN_COUNT)
    rows = [
        claim(
            "threads: the setting of `helpers` is the recorded one",
            chosen,
            record["chosen"],
            chosen == record["chosen"],
        )
    ]
    for load, most in MOST.items():
        rows.append(
            at_most(
                f"threads: a step {load}, {record['chosen']} beside OpenMP's default",
                record["loads"][load][record["chosen"]]["ratio"],
                most,
                "x",
            )
        )
    return rows


def run() -> None:
    """Time every setting, alternating, without and with busy loops beside it; write the record."""
    trainees = {name: Trainee(setting) for name, setting in SETTINGS.items()}
    try:
        for trainee in trainees.values():
            trainee.line()
        turns = _turns(trainees)
    finally:
        for trainee in trainees.values():
            trainee.end()
    loads = {load: _summary(rounds) for load, rounds in turns.items()}
    record = {
        "hardware": hardware(),
        "threads": THREADS,
        "rounds": len(turns[BESIDE]),
        "chosen": "=".join(SPIN_COUNT),
        "other_programs": {load: _others(rounds) for load, rounds in turns.items()},
        "loads": loads,
    }
    write_record(repository_root() / RESULTS, record)


def _turns(trainees: dict[str, Trainee]) -> dict[str, list[dict[str, Turn]]]:
    """For each load, in every round a turn of each setting; who goes first alternates."""
    turns: dict[str, list[dict[str, Turn]]] = {load: [] for load in LOOPS}
    start = time.perf_counter()
    for number in range(ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - start > ENOUGH:
            break
        names = list(trainees) if number % 2 else list(reversed(trainees))
        for load, loops in LOOPS.items():
            with busy(loops):
                turns[load].append({name: trainees[name].turn() for name in names})
            print(load, {name: f"{turn.step:.2f} s" for name, turn in turns[load][-1].items()}, flush=True)
    return turns


def _summary(rounds: Sequence[dict[str, Turn]]) -> dict[str, dict]:
    """Of each setting the median seconds of a step, and the ratio to the default in the same round."""
    summary = {}
    for name in SETTINGS:
        ratios = [turns[name].step / turns["default"].step for turns in rounds]
        summary[name] = {
            "seconds": round(statistics.median(turns[name].step for turns in rounds), 3),
            "ratio": round(statistics.median(ratios), 3),
            "range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return summary


def _others(rounds: Sequence[dict[str, Turn]]) -> dict[str, float]:
    """The cores that other programs kept busy, the busy loops of the measurement among them."""
    cores: list[float] = []
    for turns in rounds:
        cores += [turn.others for turn in turns.values()]
    return {"median_busy_cores": round(statistics.median(cores), 2), "most": round(max(cores), 2)}


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """This many processes that compute without a pause."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def busy_seconds() -> float:
    """Seconds that all cores together have computed since the computer started; 0 where Linux does not count them."""
    if not Path("/proc/stat").exists():
        return 0.0
    counters = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system = map(int, counters[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")
