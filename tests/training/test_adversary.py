"""A training with a discriminator equals one with two optimisers, each with its own limit on the gradient's norm."""

import copy

import pytest
import torch
from torch import nn

from helpers.autoencoders.losses import ReconstructionLoss
from helpers.autoencoders.zoo import compare
from helpers.training import TrainConfig, train
from helpers.training.loop import step_generator

CONFIG = TrainConfig(steps=6, learning_rate=0.01, warmup=0, max_grad_norm=0.05)


class TinyAutoencoder(nn.Module):
    """A decoder of one layer and its adversarial loss."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Conv2d(4, 3, 3, padding=1)
        self.loss = ReconstructionLoss("mse", adversarial=0.5)

    def forward(self, latents, images):
        return self.loss(images, self.decoder(latents), self.decoder.weight)


@pytest.fixture
def model() -> TinyAutoencoder:
    torch.manual_seed(0)
    return TinyAutoencoder()


def losses(model, generator):
    latents = torch.randn(2, 4, 32, 32, generator=generator)
    images = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    return model(latents, images), None


def trained_by_two_optimizers(model: TinyAutoencoder) -> TinyAutoencoder:
    """The same training written out: one optimiser and one limit for the decoder, one of each for the discriminator."""
    players = [model.decoder, model.loss.discriminator]
    optimizers = [CONFIG.optimizer(player) for player in players]
    for step in range(CONFIG.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = CONFIG.learning_rate_at(step)
            optimizer.zero_grad()
        model.train()
        losses(model, step_generator(CONFIG.seed, step))[0].mean().backward()
        for player, optimizer in zip(players, optimizers, strict=True):
            nn.utils.clip_grad_norm_(player.parameters(), CONFIG.max_grad_norm)
            optimizer.step()
    return model


def difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_one_call_equals_two_optimizers(model):
    expected = trained_by_two_optimizers(copy.deepcopy(model))
    ours = copy.deepcopy(model)
    list(train(ours, losses, CONFIG, adversary=ours.loss.discriminator))
    assert difference(ours, expected) < 1e-5


def test_without_naming_the_adversary_its_gradient_limits_the_decoder_too(model):
    """The check above can fail: the limit on the norm of both gradients together gives another training."""
    expected = trained_by_two_optimizers(copy.deepcopy(model))
    together = copy.deepcopy(model)
    list(train(together, losses, CONFIG))
    assert difference(together, expected) > 1e-4


def test_the_factor_vae_names_its_discriminator():
    variant = compare.build_variant("Factor")
    assert variant.adversary() is variant.discriminator
    assert compare.build_variant("VAE").adversary() is None
