"""The zoo's first half: variants with another weight of the rate, another error, another distance, or more samples.

Each class contains only what it changes. Alphabet as in `base`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.perceptual import AttributeFeatures
from helpers.autoencoders.zoo.base import AE, CLASSES, VAE, WIDTH, Batch, Posterior, Terms, noise_like
from helpers.autoencoders.zoo.divergences import (
    Kernel,
    aggregate_posterior_log_density,
    inverse_multiquadratic,
    log_cosh,
    log_gaussian,
    mmd,
    permute_dims,
    rbf,
    sliced_wasserstein,
)

# --- other weights of the rate ---------------------------------------------------------------------------------------


class Conditional(VAE):
    """Encoder and decoder are conditioned on the species, so the latent need not encode it."""

    paper = "Sohn, Lee, Yan 2015, eq. 4"
    formula = r"-\log p(x \mid z, y) + KL(q(z \mid x, y) \,\Vert\, N(0, I))"
    in_channels = 3 + CLASSES

    def decoder_width(self) -> int:
        return self.width + CLASSES

    def posterior(self, batch: Batch) -> Posterior:
        planes = F.one_hot(batch.labels, CLASSES)[:, :, None, None].to(batch.x).expand(-1, -1, *batch.x.shape[2:])
        planes = planes / batch.x.shape[-1]  # a thousand equal pixels, with the norm of a single input
        return super().posterior(batch._replace(x=torch.cat([batch.x, planes], dim=1)))

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        labels = torch.arange(len(z), device=z.device) % CLASSES if batch is None else batch.labels
        labels = labels.repeat_interleave(len(z) // len(labels))
        return self.decoder(torch.cat([z, F.one_hot(labels, CLASSES).to(z)], dim=1))


class Beta(VAE):
    """More weight on the rate: fewer latent dimensions are used, ideally one per generative factor."""

    paper = "Higgins et al. 2017, eq. 4"
    formula = r"-\log p(x \mid z) + \beta\, KL"
    hyperparameters = ("beta", "kl_warmup")
    beta = 8.0
    kl_warmup = 0.0  # fraction of the training over which the weight grows, against collapse (Bowman et al. 2015)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        warmup = min(1.0, batch.progress / self.kl_warmup) if self.kl_warmup else 1.0
        return self.beta * warmup * self.kl(posterior)


class Capacity(VAE):
    """The rate is held at a target that grows, so that the latents encode the most important factors first."""

    paper = "Burgess et al. 2018, eq. 8"
    formula = r"-\log p(x \mid z) + \gamma\, \lvert KL - C \rvert, \quad C: 0 \to 25"
    hyperparameters = ("gamma", "max_capacity")
    gamma = 30.0
    max_capacity = 25.0  # nats

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        return self.gamma * (self.kl(posterior).mean() - self.max_capacity * batch.progress).abs()


class TotalCorrelation(VAE):
    """The rate is decomposed, and only the total correlation, the dependence between dimensions, is reweighted."""

    paper = "Chen et al. 2018, eq. 4"
    formula = r"-\log p(x \mid z) + I(x; z) + \beta\, KL(q(z) \Vert \prod q(z_d)) + \sum KL(q(z_d) \Vert p(z_d))"
    hyperparameters = ("beta",)
    beta = 8.0

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        mean, logvar = posterior
        joint, factorised = aggregate_posterior_log_density(z, mean, logvar, batch.dataset_size)  # (B,) each
        information = log_gaussian(z, mean, logvar).sum(1) - joint
        return information + self.beta * (joint - factorised) + factorised - log_gaussian(z).sum(1)


class DIP1(VAE):
    """The posterior means of the dataset are pushed to be uncorrelated, with unit variance."""

    paper = "Kumar, Sattigeri, Balakrishnan 2017, eq. 6"
    formula = r"-\log p(x \mid z) + KL + \lambda_o \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum (C_{ii} - 1)^2"
    hyperparameters = ("off_diagonal", "diagonal")
    off_diagonal = 50.0
    diagonal = 50.0

    def covariance(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """Covariance (D, D) of the posterior means over the batch."""
        return mean.T.cov(correction=0)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        covariance = self.covariance(*posterior)
        variance = covariance.diagonal()
        off_diagonal = covariance.square().sum() - variance.square().sum()
        diagonal = (variance - 1).square().sum()
        return self.kl(posterior) + self.off_diagonal * off_diagonal + self.diagonal * diagonal


class DIP2(DIP1):
    """DIP-VAE-I with the covariance of the sampled latents instead of that of the means."""

    paper = "Kumar, Sattigeri, Balakrishnan 2017, eq. 7"

    def covariance(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """Covariance (D, D) of the sampled latents."""
        return super().covariance(mean, logvar) + logvar.exp().mean(0).diag()


class Factor(VAE):
    """Adds the total correlation, estimated by a discriminator of latents and column-shuffled latents."""

    paper = "Kim & Mnih 2018, eq. 2 and algorithm 2"
    formula = r"-\log p(x \mid z) + KL + \gamma\, (\log D(z) - \log (1 - D(z)))"
    hyperparameters = ("gamma",)
    gamma = 8.0

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.discriminator = nn.Sequential(
            nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1)
        )

    def adversary(self) -> nn.Module:
        return self.discriminator

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        # the discriminator's own loss is added to the encoder's; neither has gradients for the other
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        ratio = torch.func.functional_call(self.discriminator, frozen, (z,))[:, 0]
        real = self.discriminator(z.detach())[:, 0]
        shuffled = self.discriminator(permute_dims(z.detach(), batch.generator))[:, 0]
        discriminator = F.softplus(-real) + F.softplus(shuffled)  # cross-entropy of a logit
        return self.kl(posterior) + self.gamma * ratio + discriminator


# --- a distance of the aggregate posterior from the prior -------------------------------------------------------------


class Info(VAE):
    """Less weight on the rate, more on the distance of the aggregate posterior from the prior."""

    paper = "Zhao, Song, Ermon 2017, eq. 6"
    formula = r"-\log p(x \mid z) + (1 - \alpha)\, KL + (\alpha + \lambda - 1)\, MMD(q(z), p(z))"
    hyperparameters = ("alpha", "weight")
    alpha = 0.5
    weight = 500.0

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        distance = mmd(z, noise_like(z, batch.generator))
        return (1 - self.alpha) * self.kl(posterior) + (self.alpha + self.weight - 1) * distance


class WAE(AE):
    """No noise: the aggregate posterior is matched to the prior instead of each image's posterior."""

    paper = "Tolstikhin et al. 2017, algorithm 2"
    formula = r"-\log p(x \mid z) + \lambda\, MMD_{IMQ}(q(z), p(z))"
    hyperparameters = ("weight",)
    weight = 1000.0
    kernel: Kernel = staticmethod(inverse_multiquadratic)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        return self.weight * mmd(z, noise_like(z, batch.generator), self.kernel)


