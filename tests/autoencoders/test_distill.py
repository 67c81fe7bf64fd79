"""A distilled autoencoder reproduces its teacher's latents and reconstructions."""

import copy
from dataclasses import replace

import pytest
import torch

from helpers.autoencoders import distill
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import fingerprint
from helpers.autoencoders.published import load_autoencoder
from helpers.weights import read_metadata

TEACHER = KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, latent_channels=5, patch=4, quant_convs=False)
TINY = ["--source", "patterns", "--steps", "2", "--batch-size", "4", "--sample-every", "2"]


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "PATTERNS", 12)
    torch.manual_seed(0)
    KLAutoencoder(TEACHER).save(tmp_path / "teacher.safetensors", {})
    return tmp_path / "teacher.safetensors"


def test_the_command_writes_an_autoencoder_of_its_teachers_latent_space(teacher, tmp_path):
    assert distill.main([*TINY, "--teacher", str(teacher), "--out", str(tmp_path / "run")]) == 0
    student = load_autoencoder(tmp_path / "run" / "weights.safetensors")
    assert student.config.latents_of == fingerprint(load_autoencoder(teacher))
    assert student.config.latent_channels == 5 and student.config.factor == 8
    metadata = read_metadata(tmp_path / "run" / "weights.safetensors")
    assert metadata["teacher"] == "teacher.safetensors" and str(tmp_path) not in metadata["command"]
    assert (tmp_path / "run" / "samples-000002.png").exists()


def test_a_perfect_student_has_no_loss_and_one_that_predicts_the_mean_latent_costs_about_one():
    torch.manual_seed(1)
    teacher = KLAutoencoder(replace(TEACHER, scale=1.0)).eval()
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        teacher.decoder.head.weight.mul_(0.1)  # no value is clipped
        latents = teacher.to_latents(images)
        torch.testing.assert_close(distill.Distillation(teacher, teacher)(images, latents), torch.zeros(3))
        constant = copy.deepcopy(teacher)
        constant.encoder.head.weight.zero_()
        constant.encoder.head.bias.copy_(torch.cat([latents.mean((0, 2, 3)), torch.zeros(5)]))
        loss = distill.Distillation(constant, teacher)(images, latents).mean().item()
    within_channels = (latents - latents.mean((0, 2, 3), keepdim=True)).square().mean() / latents.var()
    assert loss == pytest.approx(within_channels.item(), rel=1e-3)


def test_a_teacher_of_another_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "PATTERNS", 4)
    KLAutoencoder(KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, patch=4)).save(tmp_path / "t.safetensors", {})
    with pytest.raises(SystemExit, match="8 times smaller per side, this one makes them 4"):
        distill.main([*TINY, "--teacher", str(tmp_path / "t.safetensors"), "--out", str(tmp_path / "run")])
