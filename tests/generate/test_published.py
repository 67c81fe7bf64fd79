"""Checkpoints that others published, and files of one's own trainings, by their path."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sd1 import reference as sd1_reference
from benchmarks.sd3 import reference as sd3_reference
from helpers.generate import generate, load_model
from helpers.generate.__main__ import main
from helpers.generate.models import published_system
from helpers.sd1.export import to_diffusers
from helpers.sd1.pipeline import SD1Config, StableDiffusion1
from helpers.weights import weights_path


def test_a_diffusers_folder_generates_what_the_original_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = StableDiffusion1.from_weights()
    to_diffusers(original, folder / "exported")
    config = replace(original.config, text=replace(original.config.text, projection=None))
    monkeypatch.setattr(SD1Config, "v1", lambda: config)
    options = ["a grey cat", "--steps", "3", "--guidance-scale", "4"]
    assert main([*options, "--model", "exported"]) == 0 and main([*options, "--model", "sd1"]) == 0
    (ours,) = generate("sd1", "a grey cat", steps=3, progress=False)
    (published,) = generate("exported", "a grey cat", steps=3, guidance_scale=4, progress=False)
    assert published.tobytes() == ours.tobytes()
    assert main(["--again", "generated/exported-a_grey_cat-0.png"]) == 0
    assert "byte for byte" in capsys.readouterr().out
    shutil.move("exported", "elsewhere")
    assert main(["--again", "generated/exported-a_grey_cat-0.png"]) == 1
    assert "was generated with exported: there is no model" in capsys.readouterr().err
    assert main(["--again", "generated/exported-a_grey_cat-0.png", "--model", "elsewhere"]) == 0
    assert main([*options, "--model", "elsewhere", "--precision", "bf16", "--seed", "1"]) == 0
    assert main(["--again", "generated/elsewhere-a_grey_cat-1.png"]) == 0


def test_the_system_is_recognised(tmp_path: Path) -> None:
    layouts = sd1_reference.write_layouts(sd1_reference.reference(sd1_reference.SMALL), tmp_path / "sd1")
    assert {published_system(path) for path in layouts.values()} == {"sd1"}
    config = sd3_reference.SMALL
    layouts = sd3_reference.write_layouts(sd3_reference.reference(config, tmp_path / "t5"), config, tmp_path / "sd3")
    assert {published_system(layouts[name]) for name in ("diffusers", "single")} == {"sd3"}
    assert published_system(layouts["single"].parent) == "sd3"
    model = load_model(layouts["diffusers"], config=config)
    assert model.system.title == "Stable Diffusion 3" and model.default("shift") == model.network.config.shift


def test_a_file_and_a_folder_of_a_training(folder: Path) -> None:
    (folder / "runs" / "faces").mkdir(parents=True)
    for name in ("tiny_sd_pixels", "sd1", "sd3"):
        shutil.copy(weights_path(name), folder / f"mine_{name}.safetensors")
    shutil.copy(weights_path("tiny_sd_pixels"), "runs/faces/weights.safetensors")
    for path, shipped in (
        ("runs/faces", "tiny_sd_pixels"),
        ("mine_tiny_sd_pixels.safetensors", "tiny_sd_pixels"),
        ("mine_sd1.safetensors", "sd1"),
        ("mine_sd3.safetensors", "sd3"),
    ):
        model = load_model(path)
        assert model.weights == load_model(shipped).weights and model.name in (path, f"{path}/weights.safetensors")
    assert main(["a cat", "--model", "runs/faces", "--steps", "2"]) == 0
    assert main(["--again", "generated/faces-a_cat-0.png"]) == 0


def test_a_repository_of_the_hub_is_named_by_its_system(hub_out_of_reach, capsys: pytest.CaptureFixture[str]) -> None:
    for system in ("sd1", "sd3"):
        assert main(["a cat", "--model", f"{system}:someone/model"]) == 1
        assert "someone/model" in capsys.readouterr().err
