"""The benchmark of all autoencoders on photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.autoencoders import photographs
from benchmarks.tiny_sd.animals_scores import PER_CLASS, Photographs
from helpers.data.faces import Faces
from helpers.scoring.reconstruction import psnr


class Darkening:
    """Its latents are the images, and its decoder halves them."""

    def to_latents(self, images: Tensor) -> Tensor:
        return images

    def to_images(self, latents: Tensor) -> Tensor:
        return latents / 2


class Identity(Darkening):
    def to_images(self, latents: Tensor) -> Tensor:
        return latents


class MeanColour:
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images), 1000), images.mean((2, 3))


@pytest.fixture
def both_splits() -> Photographs:
    def faces(split: str, per_class: int, seed: int) -> Faces:
        rng = np.random.default_rng(seed)
        count = 3 * per_class
        images = rng.integers(128, 256, (count, 3, 8, 8), np.uint8)
        return Faces(images, np.arange(count) % 3, split=split)

    return Photographs(faces("train", PER_CLASS, 1), faces("val", 20, 2))


def test_a_perfect_autoencoder_has_no_distance_and_a_darkening_one_has(both_splits: Photographs) -> None:
    perfect = photographs.measure(Identity(), MeanColour(), both_splits)
    darker = photographs.measure(Darkening(), MeanColour(), both_splits)
    assert abs(perfect["kid"]["value"]) < 4 * perfect["kid"]["standard_error"]
    held_out = both_splits.held_out.tensor(slice(None))
    assert darker["psnr"] == pytest.approx(psnr(held_out, held_out / 2))
    assert darker["kid"]["value"] > 20 * darker["kid"]["standard_error"]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A record that `check` reads; the shipped weights are those that were measured."""
    kid = {"value": 0.01, "standard_error": 0.001}
    scores = {name: {"weights": "w", "psnr": 25.0, "kid": kid} for name in photographs.NAMES}
    weights = tmp_path / "weights"
    weights.touch()
    monkeypatch.setattr(photographs, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(photographs, "weights_path", lambda name: weights)
    monkeypatch.setattr(photographs, "read_metadata", lambda name: {"sha256": "w"})
    return {"n": 763, "autoencoders": scores}


def write(folder: Path, record: dict) -> None:
    path = folder / photographs.RECORD
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(("own", "ok"), [(25.6, True), (25.4, False)])
def test_less_than_half_a_decibel_ahead_is_short(tmp_path: Path, recorded: dict, own: float, ok: bool) -> None:
    recorded["autoencoders"][photographs.ANIMALS]["psnr"] = own
    write(tmp_path, recorded)
    ahead, *floors = photographs.check()
    assert ahead.ok is ok
    assert [row.measured for row in floors] == ["0.010 ± 0.001"] * len(photographs.NAMES)


def test_other_weights_were_never_measured(tmp_path: Path, recorded: dict) -> None:
    recorded["autoencoders"]["general_autoencoder"]["weights"] = "older"
    write(tmp_path, recorded)
    (row,) = photographs.check()
    assert not row.ok and "never measured" in row.measured
