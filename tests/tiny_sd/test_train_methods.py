"""Methods 2 and 3 as a person trains them: one command each, interrupted, gone on with, and loaded afterwards."""

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

from helpers.autoencoders import train as autoencoder_training
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import fingerprint
from helpers.tiny_sd.model import TinySD
from helpers.tiny_sd.train import autoencoder_options, main, parser
from helpers.weights import read_metadata, read_tensors

ROOT = Path(__file__).parents[2]
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
    "--steps",
    "12",
    "--log-every",
    "1",
    "--sample-every",
    "0",
    "--checkpoint-every",
    "4",
    "--precision",
    "fp32",  # "auto" measures, and so small a network is as fast in either
]
METHOD_3 = [*TINY, "--method", "own", "--autoencoder-steps", "6"]


pytestmark = pytest.mark.usefixtures("one_home")


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("general") / "general.safetensors"
    KLAutoencoder(KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, latent_channels=6, patch=4)).save(path, {})
    return path


@pytest.fixture(scope="module")
def method_3_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    assert main([*METHOD_3, "--out", str(folder)]) == 0
    return folder


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_no_machine_path(folder: Path) -> None:
    """No file of a run holds the way to it, to the home folder or to the checkout."""
    places = (str(folder.resolve()), str(folder.parent.resolve()), str(Path.home()) + os.sep, str(ROOT))
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [place for place in places if place.encode() in content], path


def test_method_2_trains_on_somebody_elses_latents(autoencoder, tmp_path):
    assert main([*TINY, "--method", "pretrained", "--autoencoder", str(autoencoder), "--out", str(tmp_path)]) == 0
    model = TinySD.from_weights(tmp_path / "weights.safetensors")
    assert model.codec.name == "pretrained" and model.codec.channels == 6
    assert model.generate(["cat"], prompts=["a plain black cat"], steps=2).shape == (1, 3, 16, 16)
    metadata = read_metadata(tmp_path / "weights.safetensors")
    assert float(metadata["encoding_core_minutes"]) < 1
    assert "--autoencoder general.safetensors" in metadata["command"], "no folder of anybody's"
    assert_no_machine_path(tmp_path)


def test_a_run_of_method_2_can_move_to_another_computer(autoencoder, tmp_path):
    here = tmp_path / "here"
    assert main([*TINY, "--method", "pretrained", "--autoencoder", str(autoencoder), "--out", str(here)]) == 0
    there = here.rename(tmp_path / "there")
    hidden = autoencoder.rename(autoencoder.with_suffix(".hidden"))
    try:
        codec = TinySD.from_weights(there / "weights.safetensors").codec
        assert codec.source == str(there / "autoencoder" / autoencoder.name)
    finally:
        hidden.rename(autoencoder)


def test_method_3_trains_both_halves_with_one_command(method_3_run):
    model = TinySD.from_weights(method_3_run / "weights.safetensors")
    assert model.codec.name == "own" and model.codec.source == str(method_3_run / "autoencoder" / "weights.safetensors")
    assert read_metadata(method_3_run / "autoencoder" / "weights.safetensors")["steps"] == "6"
    assert_no_machine_path(method_3_run)
    assert (method_3_run / "autoencoder" / "log.jsonl").exists() and len(losses(method_3_run)) == 12


def test_method_3_takes_a_quantised_autoencoder_too(tmp_path):
    assert main([*TINY, "--method", "own", "--autoencoder", "vq", "--out", str(tmp_path)]) == 0
    model = TinySD.from_weights(tmp_path / "weights.safetensors")
    assert type(model.codec.autoencoder).__name__ == "VQAutoencoder"
    assert model.generate(["dog"], steps=2).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("moment", ["autoencoder/log.jsonl", "log.jsonl"])
