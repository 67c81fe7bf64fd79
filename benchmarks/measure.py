"""Two implementations of one thing in one process: who needs longer, and who needs more memory."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.parity import difference
from benchmarks.record import read_record
from benchmarks.report import Row, at_least, at_most
from helpers.course import repository_root

ROUNDS = 5  # alternating turns, at least
MOST_ROUNDS = 25
ENOUGH = 10  # seconds after which there are no more than ROUNDS turns
Call = Callable[[], Tensor]


class Comparison(NamedTuple):
    """A figure of the course over that of a peer, measured in one process on the same weights and input."""

    what: str
    peer: str
    ratio: float | None  # the course's figure over the peer's, median of the rounds; None: never measured
    ratio_range: Sequence[float] | None = None  # the smallest and the largest
    bound: float | None = None  # None: reported, and nothing promised
    more: bool = False  # whether a larger ratio is better
    hardware: str | None = None  # where another computer than the record's measured it

    def promise(self) -> str:
        """The bound in words; "" where nothing is promised."""
        if self.bound is None:
            return ""
        return f"{'at least' if self.more else 'at most'} {self.bound:g}"

    def row(self) -> Row:
        """The comparison as a claim: short where it misses its bound, or was never measured."""
        name = f"{self.what}, beside {self.peer}"
        if self.ratio is None:
            return Row(name, "never measured", "python -m benchmarks all", False)
        if self.bound is None:
            return Row(name, f"{self.ratio:.3g} x", "no promise", True)
        return (at_least if self.more else at_most)(name, self.ratio, self.bound, "x")


def range_of(ratios: Sequence[float]) -> list[float]:
    """The smallest and the largest ratio."""
    return [round(min(ratios), 3), round(max(ratios), 3)]


def recorded(results: str) -> dict:
    """The record at a path relative to the repository; an empty dictionary where nothing was measured."""
    return read_record(repository_root() / results)


def compared(ours: Call, theirs: Call, repeat: int = 1) -> dict:
    """Medians of seconds and of peak memory, ours before theirs, their ratios, and how far the results differ.

    Args:
        repeat: calls per turn, where one is over too soon to be timed.
    """
    calls = (ours, theirs)
    seconds = alternating([repeated(call, repeat) for call in calls])
    turns = ROUNDS if max(map(max, seconds)) < 2 * repeat else 1  # a large call's pages drown what the heap holds
    sizes = [[peak_memory(call) for call in calls] for _ in range(turns)]
    memory = [statistics.median(each) for each in zip(*sizes, strict=True)]
    ratios = [our_time / their_time for our_time, their_time in zip(*seconds, strict=True)]
    return {
        "seconds": [round(statistics.median(times), 3) for times in seconds],
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratio_spread": range_of(ratios),
        "megabytes": [round(size / 1e6, 1) for size in memory],
        "memory_ratio": round(memory[0] / memory[1], 3),
        "difference": difference(ours().float(), theirs().float()),
    }


def network_comparisons(results: str, system: str) -> list[Comparison]:
    """What a record of a system's `compared` networks says: nowhere slower, nowhere larger than diffusers'."""
    record = recorded(results)
    peer = "diffusers"
    if not record:
        return [Comparison(f"{system}, speed and memory", peer, None)]
    comparisons = []
    for entry in record["networks"]:
        name = f"{system}, {entry['network']}, {entry['dtype']}{', on another computer' if 'hardware' in entry else ''}"
        comparisons.append(
            Comparison(
                f"{name}: time",
                peer,
                entry["time_ratio"],
                entry["time_ratio_spread"],
                1.0,
                hardware=entry.get("hardware"),
            )
        )
        comparisons.append(
            Comparison(f"{name}: peak memory", peer, entry["memory_ratio"], None, 1.0, hardware=entry.get("hardware"))
        )
    return comparisons


def with_earlier(networks: list[dict], results: str) -> list[dict]:
    """What was measured now, and what a record has of number formats that this processor does not compute in."""
    earlier = recorded(results) or {"networks": [], "hardware": ""}
    formats = {entry["dtype"] for entry in networks}
    kept = [{"hardware": earlier["hardware"]} | entry for entry in earlier["networks"] if entry["dtype"] not in formats]
    return networks + kept


def compared_rows(results: str, system: str) -> list[Row]:
    """The same as claims, and that the same thing was timed; parity has rows of its own."""
    rows = [comparison.row() for comparison in network_comparisons(results, system)]
    for entry in recorded(results).get("networks", []):
        same = 1e-4 if entry["dtype"] == "float32" else 2e-2
        rows.append(
            at_most(f"{entry['network']}, {entry['dtype']}: difference of the two outputs", entry["difference"], same)
        )
    return rows


def repeated(call: Callable[[], object], count: int) -> Callable[[], None]:
    """A function that makes a call several times: for calls that are over too soon to be timed."""

    def work() -> None:
        for _ in range(count):
            call()

    return work


def alternating(calls: Sequence[Callable[[], object]]) -> list[list[float]]:
    """Seconds of every call in every round, after one round of warm-up; who goes first alternates too.

    Short calls get more rounds: on a computer with neighbours, five of a third of a second tell little.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(MOST_ROUNDS + 1):
        if turn > ROUNDS and sum(map(sum, seconds)) > ENOUGH:
            break
        order = range(len(calls)) if turn % 2 else reversed(range(len(calls)))
        for i in order:
            start = time.perf_counter()
            result = calls[i]()
            if turn:
                seconds[i].append(time.perf_counter() - start)
            del result  # off the clock: a loader's end is not its first batch
    return seconds


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes of memory a call needs beyond what is there before it; Linux counts the process's high-water mark.

    What earlier calls freed is given back first: reused, it would not show. And every larger tensor gets pages of its
    own, which go back when it is freed: the mark then says what lives at once, not how torn the heap is.
    """
    M_MMAP_THRESHOLD = -3
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 16)
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark back to what is in use now
    before = _status("VmRSS")
    call()
    peak = _status("VmHWM") - before
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # to the largest glibc goes by itself: later timings are not disturbed
    return peak


def peak_tensors(call: Callable[[], object]) -> int:
    """Bytes of tensors that live at once during a call beyond those there before it, as PyTorch's allocator counts.

    The same every time, and right for the smallest call: the process's mark moves by pages of 4 kB, and by what the
    heap happens to hold. What a library reserves without PyTorch is not in it.
    """
    call()  # what is made once and kept is not the call's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    moves = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = accumulate(move.nbytes() for move in sorted(moves, key=lambda move: move.start_ns()))
    return max(live, default=0)


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])
