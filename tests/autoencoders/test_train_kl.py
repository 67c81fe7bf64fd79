"""The terms of the loss that a KL autoencoder is trained with."""

import pytest
import torch
from torch import Tensor, nn

from helpers.autoencoders.kl import DiagonalGaussian
from helpers.autoencoders.losses import ReconstructionLoss
from helpers.autoencoders.train import Reconstruction


class Scaling(nn.Module):
    """Its latents are the images, and its decoder multiplies them: at every size, or only at full size."""

    def __init__(self, factor: float, full_size: int | None = None):
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.head = nn.Linear(1, 1)
        self.factor = factor
        self.full_size = full_size

    def encode(self, images: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(images, torch.zeros_like(images))

    def decode(self, z: Tensor) -> Tensor:
        return z * self.factor if self.full_size in (None, z.shape[-1]) else z


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def loss(autoencoder: Scaling, images: Tensor, **weights: float) -> Tensor:
    return Reconstruction(autoencoder, ReconstructionLoss(), **weights)(images, torch.zeros_like(images))


def test_the_default_is_the_error_and_a_thousandth_of_the_kl_per_value(images: Tensor) -> None:
    expected = (images / 2).abs().mean((1, 2, 3)) + 1e-3 * images.square().mean((1, 2, 3)) / 2
    torch.testing.assert_close(loss(Scaling(0.5), images), expected)


def test_the_kl_has_the_weight_that_was_asked_for(images: Tensor) -> None:
    torch.testing.assert_close(loss(Scaling(1.0), images, kl_weight=0.5), images.square().mean((1, 2, 3)) / 4)


def test_half_size_images_count_with_their_weight(images: Tensor) -> None:
    small = nn.functional.avg_pool2d(images, 2)
    without = loss(Scaling(0.5), images)
    torch.testing.assert_close(
        loss(Scaling(0.5), images, equivariance=0.25) - without, 0.25 * (small / 2).abs().mean((1, 2, 3))
    )
    same_at_half_size = Scaling(0.5, full_size=8)
    torch.testing.assert_close(loss(same_at_half_size, images, equivariance=0.25), without)
