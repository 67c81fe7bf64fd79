"""Grids of samples that a training wrote become small images that ship."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.tiny_sd import animals_progress


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(animals_progress, "repository_root", lambda: tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 60, 3), np.uint8)
    enlarged = pixels.repeat(animals_progress.ENLARGED, 0).repeat(animals_progress.ENLARGED, 1)
    Image.fromarray(enlarged).save(folder / "samples-000050.png")
    return folder


def test_every_generated_pixel_becomes_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert animals_progress.main([str(run), "50"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == run.parent / animals_progress.IMAGES / "animals_training/50.webp"
    assert Image.open(path).size == (60, 24)


def test_another_training_has_a_folder_of_its_own(run: Path) -> None:
    assert animals_progress.main([str(run), "50", "--name", "other"]) == 0
    assert (run.parent / animals_progress.IMAGES / "other/50.webp").is_file()


def test_a_missing_grid_is_named_and_nothing_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert animals_progress.main([str(run), "50", "100"]) == 2
    assert "samples-000100.png" in capsys.readouterr().err
    assert not (run.parent / animals_progress.IMAGES).exists()


def test_a_large_file_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animals_progress, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100"):
        animals_progress.main([str(run), "50"])
