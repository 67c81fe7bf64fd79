"""Options of a training command that make no sense: refused in one line, before anything is drawn or trained."""

from pathlib import Path

import pytest

from helpers.tiny_sd.train import main

SMALLEST = ["--size", "16", "--limit", "6", "--widths", "8", "16", "--batch-size", "2", "--precision", "fp32"]
REPORT = "(sd_dreambooth_extension#16, lerobot#4112, transformers#12796)"


def ends_in(error: type[BaseException], today: str) -> pytest.MarkDecorator:
    """The mark of an option that ends in a traceback today."""
    return pytest.mark.xfail(strict=True, raises=error, reason=f"{today} {REPORT}")


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


DIVISION = ends_in(ZeroDivisionError, "0 is no 'never' for this option, it ends in a division by zero")


@pytest.mark.parametrize(
    "option",
    ["--sample-every", pytest.param("--checkpoint-every", marks=DIVISION), pytest.param("--log-every", marks=DIVISION)],
)
def test_every_0_steps_means_never(train, run_folder, option):
    assert train(option, "0") == 0
    assert (run_folder / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            ["--batch-size", "0"], marks=ends_in(RuntimeError, "an empty batch is noticed when it is stacked")
        ),
        pytest.param(
            ["--batch-size", "-4"], marks=ends_in(RuntimeError, "a negative batch size is noticed by a tensor's shape")
        ),
        pytest.param(["--steps", "0"], marks=ends_in(ValueError, "a training of no steps ends in a traceback")),
        pytest.param(["--ema", "1.0"], marks=ends_in(ValueError, "an average that never moves ends in a traceback")),
        pytest.param(["--limit", "0"], marks=ends_in(ValueError, "a limit of no images ends in a traceback")),
        pytest.param(
            ["--widths", "7", "13"], marks=ends_in(RuntimeError, "an odd width is noticed in the first forward pass")
        ),
        pytest.param(
            ["--learning-rate", "nan"], marks=ends_in(ValueError, "a learning rate of NaN ends in a traceback")
        ),
        pytest.param(
            ["--autoencoder", "/nowhere", "--method", "pretrained"],
            marks=ends_in(FileNotFoundError, "an autoencoder that is not there ends in a traceback"),
        ),
    ],
    ids=" ".join,
)
def test_bad_option_is_refused_before_anything_is_drawn(train, home, run_folder, capsys, options):
    with pytest.raises(SystemExit) as refusal:
        train(*options)
    assert options[0] in refusal_line(refusal.value, capsys)
    assert not (home / "cache").exists(), "images were drawn before the refusal"
    assert not (run_folder / "log.jsonl").exists(), "steps were trained before the refusal"


@ends_in(AssertionError, "a folder as --export is noticed after the whole training, and a temporary file is blamed")
def test_folder_as_export_is_refused_before_training(train, run_folder, tmp_path, capsys):
    target = tmp_path / "a folder"
    target.mkdir()
    with pytest.raises(SystemExit) as refusal:
        train("--export", str(target))
    assert not (run_folder / "log.jsonl").exists(), "the training had already run"
    assert "--export" in refusal_line(refusal.value, capsys)
