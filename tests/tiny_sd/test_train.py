"""The training command as a person uses it: to the end, interrupted, killed, resumed, and on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import main
from helpers.weights import read_metadata

ROOT = Path(__file__).parents[2]
STEPS = 24
TINY = ["--size", "16", "--limit", "60", "--widths", "8", "16", "--dropout", "0.1", "--batch-size", "8",
        "--log-every", "1", "--steps", str(STEPS), "--sample-every", "0", "--checkpoint-every", "5"]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_home")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*TINY, "--out", str(folder)]) == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)), "every step is logged once"
    return [row["loss"] for row in rows]


def start(folder: Path, *more: str, before: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [sys.executable, *before, "-m", "helpers.tiny_sd.train", *TINY, "--out", str(folder), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    log, deadline = folder / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= step):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the training does not move"
        time.sleep(0.01)


def test_a_run_leaves_weights_a_log_and_a_checkpoint(whole):
    assert sum(losses(whole)[-5:]) < sum(losses(whole)[:5])
    metadata = read_metadata(whole / "weights.safetensors")
    assert metadata["steps"] == str(STEPS)
    assert metadata["command"] == ("python -m helpers.tiny_sd.train --size 16 --limit 60 --widths 8 16 "
                                   "--dropout 0.1 --steps 24 --batch-size 8")  # fmt: skip
    model = TinySD.from_weights(whole / "weights.safetensors")
    assert model.generate(["cat"], prompts=["a plain black cat"], steps=2).shape == (1, 3, 16, 16)


def test_the_shipped_weights_are_the_average_not_the_last_step(whole):
    """The predecessor kept an average and never used it."""
    tensors = load_file(whole / "checkpoint.safetensors")
    shipped = weights(whole)["stem.weight"]
    assert torch.equal(shipped, tensors["average.unet.stem.weight"].half())
    assert not torch.equal(shipped, tensors["model.unet.stem.weight"].half()), "else this test could not tell"


def test_samples_are_drawn_on_the_way(tmp_path):
    assert main([*TINY, "--out", str(tmp_path), "--sample-every", "12"]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["samples-000012.png", "samples-000024.png"]


@pytest.mark.parametrize("step", [3, 11])
def test_killed_and_resumed_is_the_uninterrupted_run(whole, tmp_path, step):
    process = start(tmp_path)
    wait_for_step(tmp_path, step, process)
    process.kill()
    process.communicate()
    assert main([*TINY, "--out", str(tmp_path), "--resume"]) == 0
    assert losses(tmp_path) == losses(whole)
    assert all(torch.equal(a, weights(whole)[name]) for name, a in weights(tmp_path).items())


def test_ctrl_c_saves_and_resume_goes_on_from_there(whole, tmp_path):
    process = start(tmp_path, "--checkpoint-every", "1000")
    wait_for_step(tmp_path, 4, process)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "--resume to go on" in said, said
    assert main([*TINY, "--out", str(tmp_path), "--resume"]) == 0
    assert losses(tmp_path) == losses(whole)


@pytest.mark.slow
def test_two_processes_walk_the_same_losses_as_one(whole, tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*TINY, "--dropout", "0", "--out", str(one)]) == 0
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    process = start(two, "--dropout", "0",
                    before=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"))  # fmt: skip
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert read_metadata(two / "weights.safetensors")["processes"] == "2"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    assert losses(one) != losses(whole), "this run had no dropout: it is another curve"


def test_a_folder_that_is_in_use_is_not_overwritten(whole):
    with pytest.raises(SystemExit, match="add --resume"):
        main([*TINY, "--out", str(whole)])


def test_resuming_with_other_options_is_refused(whole):
    with pytest.raises(SystemExit, match="--batch-size was 8, is 16"):
        main([*TINY, "--batch-size", "16", "--out", str(whole), "--resume"])


def test_both_objectives_train(tmp_path):
    assert main([*TINY, "--objective", "epsilon", "--out", str(tmp_path)]) == 0
    assert sum(losses(tmp_path)[-5:]) < sum(losses(tmp_path)[:5])
