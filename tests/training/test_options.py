"""Options of a training command that make no sense: refused in one line, before anything is drawn or trained."""

import importlib
import json
from pathlib import Path

import pytest

from helpers.tiny_sd.train import main

SMALLEST = ["--size", "16", "--limit", "6", "--widths", "8", "16", "--batch-size", "2", "--precision", "fp32"]
COMMANDS = [
    "helpers.tiny_sd.train",
    "helpers.autoencoders.train",
    "helpers.autoencoders.train_vq",
    "helpers.autoencoders.train_prior",
    "helpers.autoencoders.distill",
    "helpers.sd1.train",
    "helpers.sd3.train",
    "helpers.text.train",
    "helpers.vlm.train",
    "helpers.vlm.train_masks",
]
SHARED = [
    ("--steps", "0", "must be at least 1, got 0"),
    ("--batch-size", "-4", "must be at least 1, got -4"),
    ("--learning-rate", "nan", "must be a finite number, got nan"),
    ("--ema", "1.0", "must be below 1, got 1.0"),
    ("--log-every", "-1", "must be at least 0, got -1"),
]
ONLY_TINY_SD = [
    ("--steps", "-1", "must be at least 1"),
    ("--steps", "2.5", "must be a whole number, got '2.5'"),
    ("--batch-size", "0", "must be at least 1, got 0"),
    ("--batch-size", "many", "must be a whole number, got 'many'"),
    ("--learning-rate", "0", "must be above 0, got 0"),
    ("--learning-rate", "-0.1", "must be above 0"),
    ("--learning-rate", "inf", "must be a finite number"),
    ("--learning-rate", "fast", "must be a number, got 'fast'"),
    ("--ema", "-0.5", "must lie between 0 and 1"),
    ("--ema", "nan", "must be a finite number"),
    ("--seed", "-1", "must be from 0 to 4294967295"),
    ("--seed", "99999999999", "must be from 0 to 4294967295"),
    ("--checkpoint-every", "-5", "must be at least 0"),
    ("--sample-every", "-5", "must be at least 0"),
    ("--limit", "0", "must be at least 1, got 0"),
    ("--limit", "-6", "must be at least 1"),
    ("--size", "0", "must be from 8 to 1024, got 0"),
    ("--size", "-64", "must be from 8 to 1024"),
    ("--size", "4096", "must be from 8 to 1024"),
    ("--patch", "0", "must be at least 1"),
    ("--blocks", "0", "must be at least 1"),
    ("--blocks", "-1", "must be at least 1"),
    ("--dropout", "1", "must be below 1"),
    ("--dropout", "-0.1", "must lie between 0 and 1"),
    ("--augment", "1.5", "must lie between 0 and 1"),
    ("--augment", "nan", "must be a finite number"),
    ("--perceptual", "-1", "must not be negative"),
    ("--perceptual-until", "2", "must lie between 0 and 1"),
    ("--perceptual-crop", "0", "must be at least 1"),
    ("--autoencoder-steps", "0", "must be at least 1"),
    ("--autoencoder-channels", "0", "must be at least 1"),
    ("--widths", "0", "must be at least 1"),
]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home of the course, where the images would be cached that a training draws."""
    home = tmp_path / "home"
    monkeypatch.setenv("COURSE_HOME", str(home))
    return home


@pytest.fixture
def run_folder(tmp_path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def train(home, run_folder):
    """Run a small training in this process, with more options."""

    def train(*options: str, steps: int = 2) -> int:
        usual = [*SMALLEST, "--steps", str(steps), "--sample-every", "0"]
        return main([*usual, *options, "--out", str(run_folder)])

    return train


def refusal_line(error: SystemExit, capsys) -> str:
    """What a command says when it refuses: its exit status is that sentence, or argparse has written it."""
    return error.code if isinstance(error.code, str) else capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    ("command", "option", "value", "message"),
    [(command, *row) for command in COMMANDS for row in SHARED] + [(COMMANDS[0], *row) for row in ONLY_TINY_SD],
)
def test_a_bad_value_is_refused_by_name(home, capsys, command, option, value, message):
    with pytest.raises(SystemExit) as refusal:
        importlib.import_module(command).main([option, value])
    assert f"argument {option}: {message}" in refusal_line(refusal.value, capsys)
    assert not home.exists(), "something was written before the refusal"


@pytest.mark.fault("options")
@pytest.mark.parametrize("option", ["--sample-every", "--checkpoint-every", "--log-every"])
def test_every_0_steps_means_never(train, run_folder, option):
    assert train(option, "0", steps=3) == 0
    assert (run_folder / "weights.safetensors").is_file()
    logged = [json.loads(line)["step"] for line in (run_folder / "log.jsonl").read_text().splitlines()]
    assert logged == [1, 3]


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--widths", "7", "13"], r"--widths must be even.* got \[7, 13\]"),
        (["--widths", "8", "15"], r"--widths must be even.* got \[8, 15\]"),
        (["--size", "18"], "--size must be a multiple of 8 with these --patch and --widths, got 18"),
        (["--autoencoder", "/nowhere", "--method", "pretrained"], "--autoencoder: .*nowhere"),
        (["--autoencoder", "clip", "--method", "pretrained"], "--autoencoder: .*"),
        (["--autoencoder", "/nowhere.safetensors", "--method", "own"], "--autoencoder: .*nowhere"),
        (["--perceptual", "1"], "--perceptual needs --perceptual-encoder"),
        (["--perceptual-crop", "64"], "--perceptual-crop 64 is larger than --size 16"),
        (["--augment", "0.5", "--method", "pretrained"], "--augment and --perceptual work on images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_option_is_refused_before_anything_is_drawn(train, home, run_folder, capsys, options, message):
    with pytest.raises(SystemExit, match=message):
        train(*options)
    assert not (home / "cache").exists(), "images were drawn before the refusal"
    assert not (run_folder / "log.jsonl").exists(), "steps were trained before the refusal"


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("helpers.autoencoders.train", ["--size", "30"], "--size must be a multiple of 4, got 30"),
        ("helpers.autoencoders.train", ["--width", "7"], "--width must be a multiple of 8, got 7"),
        ("helpers.autoencoders.train", ["--perceptual", "1", "--perceptual-encoder", "/no"], "--perceptual-encoder: "),
        ("helpers.autoencoders.train_vq", ["--size", "30"], "--size must be a multiple of 4, got 30"),
        ("helpers.autoencoders.train_prior", ["--autoencoder", "/no/where"], "--autoencoder: .*where"),
        ("helpers.autoencoders.distill", ["--teacher", "/no/where"], "--teacher: .*where"),
        ("helpers.sd1.train", ["--clip", "/no/where"], "--clip: .*where"),
        ("helpers.sd1.train", ["--autoencoder", "/no/where"], "--autoencoder: .*where"),
        ("helpers.sd3.train", ["--clip", "/no/where"], "--clip: .*where"),
        ("helpers.sd3.train", ["--autoencoder", "/no/where"], "--autoencoder: .*where"),
        ("helpers.vlm.train", ["--masks", "/no/where"], "--masks: .*where"),
        ("helpers.vlm.train", ["--start", "/no/where"], "--start: .*where"),
    ],
)
def test_other_commands_refuse_before_anything_is_drawn(home, tmp_path, command, options, message):
    with pytest.raises(SystemExit, match=message):
        importlib.import_module(command).main([*options, "--out", str(tmp_path / "run")])
    assert not (home / "cache").exists(), "images were drawn before the refusal"


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "--export .* is a folder: name the file"),
        (lambda path: path.parent.rmdir() or path.parent.write_text("a file"), "cannot be made .* another --export"),
    ],
    ids=["folder", "below a file"],
)
def test_a_bad_export_is_refused_before_training(train, run_folder, home, tmp_path, make, message):
    target = tmp_path / "exports" / "target"
    target.parent.mkdir()
    make(target)
    with pytest.raises(SystemExit, match=message):
        train("--export", str(target))
    assert not (home / "cache").exists() and not (run_folder / "log.jsonl").exists(), "the training had begun"


@pytest.mark.fault("options", refused=True)
def test_a_home_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file"))
    with pytest.raises(SystemExit, match=r"the folder .*runs cannot be made or written .* choose another --out"):
        main(SMALLEST)


@pytest.mark.fault("options", refused=True)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps, --faces and --held-out must be at least 1"),
        (["--seed", "-1"], "--seed at least 0"),
        (["--out", "."], "--out . is a folder: name the file"),
    ],
)
def test_the_scorers_training_refuses_too(capsys, arguments, message):
    from helpers.scoring.attributes import main as train_scorer

    with pytest.raises(SystemExit):
        train_scorer(arguments)
    assert message in capsys.readouterr().err
