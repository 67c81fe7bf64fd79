"""Checking a folder of images: planted faults are named, each with its files, and good images pass."""

import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data.planted import PLANTED, SIDE, findings, write_pets
from helpers.data import __main__ as command
from helpers.data import check


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of good images; enough for the limit, which is lower here."""
    monkeypatch.setattr(check, "FEW_IN_ALL", 40)
    write_pets(tmp_path / "pets")
    return tmp_path / "pets"


def faults(folder: Path) -> dict[str, str]:
    """Name -> text of all that is found; each name occurs once."""
    found = findings(folder)
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding.text for finding in found}


def test_good_images_pass(pets: Path) -> None:
    assert faults(pets) == {}


@pytest.mark.parametrize(
    ("plant", "name", "text"),
    PLANTED,
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_a_planted_fault_is_named(pets: Path, plant, name: str, text: str) -> None:
    plant(pets)
    found = faults(pets)
    assert name in found, found
    assert re.search(text, found[name]), found[name]


def test_few_images_are_told_what_to_do(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "FEW_IN_ALL", 500)
    assert "44 training images, fewer than 500: start from trained weights (--start)" in faults(pets)["few images"]


def test_the_command_prints_counts_sizes_and_faults(pets: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["check", str(pets), "--size", "32", "--cache-dir", str(pets.parent / "cache")]
    assert command.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["train: 44 images (22 cats, 22 dogs)", "val: 4 images (2 cats, 2 dogs)"]
    assert lines[2] == "shorter side of the files: 48 to 48 px, median 48 px"
    assert "nothing was found" in lines[3]
    assert lines[-1].endswith(f"helpers.tiny_sd.train --source {pets} --size 32")
    Image.new("RGB", (SIDE, SIDE)).save(pets / "cats" / "black.png")
    assert command.main(options) == 1
    assert "blank: 1 images show a single colour: cats/black.png. Delete them." in capsys.readouterr().out
    assert command.main(["check", str(pets / "nowhere")]) == 1
    assert "error: there is no folder or zip" in capsys.readouterr().err
