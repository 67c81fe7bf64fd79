"""Training on a GPU under a cap of 16 GiB: the three methods, bf16, with torch.compile and without.

python -m benchmarks.cuda    # part of `python -m benchmarks all`; says so where there is no GPU
"""

import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import hardware, parameter_count, write_record
from helpers.course import repository_root
from helpers.tiny_sd.train import parser, task
from helpers.training import train
from helpers.training.run import Run

RESULTS = "00_assets/results/cuda.json"
CAP = 16 * 2**30  # bytes: the card that the course is made for
SHAPE = ["--size", "64", "--patch", "2", "--blocks", "2", "--widths", "96", "192", "256", "--batch-size", "128"]
METHODS: dict[str, list[str]] = {
    "pixels": [],
    "pretrained": ["--patch", "1"],
    "own": ["--autoencoder", "faces_autoencoder", "--patch", "1"],
}
WARM = 10  # updates before the clock starts
STEPS = 40  # updates on the clock


def run() -> None:
    """Measure every method, print it and write the record."""
    if not torch.cuda.is_available():
        print("not measured here: training on a GPU (torch sees no CUDA device)")
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, CAP / total))
    peak = matmul_speed()
    entries = []
    for method in METHODS:
        for compiled in (False, True):
            entries.append(measured(method, compiled) | {"method": method, "compiled": compiled})
    for entry in entries:
        entry["utilisation"] = round(entry["teraflops"] / peak, 3)
    record = {
        "hardware": f"{torch.cuda.get_device_name(0)}, {hardware()}",
        "cap_gib": CAP / 2**30,
        "matrix_product_teraflops": round(peak, 1),
        "trainings": entries,
    }
    write_record(repository_root() / RESULTS, record)
    print(*entries, sep="\n")


def measured(method: str, compiled: bool, more: tuple[str, ...] = (), steps: int = STEPS, warm: int = WARM) -> dict:
    """Images a second, peak memory and arithmetic of one method's training, on the GPU where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            *SHAPE,
            *METHODS[method],
            *more,
            "--method",
            method,
            "--steps",
            str(warm + steps + 1),
            "--out",
            str(Path(folder) / "run"),
            *(["--compile"] if compiled else []),
        ]
        options = parser().parse_args(argv)
        training = Run(parser(), options, task)
    training.start()
    assert training.precision is not None  # `start` has chosen it
    bf16 = training.precision.name == "bf16"
    walk = train(
        training.model,
        training.task.loss_fn,
        training.config,
        optimizer=training.optimizer,
        ema=training.ema,
        accelerator=training.accelerator,
        bf16=bf16,
    )
    for _ in range(warm):
        next(walk)
    _settle(reset=True)
    start = time.perf_counter()
    for _ in range(steps):
        next(walk)
    peak = _settle()
    seconds = (time.perf_counter() - start) / steps
    with FlopCounterMode(display=False) as counter:
        next(walk)
    return {
        "images_per_second": round(options.batch_size / seconds, 1),
        "peak_gib": round(peak / 2**30, 2),
        "teraflops": round(counter.get_total_flops() / seconds / 1e12, 6),
        "precision": training.precision.name,
        "parameters": parameter_count(training.model),
    }


def _settle(reset: bool = False) -> int:
    """Wait for the GPU; the most memory it has held since the last reset. 0 without one."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    if reset:
        torch.cuda.reset_peak_memory_stats()
    return peak


def matmul_speed(side: int = 8192, times: int = 50) -> float:
    """Speed of a large bfloat16 matrix product on this card, in Tflop/s: the reference for utilisation."""
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        a @ a
    torch.cuda.synchronize()
    return 2 * side**3 * times / (time.perf_counter() - start) / 1e12


if __name__ == "__main__":
    run()
