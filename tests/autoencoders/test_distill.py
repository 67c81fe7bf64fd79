"""A distilled autoencoder reproduces its teacher's latents and reconstructions."""

import copy
from dataclasses import replace

import pytest
import torch

from helpers.autoencoders import distill
from helpers.autoencoders.kl import KLAutoencoder, KLConfig
from helpers.autoencoders.latents import cache_latents, fingerprint
from helpers.autoencoders.load import load_autoencoder
from helpers.data.patterns import load_patterns
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
    assert student.config.latent_channels == 5 and student.config.downsampling_factor == 8
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
        reconstructions = teacher.to_images(latents)
        variance = latents.var().item()
        perfect = distill.Distillation(teacher, variance)(images, latents, reconstructions)
        torch.testing.assert_close(perfect, torch.zeros(3), atol=1e-5, rtol=0)
        constant = copy.deepcopy(teacher)
        constant.encoder.head.weight.zero_()
        constant.encoder.head.bias.copy_(torch.cat([latents.mean((0, 2, 3)), torch.zeros(5)]))
        loss = distill.Distillation(constant, variance)(images, latents, reconstructions).mean().item()
    within_channels = (latents - latents.mean((0, 2, 3), keepdim=True)).square().mean() / latents.var()
    assert loss == pytest.approx(within_channels.item(), rel=1e-3)


def test_several_processes_change_no_loss():
    torch.manual_seed(2)
    model = distill.Distillation(KLAutoencoder(TEACHER).eval(), latent_variance=0.7)
    batch = (torch.rand(4, 3, 16, 16) * 2 - 1, torch.randn(4, 5, 2, 2), torch.rand(4, 3, 16, 16) * 2 - 1)
    with torch.no_grad():
        shares = [model(*(x[start::2] for x in batch)) for start in (0, 1)]
        torch.testing.assert_close(model(*batch), torch.stack(shares, 1).flatten())


def test_batches_too_small_for_large_photographs_are_refused(teacher, tmp_path):
    small = ["--source", "animal-faces", "--batch-size", "3", "--teacher", str(teacher), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="at least 4 for each process"):
        distill.main(small)


def test_a_teacher_of_another_size_is_refused_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "teacher_data", lambda *_, **__: pytest.fail("images were encoded"))
    KLAutoencoder(KLConfig(width=8, multipliers=(1,), blocks=1, groups=4, patch=4)).save(tmp_path / "t.safetensors", {})
    with pytest.raises(SystemExit, match="8 times smaller per side, this one makes them 4"):
        distill.main([*TINY, "--teacher", str(tmp_path / "t.safetensors"), "--out", str(tmp_path / "run")])


def test_reconstructions_are_decoded_once_each(teacher, monkeypatch):
    model = load_autoencoder(teacher)
    images = load_patterns("train", 64, limit=12, progress=False)
    data = distill.TeacherData(images, cache_latents(model, images, progress=False), model, share=1.0)
    decode = model.to_images
    counts = []
    monkeypatch.setattr(model, "to_images", lambda latents: counts.append(len(latents)) or decode(latents))
    for step in range(60):
        x, latents, reconstructions = data.batch(4, torch.Generator().manual_seed(step))
        with torch.no_grad():
            torch.testing.assert_close(reconstructions, decode(latents), atol=1 / 127, rtol=0)
            torch.testing.assert_close(latents, model.to_latents(x), atol=5e-3, rtol=0)
    assert sum(counts) == data.decoded.sum() <= 24 and data.decoded.mean() > 0.9
