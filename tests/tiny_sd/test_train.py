"""The training command as a person uses it; killed, interrupted and on two processes it is in test_faults.py."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from helpers.course import repository_root
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import main
from helpers.training.interrupt import interruptible
from helpers.weights import read_metadata

STEPS = 24
TINY = [
    "--size",
    "16",
    "--limit",
    "60",
    "--widths",
    "8",
    "16",
    "--dropout",
    "0.1",
    "--batch-size",
    "8",
    "--log-every",
    "1",
    "--steps",
    str(STEPS),
    "--sample-every",
    "0",
    "--checkpoint-every",
    "5",
    "--precision",
    "fp32",  # "auto" measures, and so small a network is as fast in either
]


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


def test_a_run_leaves_weights_a_log_and_a_checkpoint(whole):
    assert sum(losses(whole)[-5:]) < sum(losses(whole)[:5])
    metadata = read_metadata(whole / "weights.safetensors")
    assert metadata["steps"] == str(STEPS)
    assert metadata["command"] == (
        "python -m helpers.tiny_sd.train --size 16 --limit 60 --widths 8 16 --dropout 0.1 --steps 24 --batch-size 8 "
        "--precision fp32"
    )
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


def test_a_folder_that_is_in_use_is_not_overwritten(whole):
    with pytest.raises(SystemExit, match="add --resume"):
        main([*TINY, "--out", str(whole)])


def test_resuming_with_other_options_is_refused(whole):
    with pytest.raises(SystemExit, match="--batch-size was 8, is 16"):
        main([*TINY, "--batch-size", "16", "--out", str(whole), "--resume"])


def test_what_a_crash_left_of_log_and_files_is_no_obstacle(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "weights.safetensors").unlink()
    (run / ".checkpoint.new.safetensors.0123abcd").write_bytes(bytes(100))
    rows = (run / "log.jsonl").read_text().splitlines(True)
    (run / "log.jsonl").write_text("".join(rows[:5]) + 40 * "\0" + "\n3\n" + "".join(rows[5:]) + '{"step": 9')
    assert main([*TINY, "--out", str(run), "--resume"]) == 0
    assert losses(run) == losses(whole) and not list(run.glob(".*"))


def test_folders_that_cannot_be_made_are_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    for option, path in (("--out", tmp_path / "file"), ("--export", tmp_path / "file" / "mine.safetensors")):
        with pytest.raises(SystemExit, match=f"{tmp_path / 'file'} cannot be made .*choose another {option}"):
            main([*TINY, "--out", str(tmp_path / "run"), option, str(path)])
    assert not list(tmp_path.glob("run/*"))


def test_an_unusable_checkpoint_is_told_in_a_sentence(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"spoilt")
    with pytest.warns(UserWarning, match="passing over"), pytest.raises(SystemExit, match="start afresh"):
        main([*TINY, "--out", str(tmp_path), "--resume"])


def test_a_second_signal_stops_at_once_but_not_under_a_launcher():
    with interruptible() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    with interruptible(second_signal_raises=False) as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()


def test_a_folder_is_trained_in_by_one_at_a_time(whole, tmp_path):
    run = shutil.copytree(whole, tmp_path / "run")
    with FileLock(run / "lock"), pytest.raises(SystemExit, match="another training is running in"):
        main([*TINY, "--out", str(run), "--resume"])
    assert main([*TINY, "--out", str(run), "--resume"]) == 0


def test_no_room_for_the_export_is_told_of_the_export(whole, tmp_path, monkeypatch):
    def full(number):
        raise OSError(28, "No space left on device")

    run = shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(os, "fsync", full)
    (run / "weights.safetensors").unlink()
    with pytest.raises(SystemExit, match="run/weights.safetensors cannot be written .No space left.*step 24 is whole"):
        main([*TINY, "--out", str(run), "--resume"])


def test_a_signal_is_heard_where_nobody_reads_what_is_said_of_it():
    """`python -m ... 2>&1 | tee log`: Ctrl-C ends tee too."""
    code = """
import signal, sys
from helpers.training.interrupt import ignoring_broken_pipe, interruptible
with interruptible() as interrupted:
    signal.raise_signal(signal.SIGINT)
    ignoring_broken_pipe(print, "step", flush=True)
    print("more", file=sys.stderr)
sys.exit(7 if interrupted() else 1)
"""
    reading, writing = os.pipe()
    os.close(reading)
    status = subprocess.call([sys.executable, "-c", code], stdout=writing, stderr=writing, cwd=repository_root())
    os.close(writing)
    assert status == 7


def test_both_objectives_train(tmp_path):
    assert main([*TINY, "--objective", "epsilon", "--out", str(tmp_path)]) == 0
    assert sum(losses(tmp_path)[-5:]) < sum(losses(tmp_path)[:5])
