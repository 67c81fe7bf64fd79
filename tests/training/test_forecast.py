"""`--dry-run`: what a training will take, measured, while nothing is written."""

import re
import time
from pathlib import Path

import pytest

from helpers.autoencoders import train as autoencoder_training
from helpers.tiny_sd.train import main
from helpers.training.forecast import Forecast, _duration

TINY = "--size 16 --limit 30 --widths 8 16 --batch-size 8 --precision fp32".split()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_it_says_what_the_training_takes_and_writes_nothing(home: Path, tmp_path: Path, capsys) -> None:
    assert main([*TINY, "--steps", "3000", "--out", str(tmp_path / "run"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert re.search(
        r"parameters: [\d,]+\na step: [\d.e-]+ s, [\d.e-]+ s of processor time\n3,000 steps: [\d.]+ \w+, ", text
    )
    assert "4 grids of samples included" in text and re.search(r"memory: [\d.]+ GB\ndisk: \d+ MB", text)
    assert not (tmp_path / "run").exists() and {path.name for path in home.iterdir()} == {"cache"}


def test_the_forecast_is_about_the_time_that_it_takes(tmp_path: Path, capsys) -> None:
    options = [*TINY, "--steps", "80", "--sample-every", "0", "--out", str(tmp_path / "run")]
    start = time.process_time()
    assert main([*options, "--dry-run"]) == 0
    forecast = 80 * float(re.search(r"([\d.e-]+) s of processor time", capsys.readouterr().out)[1])
    start = time.process_time()
    assert main(options) == 0
    took = time.process_time() - start
    assert forecast / 3 < took < 3 * forecast + 2, "the order of magnitude: other programs run beside this test"


def test_the_number_of_parameters_and_the_disk(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main([*TINY, "--steps", "2", "--sample-every", "0", "--out", str(out), "--dry-run"]) == 0
    disk = int(re.search(r"disk: (\d+) MB", capsys.readouterr().out)[1])
    assert main([*TINY, "--steps", "2", "--sample-every", "0", "--out", str(out)]) == 0
    written = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    assert disk == pytest.approx(written, rel=0.1, abs=0.6)


def test_method_3_forecasts_the_autoencoder_that_comes_first(home: Path, capsys) -> None:
    assert main([*TINY, "--method", "own", "--autoencoder-steps", "50", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "50 steps: " in text and "This is the autoencoder; 9,000 steps in its latents follow" in text
    assert not (home / "runs").exists()


def test_other_trainings_have_it_too(capsys) -> None:
    options = "--size 16 --limit 8 --batch-size 4 --steps 50 --precision fp32 --sample-every 0 --dry-run".split()
    assert autoencoder_training.main(options) == 0
    assert "50 steps: " in capsys.readouterr().out


def test_the_whole_time_counts_samples_and_validations() -> None:
    forecast = Forecast(1, 100, 0.5, 0.4, 10.0, 3, 2.0, 5, 10**9, 10**6)
    assert forecast.seconds == 90
    assert "100 steps: 90 seconds, 3 grids of samples included" in str(forecast)
    assert [_duration(seconds) for seconds in (59, 600, 9000)] == ["59 seconds", "10 minutes", "2.5 hours"]
