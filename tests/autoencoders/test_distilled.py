"""The benchmark that lays the distilled autoencoder beside its teacher."""

import copy
import json
from pathlib import Path

import pytest
import torch

from benchmarks.autoencoders import distilled
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.scoring.reconstruction import psnr

SMALL = KLConfig(width=8, multipliers=(1, 1), blocks=1, groups=2, latent_channels=2)


@pytest.fixture
def teacher() -> KLAutoencoder:
    torch.manual_seed(0)
    return KLAutoencoder(SMALL).eval()


def test_a_copy_of_the_teacher_is_not_behind_it(teacher: KLAutoencoder) -> None:
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    scores = distilled.measure(teacher, copy.deepcopy(teacher), images)
    assert scores["n"] == 3 and scores["latent error"] == 0
    assert scores["teacher"] == scores["student"] == scores["teacher to student"] == scores["student to teacher"]


def test_encoder_and_decoder_are_told_apart(teacher: KLAutoencoder) -> None:
    images = torch.rand(40, 3, 8, 8) * 2 - 1  # more than one batch
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student.decoder.head.bias += 0.5
        expected = psnr(images, student.to_images(teacher.to_latents(images)))
    scores = distilled.measure(teacher, student, images)
    assert scores["teacher to student"] == pytest.approx(expected, abs=1e-3)
    assert scores["student to teacher"] == scores["teacher"] != scores["student"]


@pytest.mark.parametrize(("student", "ok"), [(24.1, True), (23.9, False)])
def test_more_than_one_decibel_behind_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: float, ok: bool
) -> None:
    scores = {"n": 5, "teacher": 25.0, "student": student, "teacher to student": 1.0, "student to teacher": 2.0}
    (tmp_path / "00_assets/results").mkdir(parents=True)
    (tmp_path / distilled.RECORD).write_text(json.dumps({"weights": "w", "sizes": {"64": scores}}))
    weights = tmp_path / "weights"
    weights.touch()
    monkeypatch.setattr(distilled, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(distilled, "weights_path", lambda name: weights)
    monkeypatch.setattr(distilled, "read_metadata", lambda name: {"sha256": "w"})
    bounded, crossed = distilled.check()
    assert bounded.ok is ok and crossed.measured == "1.0, 2.0 dB"
    monkeypatch.setattr(distilled, "read_metadata", lambda name: {"sha256": "other weights"})
    (row,) = distilled.check()
    assert not row.ok and "never measured" in row.measured
