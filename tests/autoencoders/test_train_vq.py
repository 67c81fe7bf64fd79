"""The training command of the quantised autoencoder, and the functions that inspect the result."""

import pytest
import torch

from helpers.autoencoders.train import with_measured_scale
from helpers.autoencoders.train_vq import main, tiny_config
from helpers.autoencoders.vq import VQAutoencoder, codes_to_rgb, reconstruct
from helpers.data import load_faces
from helpers.weights import read_metadata


def run(folder, *more):
    return main(
        [
            "--limit",
            "64",
            "--size",
            "32",
            "--batch-size",
            "4",
            "--checkpoint-every",
            "2",
            "--precision",
            "fp32",
            "--sample-every",
            "0",
            "--out",
            str(folder),
            *more,
        ]
    )


def test_trains_resumes_and_records_its_command(tmp_path):
    """Interrupted and resumed, with a discriminator, it gives the numbers of an uninterrupted run."""
    discriminator = ["--adversarial", "0.5", "--discriminator-start", "1", "--perceptual", "0.1"]
    assert run(tmp_path / "whole", "--steps", "4", *discriminator) == 0
    from helpers.training import run as training

    steps = iter(range(10))
    real = training.interruptible

    class Stop:
        def __init__(self, **_):
            pass

        def __enter__(self):
            self.inner = real()
            self.inner.__enter__()
            return lambda: next(steps) == 1

        def __exit__(self, *fault):
            return self.inner.__exit__(*fault)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "interruptible", Stop)
        assert run(tmp_path / "parts", "--steps", "4", *discriminator) == 130
    assert run(tmp_path / "parts", "--steps", "4", *discriminator, "--resume") == 0
    whole, parts = (VQAutoencoder.from_weights(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert "--adversarial 0.5" in read_metadata(tmp_path / "whole" / "weights.safetensors")["command"]


@torch.no_grad()
def test_what_is_diffused_has_unit_variance():
    faces = load_faces(size=32, limit=60, progress=False)
    torch.manual_seed(0)
    model = with_measured_scale(VQAutoencoder(tiny_config()), faces)
    latents = model.to_latents(faces.tensor())
    assert latents.std().item() == pytest.approx(1, abs=0.01) and latents.shape == (60, 4, 8, 8)
    reconstruction, indices, used = reconstruct(model, faces.tensor())
    torch.testing.assert_close(model.to_images(latents), reconstruction)
    colours = codes_to_rgb(model, indices)
    assert colours.shape == (60, 3, 32, 32) and colours.abs().max() <= 1 and colours.std() > 0.1
    assert indices.shape == (60, 8, 8) and used.histogram.sum() == 60 * 64
