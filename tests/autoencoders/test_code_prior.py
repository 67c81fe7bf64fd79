"""The prior over codes: causality, sampling with a key-value cache, and its likelihood."""

import pytest
import torch

from helpers.autoencoders.code_prior import CodePrior, PriorConfig
from helpers.autoencoders.train_prior import main
from helpers.autoencoders.vq import VQAutoencoder, VQConfig
from helpers.weights import read_metadata

CONFIG = PriorConfig(K=16, side=4, width=32, blocks=2, heads=4)


@pytest.fixture(scope="module")
def prior():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = CodePrior(CONFIG)
        for parameter in prior.parameters():  # far from the even guess of an untrained one
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return prior.eval()


@pytest.fixture
def maps():
    return torch.randint(16, (3, 4, 4), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_prediction_depends_only_on_earlier_codes(prior, maps):
    labels = torch.tensor([0, 1, 2])
    changed = maps.clone()
    changed[:, 2, 1] = (changed[:, 2, 1] + 1) % 16  # the tenth code
    before = prior(maps, labels)
    after = prior(changed, labels)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert (before[:, 10:] - after[:, 10:]).abs().amax((0, 2)).min() > 1e-4
    assert not torch.allclose(prior(maps, labels), prior(maps, labels.flip(0)))


@torch.no_grad()
def test_the_key_value_cache_changes_nothing(prior):
    """Greedy codes sampled one by one are the argmax of the logits computed all at once."""
    labels = torch.tensor([0, 2])
    samples = prior.generate(labels, top_k=1)
    assert (prior(samples, labels).argmax(2) == samples.flatten(1)).all()


def test_samples_follow_the_predictions(prior):
    labels = torch.zeros(4000, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    samples = prior.generate(labels, generator)
    expected = prior(samples[:1], labels[:1])[0, 0].softmax(0)
    torch.testing.assert_close(torch.bincount(samples[:, 0, 0], minlength=16) / 4000, expected, atol=0.03, rtol=0)
    few = prior.generate(labels[:500], generator, top_k=3)[:, 0, 0].unique()
    assert set(few.tolist()) <= set(expected.topk(3).indices.tolist())


@torch.no_grad()
def test_the_loss_is_the_bits_of_the_map(prior, maps):
    labels = torch.tensor([0, 1, 3])
    logp = prior(maps, labels).log_softmax(2).gather(2, maps.flatten(1)[..., None]).sum((1, 2))
    torch.testing.assert_close(prior.losses(maps, labels), -logp / 16)


def test_another_map_is_refused(prior):
    with pytest.raises(ValueError, match="4x4 codes, got \\(1, 8, 8\\)"):
        prior(torch.zeros(1, 8, 8, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def test_invalid_sampling_options_are_refused(prior):
    labels = torch.tensor([0])
    for options in ({"temperature": 0}, {"top_k": 0}, {"top_k": 17}):
        with pytest.raises(ValueError, match="temperature must be above 0 and top_k in 1..16"):
            prior.generate(labels, **options)
    with pytest.raises(ValueError, match="labels must lie in 0..3, one at least, got \\[4\\]"):
        prior.generate(torch.tensor([4]))


def test_the_shipped_prior_belongs_to_the_shipped_codes():
    assert read_metadata("vq_prior")["autoencoder_sha256"] == read_metadata("vq")["sha256"]


def test_trained_by_a_command(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    VQAutoencoder(
        VQConfig(
            width=8, multipliers=(1,), blocks=1, groups=4, patch=8, K=32, code_width=3, latent_channels=3, ema=True
        )
    ).save(tmp_path / "vq.safetensors", {})
    few = ["--size", "32", "--limit", "20", "--steps", "2", "--batch-size", "4", "--precision", "fp32"]
    paths = ["--autoencoder", str(tmp_path / "vq.safetensors"), "--out", str(tmp_path / "run")]
    assert main([*few, *paths, "--sample-every", "0"]) == 0
    loaded = CodePrior.from_weights(tmp_path / "run" / "weights.safetensors")
    assert loaded.config.side == 4 and loaded.config.K == 32
    assert loaded.generate(torch.tensor([0, 3])).shape == (2, 4, 4)
