"""What keeping freed memory saves: processor time of decoding batches of images, with and without it, alternating.

    python -m benchmarks.allocator

Every measurement is a process of its own, because malloc cannot be set back. See `helpers.allocator`.
"""

import os
import statistics
import subprocess
import sys
from typing import NamedTuple

ROUNDS = 3
DECODE = """
import helpers
import resource, torch
from helpers.autoencoders.tiny import TinyAutoencoder, TinyConfig
torch.set_num_threads(1)
autoencoder = TinyAutoencoder(TinyConfig()).eval()
start = resource.getrusage(resource.RUSAGE_SELF)
with torch.no_grad():
    for _ in range(2):
        autoencoder.to_images(autoencoder.to_latents(torch.zeros(96, 3, 64, 64)))
end = resource.getrusage(resource.RUSAGE_SELF)
print(end.ru_utime - start.ru_utime, end.ru_stime - start.ru_stime, end.ru_maxrss / 1e6)
"""
UNTUNED = {"MALLOC_ARENA_TEST": "8"}  # glibc's own value: malloc counts as tuned by the user and is left alone


class Usage(NamedTuple):
    """What one process used."""

    user: float  # seconds of processor time
    kernel: float
    peak_gigabytes: float


def measure(kept: bool) -> Usage:
    """Encode and decode batches in a fresh process, with freed memory kept or not."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", DECODE]
    run = subprocess.run(
        command, env=environment | ({} if kept else UNTUNED), capture_output=True, text=True, check=True
    )
    return Usage(*map(float, run.stdout.split()))


def main() -> None:
    """Print the medians of both and the ratio of their processor times."""
    usages: dict[bool, list[Usage]] = {True: [], False: []}
    for _ in range(ROUNDS):
        for kept, results in usages.items():
            results.append(measure(kept))
    medians = {kept: Usage(*map(statistics.median, zip(*results, strict=True))) for kept, results in usages.items()}
    for kept, usage in medians.items():
        name = "kept" if kept else "given back"
        print(f"{name:10s} {usage.user:.1f} s + {usage.kernel:.1f} s in the kernel, {usage.peak_gigabytes:.2f} GB")
    totals = {kept: usage.user + usage.kernel for kept, usage in medians.items()}
    print(f"processor time: {totals[True] / totals[False]:.2f} of what it is without")


if __name__ == "__main__":
    main()
