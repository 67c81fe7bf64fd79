"""What all variants of the zoo share: one encoder, one decoder, and a loss of two terms; the AE and the VAE.

Errors and rates are in nats per picture; the error is that of a Gaussian around the decoded picture with a fixed
spread, without its constant. Where nothing is weighed otherwise the loss is a bound on -log p(x): VAE, conditional,
importance weighted, hierarchical, ladder and VampPrior can be compared by it. Alphabet: B pictures, D width of the
code, S = 32 pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers.autoencoders.zoo.divergences import gaussian_kl

SIZE = 32  # pixels per side
WIDTH = 16  # numbers of a code
CLASSES = 3  # species
HIDDEN = 256  # width of the one layer between picture and code
SPREAD = 0.2  # of the Gaussian around a decoded picture: about the error that a trained decoder leaves


class Batch(NamedTuple):
    """What a variant may use for one loss."""

    x: Tensor  # (B, 3, S, S) in [-1, 1]
    labels: Tensor  # (B,) whole numbers
    generator: torch.Generator | None = None  # of the noise
    progress: float = 1.0  # share of the training that is done
    count: int = 10_000  # pictures in the data set


class Terms(NamedTuple):
    """The loss is their sum."""

    error: Tensor  # (B,) -log p(x | z) without its constant
    penalty: Tensor  # (B,) what the variant asks of its codes


class Encoder(nn.Sequential):
    """Picture to numbers: (B, channels, 32, 32) -> (B, numbers).

    One hidden layer, as in Kingma & Welling 2013: in two seconds of training it is ahead of convolutions by 1 dB.
    """

    def __init__(self, numbers: int, channels: int = 3):
        super().__init__(nn.Flatten(), nn.Linear(channels * SIZE**2, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, numbers))


class Decoder(nn.Sequential):
    """Code to picture: (B, D) -> (B, 3, 32, 32)."""

    def __init__(self, width: int):
        super().__init__(
            nn.Linear(width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 3 * SIZE**2), nn.Unflatten(1, (3, SIZE, SIZE))
        )


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers of a tensor's shape; drawn on the CPU, so that every device sees the same."""
    return torch.randn(x.shape, generator=generator).to(x)


class AE(nn.Module):
    """The plain autoencoder, and what all variants share."""

    paper = "Hinton & Salakhutdinov 2006"
    formula = r"-\log p(x \mid z)"
    numbers = 1  # that the encoder says of every number of the code
    in_channels = 3  # channels that the encoder reads

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.width = width
        self.encoder = Encoder(self.numbers * width, self.in_channels)
        self.decoder = Decoder(self.decoder_width())

    def decoder_width(self) -> int:
        """What the decoder reads."""
        return self.width

    def forward(self, batch: Batch) -> Terms:
        """The terms of the loss, in nats, (B,) each."""
        posterior = self.posterior(batch)
        z = self.draw(posterior, batch.generator)
        return Terms(self.error(self.decode(z, batch), batch), self.penalty(posterior, z, batch).expand(len(batch.x)))

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        """What the encoder says: `numbers` tensors (B, D)."""
        return self.encoder(batch.x).chunk(self.numbers, dim=1)

    def draw(self, posterior: tuple[Tensor, ...], generator: torch.Generator | None) -> Tensor:
        """(B, D) a code from the posterior; without noise the posterior is the code."""
        return posterior[0]

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """(B, D) -> (B, 3, S, S)."""
        return self.decoder(z)

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        """(B,) -log p(x | z) of a Gaussian around the decoded picture, without its constant."""
        return (decoded - batch.x).square().flatten(1).sum(1) / (2 * SPREAD**2)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        """What is asked of the codes, (B,) or a single number."""
        return z.new_zeros(())

    def embed(self, batch: Batch) -> Tensor:
        """(B, D) the code without noise."""
        return self.posterior(batch)[0]

    def variables(self, batch: Batch) -> Tensor:
        """(B, V) what varies in the code, a number for each: a choice counts once, however many numbers tell it."""
        return self.embed(batch)

    def again(self, batch: Batch) -> Tensor:
        """(B, 3, S, S) the pictures after a way through the code, without noise."""
        return self.decode(self.embed(batch), batch)

    def rate(self, batch: Batch) -> Tensor:
        """(B,) nats that a code costs under the prior; nan where the encoder adds no noise: without bound."""
        return batch.x.new_full((len(batch.x),), torch.nan)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, D) codes to generate from."""
        return torch.randn(count, self.width, generator=generator)

    def generate(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """(count, 3, S, S) pictures of codes from the prior."""
        return self.decode(self.prior(count, generator).to(next(self.parameters())))


class VAE(AE):
    """Codes with noise, kept near a normal distribution."""

    paper = "Kingma & Welling 2013, eq. 3"
    formula = r"-\log p(x \mid z) + KL(q(z \mid x) \,\Vert\, N(0, I))"
    numbers = 2

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        mean, logvar = super().posterior(batch)
        return mean, logvar.clamp(-12, 6)

    def draw(self, posterior: tuple[Tensor, ...], generator: torch.Generator | None) -> Tensor:
        mean, logvar = posterior
        return mean + (0.5 * logvar).exp() * noise_like(mean, generator)

    def kl(self, posterior: tuple[Tensor, ...]) -> Tensor:
        """(B,)."""
        return gaussian_kl(*posterior).sum(1)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        return self.kl(posterior)

    def rate(self, batch: Batch) -> Tensor:
        return self.kl(self.posterior(batch))
