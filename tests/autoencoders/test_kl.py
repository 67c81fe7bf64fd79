"""The KL autoencoder: its published sizes, its Gaussian against sampling, its scale."""

import pytest
import torch

from helpers.autoencoders.kl import DiagonalGaussian, KLAutoencoder, KLConfig

SMALL = KLConfig(width=8, multipliers=(1, 2), blocks=1, groups=4, scale=0.5, shift=0.25)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_sizes():
    with torch.device("meta"):
        sd1 = KLAutoencoder(KLConfig.sd1())
        sd3 = KLAutoencoder(KLConfig.sd3())
    assert (count(sd1), count(sd1.encoder), count(sd1.decoder)) == (83_653_863, 34_163_592, 49_490_179)
    assert (count(sd3), count(sd3.encoder), count(sd3.decoder)) == (83_819_683, 34_274_208, 49_545_475)
    assert KLConfig.sd1().downsampling_factor == 8


def test_kl_against_sampling():
    gaussian = DiagonalGaussian(torch.tensor([[0.3, -1.2]]), torch.tensor([[-0.5, 0.4]]))
    many = DiagonalGaussian(gaussian.mean.expand(400_000, 2), gaussian.logvar.expand(400_000, 2))
    z = many.sample(torch.Generator().manual_seed(0))
    q = torch.distributions.Normal(gaussian.mean, (0.5 * gaussian.logvar).exp())
    estimate = (q.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z)).sum(1).mean()
    torch.testing.assert_close(gaussian.kl()[0], estimate, atol=0.01, rtol=0)
    assert DiagonalGaussian(torch.zeros(1, 3), torch.zeros(1, 3)).kl() == 0


def test_the_scale_is_undone():
    torch.manual_seed(0)
    model = KLAutoencoder(SMALL).eval()
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        z = model.encode(images).sample(torch.Generator().manual_seed(1))
        torch.testing.assert_close(model.to_latents(images, generator), (z - 0.25) * 0.5)
        torch.testing.assert_close(model.to_images((z - 0.25) * 0.5), model.decode(z).clamp(-1, 1))


@pytest.mark.parametrize("shape", [(1, 3, 7, 8), (1, 4, 8, 8), (3, 8, 8)])
def test_images_that_cannot_be_halved_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\) with H and W multiples of 2"):
        KLAutoencoder(SMALL).encode(torch.zeros(shape))


def test_gradients_reach_every_parameter():
    torch.manual_seed(0)
    model = KLAutoencoder(SMALL)
    images = torch.rand(2, 3, 8, 8)
    gaussian = model.encode(images)
    (model.decode(gaussian.sample()) - images).square().sum().add(gaussian.kl().sum()).backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert all("to_kv.bias" in name for name in dead), dead  # a constant added to every key changes no softmax
