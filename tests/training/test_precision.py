"""bfloat16 where the machine computes in it, and nowhere else."""

import torch

from helpers.tiny_sd.train import main
from helpers.training import precision, run
from helpers.weights import read_metadata

TINY = ["--size", "16", "--limit", "12", "--widths", "8", "16", "--steps", "1", "--batch-size", "4",
        "--sample-every", "0"]  # fmt: skip


def clocked(monkeypatch, seconds: dict[torch.dtype, float]) -> bool:
    monkeypatch.setattr(precision, "_product", lambda matrix: seconds[matrix.dtype])
    return precision.computes_bf16.__wrapped__("cpu")


def test_a_processor_is_asked_by_the_clock(monkeypatch):
    assert clocked(monkeypatch, {torch.float32: 4e-4, torch.bfloat16: 2e-4}), "made for it"
    assert clocked(monkeypatch, {torch.float32: 4e-4, torch.bfloat16: 8e-4}), "a busy neighbour is no reason"
    assert not clocked(monkeypatch, {torch.float32: 4e-4, torch.bfloat16: 26e-3}), "measured on a processor without"


def test_the_clock_reads_something():
    assert 0 < precision._product(torch.ones(64, 64)) < 10


def test_imitated_bf16_is_not_used_and_that_is_said(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(run, "computes_bf16", lambda kind: False)
    assert main([*TINY, "--precision", "bf16", "--out", str(tmp_path)]) == 0
    assert "computing in fp32" in capfd.readouterr().err
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert metadata["precision"] == "fp32" and "--precision bf16" in metadata["command"]
