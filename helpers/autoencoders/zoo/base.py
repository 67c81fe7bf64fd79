"""What all variants of the zoo share: one encoder, one decoder, and a loss of two terms; the AE and the VAE.

Reconstruction errors and rates are in nats per image; the error is the negative log-likelihood of a Gaussian around the
decoded image with a fixed standard deviation, without its constant. Where no term is reweighted, the loss is the
negative ELBO, a bound on -log p(x): VAE, conditional, importance weighted, hierarchical, ladder and VampPrior can be
compared by it. Alphabet: B images, D latent dimensions, S = 32 pixels.
"""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from helpers.autoencoders.zoo.divergences import gaussian_kl

SIZE = 32  # pixels per side
WIDTH = 16  # latent dimensions
CLASSES = 3  # species
HIDDEN = 256  # width of the hidden layer of encoder and decoder
DECODER_STD = 0.2  # of the Gaussian around a decoded image: about the error that a trained decoder leaves

Posterior = tuple[Tensor, ...]  # the parameters of q(z | x), (B, D) each


class Batch(NamedTuple):
    """What a variant may use to compute its loss."""

    x: Tensor  # (B, 3, S, S) in [-1, 1]
    labels: Tensor  # (B,) integers
    generator: torch.Generator | None = None  # of the noise
    progress: float = 1.0  # fraction of the training that is done
    dataset_size: int = 10_000


class Terms(NamedTuple):
    """The loss is their sum."""

    error: Tensor  # (B,) -log p(x | z) without its constant
    penalty: Tensor  # (B,) regulariser of the latents


class Encoder(nn.Sequential):
    """Image to the parameters of the posterior: (B, channels, 32, 32) -> (B, outputs).

    One hidden layer, as in Kingma & Welling 2013: after two seconds of training it is 1 dB better than convolutions.
    """

    def __init__(self, outputs: int, channels: int = 3):
        super().__init__(nn.Flatten(), nn.Linear(channels * SIZE**2, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, outputs))


class Decoder(nn.Sequential):
    """Latent to image: (B, D) -> (B, 3, 32, 32)."""

    def __init__(self, width: int):
        super().__init__(
            nn.Linear(width, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 3 * SIZE**2), nn.Unflatten(1, (3, SIZE, SIZE))
        )


def noise_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of a tensor's shape, generated on the CPU, so that every device gets the same."""
    return torch.randn(x.shape, generator=generator).to(x)


class AE(nn.Module):
    """The plain autoencoder, and what all variants share.

    A variant's hyperparameters are class attributes; `hyperparameters` lists those that `build_variant` can change.
    """

    paper = "Hinton & Salakhutdinov 2006"
    formula = r"-\log p(x \mid z)"
    hyperparameters: ClassVar[tuple[str, ...]] = ()
    params_per_dim = 1  # parameters of the posterior per latent dimension
    in_channels = 3  # of the encoder

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.width = width
        self.encoder: Encoder = Encoder(self.params_per_dim * width, self.in_channels)
        self.decoder = Decoder(self.decoder_width())

    def adversary(self) -> nn.Module | None:
        """The part that is trained against the rest, or None."""
        return None

    def decoder_width(self) -> int:
        """Width of the decoder's input."""
        return self.width

    def forward(self, batch: Batch) -> Terms:
        """The terms of the loss, in nats, (B,) each."""
        posterior = self.posterior(batch)
        z = self.reparameterize(posterior, batch.generator, batch.progress)
        error = self.error(self.decode(z, batch), batch)
        return Terms(error, self.penalty(posterior, z, batch).expand(len(batch.x)))

    def posterior(self, batch: Batch) -> Posterior:
        """The encoder's output, split into `params_per_dim` tensors (B, D)."""
        return self.encoder(batch.x).chunk(self.params_per_dim, dim=1)

    def reparameterize(self, posterior: Posterior, generator: torch.Generator | None, progress: float = 1.0) -> Tensor:
        """Sample latents (B, D) from the posterior, with gradients; here, without noise, the posterior is the latent.

        `progress`: fraction of the training that is done, for variants with an annealed temperature.
        """
        return posterior[0]

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        """(B, D) -> (B, 3, S, S)."""
        return self.decoder(z)

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        """(B,) -log p(x | z) of a Gaussian around the decoded image, without its constant."""
        return (decoded - batch.x).square().flatten(1).sum(1) / (2 * DECODER_STD**2)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        """The regulariser of the latents, (B,) or a scalar."""
        return z.new_zeros(())

    def embed(self, batch: Batch) -> Tensor:
        """Latents (B, D) without noise."""
        return self.posterior(batch)[0]

    def variables(self, batch: Batch) -> Tensor:
        """Latent variables (B, V) as one number each; a categorical variable is its index."""
        return self.embed(batch)

    def reconstruct(self, batch: Batch) -> Tensor:
        """Encode and decode without noise: (B, 3, S, S)."""
        return self.decode(self.embed(batch), batch)

    def rate(self, batch: Batch) -> Tensor:
        """(B,) KL of the posterior from the prior in nats; nan without noise, where it is infinite."""
        return batch.x.new_full((len(batch.x),), torch.nan)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Sample latents (count, D) from the prior."""
        return torch.randn(count, self.width, generator=generator)

    def generate(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Decode samples of the prior: (count, 3, S, S)."""
        return self.decode(self.prior(count, generator).to(next(self.parameters())))


class VAE(AE):
    """The variational autoencoder: a Gaussian posterior, kept near the standard normal prior."""

    paper = "Kingma & Welling 2013, eq. 3"
    formula = r"-\log p(x \mid z) + KL(q(z \mid x) \,\Vert\, N(0, I))"
    params_per_dim = 2

    def posterior(self, batch: Batch) -> Posterior:
        """Mean and log-variance, (B, D) each."""
        mean, logvar = super().posterior(batch)
        return mean, logvar.clamp(-12, 6)

    def reparameterize(self, posterior: Posterior, generator: torch.Generator | None, progress: float = 1.0) -> Tensor:
        mean, logvar = posterior
        return mean + (0.5 * logvar).exp() * noise_like(mean, generator)

    def kl(self, posterior: Posterior) -> Tensor:
        """(B,) KL of the posterior from the standard normal prior, in nats."""
        mean, logvar = posterior
        return gaussian_kl(mean, logvar).sum(1)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        return self.kl(posterior)

    def rate(self, batch: Batch) -> Tensor:
        return self.kl(self.posterior(batch))