def test_killed_in_either_half_it_goes_on_to_the_same_end(method_3_run, tmp_path, moment):
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.tiny_sd.train", *METHOD_3, "--out", str(tmp_path)], cwd=ROOT
    )
    deadline = time.monotonic() + 120
    while not ((tmp_path / moment).exists() and (tmp_path / moment).read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert main([*METHOD_3, "--out", str(tmp_path), "--resume"]) == 0
    assert losses(tmp_path) == losses(method_3_run)
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (tmp_path, method_3_run))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_a_run_that_was_moved_still_finds_its_autoencoder(method_3_run, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(method_3_run, moved)
    shutil.move(method_3_run / "autoencoder", method_3_run / "hidden")
    try:
        assert TinySD.from_weights(moved / "weights.safetensors").codec.channels == 4
    finally:
        shutil.move(method_3_run / "hidden", method_3_run / "autoencoder")


def test_an_autoencoder_made_with_other_options_is_not_taken(method_3_run, tmp_path):
    import shutil

    shutil.copytree(method_3_run / "autoencoder", tmp_path / "autoencoder")
    with pytest.raises(SystemExit, match="(?s)--steps 7 .*Same options, or --out another"):
        main([*TINY, "--method", "own", "--autoencoder-steps", "7", "--out", str(tmp_path)])


@pytest.mark.parametrize("more", [["--size", "20"], []])
def test_what_would_stop_the_second_half_is_said_before_the_first(tmp_path, monkeypatch, more):
    monkeypatch.setattr("helpers.tiny_sd.train.run_task", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(SystemExit, match="--size must be a multiple of 16|holds a training already"):
        main([*METHOD_3, "--out", str(tmp_path), *more])


def test_the_autoencoder_is_trained_as_by_its_command(tmp_path):
    """No command line is built, so an option that its trainer gets later cannot be forgotten here."""
    options = parser().parse_args([*METHOD_3, "--seed", "5", "--precision", "fp32", "--out", str(tmp_path)])
    command = (
        "--source toy-faces --size 16 --limit 60 --seed 5 --precision fp32 --steps 6 --latent-channels 4 "
        f"--patch 4 --batch-size 16 --learning-rate 0.003 --out {tmp_path / 'autoencoder'}"
    )
    assert autoencoder_options(options) == autoencoder_training.parser().parse_args(command.split())


def test_the_same_training_goes_on_though_its_folder_is_called_otherwise(method_3_run):
    """The way to the autoencoder, and the last digits of means, are no other training."""
    _, metadata = read_tensors(method_3_run / "checkpoint.safetensors")
    model = TinySD.from_weights(method_3_run / "weights.safetensors")
    description = json.loads(metadata["description"])["model"]
    assert description["codec"] == {"method": "own", "fingerprint": fingerprint(model.codec.autoencoder)}


@pytest.mark.slow
def test_two_processes_train_both_halves(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "helpers.tiny_sd.train", *METHOD_3, "--precision", "fp32", "--out", str(tmp_path)]
    process = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert read_metadata(tmp_path / "weights.safetensors")["processes"] == "2"


def test_ctrl_c_in_the_first_half_ends_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.tiny_sd.train.run_task", lambda *_, **__: 130)
    assert main([*METHOD_3, "--out", str(tmp_path)]) == 130
    assert not (tmp_path / "log.jsonl").exists()


def test_an_autoencoder_that_is_nowhere_says_so(tmp_path, hub_out_of_reach):
    with pytest.raises(SystemExit, match="--autoencoder: .*The course knows weights for"):
        main([*TINY, "--method", "pretrained", "--autoencoder", "absent", "--out", str(tmp_path)])


def test_a_shift_needs_an_objective_that_has_one(tmp_path):
    with pytest.raises(SystemExit, match="--shift 2 is for --objective flow only"):
        main([*TINY, "--shift", "2", "--objective", "epsilon", "--out", str(tmp_path)])
    assert not (tmp_path / "log.jsonl").exists()


def test_the_two_halves_fit_each_other(method_3_run):
    model = TinySD.from_weights(method_3_run / "weights.safetensors")
    file = KLAutoencoder.from_weights(method_3_run / "autoencoder" / "weights.safetensors")
    assert fingerprint(model.codec.autoencoder) == fingerprint(file)