class WAERBF(WAE):
    """WAE with an RBF kernel, whose tails vanish."""

    formula = r"-\log p(x \mid z) + \lambda\, MMD_{RBF}(q(z), p(z))"
    kernel = staticmethod(rbf)


class SlicedWAE(AE):
    """WAE with the sliced Wasserstein distance: optimal transport along random directions."""

    paper = "Kolouri et al. 2018, eq. 12"
    formula = r"-\log p(x \mid z) + \lambda\, SW_2^2(q(z), p(z))"
    hyperparameters = ("weight",)
    weight = 100.0

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        prior = noise_like(z, batch.generator)
        return self.weight * sliced_wasserstein(z, prior, generator=batch.generator)


# --- several samples per image -----------------------------------------------------------------------------------


class ImportanceWeighted(VAE):
    """K samples per image instead of one, weighted by importance: a tighter bound on -log p(x)."""

    paper = "Burda, Grosse, Salakhutdinov 2015, eq. 8"
    formula = r"-\log \frac{1}{K} \sum_k \frac{p(x, z_k)}{q(z_k \mid x)}"
    hyperparameters = ("means", "samples")
    means = 1  # M
    samples = 5  # K

    def forward(self, batch: Batch) -> Terms:
        posterior = self.posterior(batch)
        samples_per_image = self.means * self.samples
        repeated = tuple(part.repeat_interleave(samples_per_image, 0) for part in posterior)  # (B M K, D)
        z = self.reparameterize(repeated, batch.generator)
        repeated_batch = batch._replace(x=batch.x.repeat_interleave(samples_per_image, 0))
        error = self.error(self.decode(z, repeated_batch), repeated_batch)
        log_weight = -error + (log_gaussian(z) - log_gaussian(z, *repeated)).sum(1)
        bound = (log_weight.reshape(-1, self.means, self.samples).logsumexp(2) - math.log(self.samples)).mean(1)
        error = error.reshape(len(bound), -1).mean(1)
        return Terms(error, -bound - error)


class MultiplyImportanceWeighted(ImportanceWeighted):
    """The average of M importance-weighted bounds: the encoder's gradient is less noisy."""

    paper = "Rainforth et al. 2018, eq. 20"
    formula = r"-\frac{1}{M} \sum_m \log \frac{1}{K} \sum_k \frac{p(x, z_{mk})}{q(z_{mk} \mid x)}"
    means = 2
    samples = 3


# --- other errors ---------------------------------------------------------------------------------------------------


class LogCosh(VAE):
    """A reconstruction error that is quadratic near 0 and linear beyond: robust at edges."""

    paper = "Chen et al. 2019, eq. 10"
    formula = r"w \sum \frac{1}{a} \log \cosh (a (\hat x - x)) + KL"
    hyperparameters = ("sharpness", "weight")
    sharpness = 10.0
    weight = 5.0

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        return self.weight * log_cosh(decoded - batch.x, self.sharpness).flatten(1).sum(1)


class Perceptual(VAE):
    """The reconstruction error also contains the difference of another network's features."""

    paper = "Hou et al. 2016, section 3.2"
    formula = r"-\log p(x \mid z) + w \sum_l \text{mean}\, (\phi_l(\hat x) - \phi_l(x))^2 + KL"
    hyperparameters = ("weight",)
    weight = 2000.0  # then features and pixels weigh about the same

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        # a substitute for VGG, trained on synthetic faces; in a list, so that it is no submodule and not trained
        self._perceptual = [AttributeFeatures()]

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of the classifier's first convolutions."""
        return self._perceptual[0](x)

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        distance = decoded.new_zeros(len(decoded))
        for a, b in zip(self.features(decoded), self.features(batch.x), strict=True):
            distance = distance + (a - b).square().flatten(1).mean(1)
        return super().error(decoded, batch) + self.weight * distance


class MSSSIM(VAE):
    """The reconstruction error is structural dissimilarity at several scales."""

    paper = "Snell et al. 2015, section 3"
    formula = r"w\,(1 - \text{MS-SSIM}(\hat x, x)) + KL"
    hyperparameters = ("weight",)
    weight = 600.0

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        similarity = multiscale_structural_similarity_index_measure(
            (decoded.clamp(-1, 1) + 1) / 2,
            (batch.x + 1) / 2,
            data_range=1.0,
            sigma=0.5,
            kernel_size=5,  # a 5x5 window
            betas=(0.3, 0.4, 0.3),
            reduction="none",
            normalize="relu",
        )
        return self.weight * (1 - similarity)
