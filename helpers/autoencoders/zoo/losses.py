"""The zoo's first half: variants that weigh the rate otherwise, measure codes or pictures otherwise, or draw more.

A variant is what it changes, which is one small loss. Alphabet as in `variant`.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.perceptual import AttributeFeatures
from helpers.autoencoders.zoo.base import AE, CLASSES, VAE, WIDTH, Batch, Terms, noise_like
from helpers.autoencoders.zoo.divergences import (
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
    """Encoder and decoder are told the species, so the code need not say it."""

    paper = "Sohn, Lee, Yan 2015, eq. 4"
    formula = r"-\log p(x \mid z, y) + KL(q(z \mid x, y) \,\Vert\, N(0, I))"
    in_channels = 3 + CLASSES

    def decoder_width(self) -> int:
        return self.width + CLASSES

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        planes = F.one_hot(batch.labels, CLASSES)[:, :, None, None].to(batch.x).expand(-1, -1, *batch.x.shape[2:])
        planes = planes / batch.x.shape[-1]  # a thousand equal pixels, but no louder together than one number
        return super().posterior(batch._replace(x=torch.cat([batch.x, planes], dim=1)))

    def decode(self, z: Tensor, batch: Batch | None = None) -> Tensor:
        labels = torch.arange(len(z), device=z.device) % CLASSES if batch is None else batch.labels
        labels = labels.repeat_interleave(len(z) // len(labels))
        return self.decoder(torch.cat([z, F.one_hot(labels, CLASSES).to(z)], dim=1))


class Beta(VAE):
    """More weight on the rate: fewer numbers are used, and each for one thing, if all goes well."""

    paper = "Higgins et al. 2017, eq. 4"
    formula = r"-\log p(x \mid z) + \beta\, KL"
    beta = 8.0
    gentle = 0.0  # share of the training over which the weight grows: a cure of collapse (Bowman et al. 2015)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        grown = min(1.0, batch.progress / self.gentle) if self.gentle else 1.0
        return self.beta * grown * self.kl(posterior)


class Capacity(VAE):
    """The rate is held at a target that grows: first the most important thing, then the next."""

    paper = "Burgess et al. 2018, eq. 8"
    formula = r"-\log p(x \mid z) + \gamma\, \lvert KL - C \rvert, \quad C: 0 \to 25"
    gamma = 30.0
    most = 25.0

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        return self.gamma * (self.kl(posterior).mean() - self.most * batch.progress).abs()


class TotalCorrelation(VAE):
    """The rate taken apart; weight only on how far the code's numbers depend on each other."""

    paper = "Chen et al. 2018, eq. 4"
    formula = r"-\log p(x \mid z) + I(x; z) + \beta\, KL(q(z) \Vert \prod q(z_d)) + \sum KL(q(z_d) \Vert p(z_d))"
    beta = 8.0

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        together, apart = aggregate_posterior_log_density(z, *posterior, batch.count)
        information = log_gaussian(z, *posterior).sum(1) - together
        return information + self.beta * (together - apart) + apart - log_gaussian(z).sum(1)


class DIP1(VAE):
    """The means of all pictures shall have no correlation, and unit variance."""

    paper = "Kumar, Sattigeri, Balakrishnan 2017, eq. 6"
    formula = r"-\log p(x \mid z) + KL + \lambda_o \sum_{i \neq j} C_{ij}^2 + \lambda_d \sum (C_{ii} - 1)^2"
    off_diagonal = 50.0
    diagonal = 50.0

    def covariance(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """(D, D) of the means."""
        return mean.T.cov(correction=0)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        covariance = self.covariance(*posterior)
        own = covariance.diagonal()
        off = covariance.square().sum() - own.square().sum()
        return self.kl(posterior) + self.off_diagonal * off + self.diagonal * (own - 1).square().sum()


class DIP2(DIP1):
    """The same of the codes, noise included."""

    paper = "Kumar, Sattigeri, Balakrishnan 2017, eq. 7"

    def covariance(self, mean: Tensor, logvar: Tensor) -> Tensor:
        return super().covariance(mean, logvar) + logvar.exp().mean(0).diag()


class Factor(VAE):
    """A critic tells codes from codes with shuffled columns; its log-ratio estimates the total correlation."""

    paper = "Kim & Mnih 2018, eq. 2 and algorithm 2"
    formula = r"-\log p(x \mid z) + KL + \gamma\, (\log D(z) - \log (1 - D(z)))"
    gamma = 8.0

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.discriminator = nn.Sequential(
            nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 1)
        )

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        # the critic's own loss stands beside the encoder's, and neither's gradient reaches the other
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        ratio = torch.func.functional_call(self.discriminator, frozen, (z,))[:, 0]
        real = self.discriminator(z.detach())[:, 0]
        shuffled = self.discriminator(permute_dims(z.detach(), batch.generator))[:, 0]
        discriminator = F.softplus(-real) + F.softplus(shuffled)  # cross-entropy of a logit
        return self.kl(posterior) + self.gamma * ratio + discriminator


# --- a distance between all codes and the prior ----------------------------------------------------------------------


class Info(VAE):
    """Less of the rate, more of the distance between all codes and the prior."""

    paper = "Zhao, Song, Ermon 2017, eq. 6"
    formula = r"-\log p(x \mid z) + (1 - \alpha)\, KL + (\alpha + \lambda - 1)\, MMD(q(z), p(z))"
    alpha = 0.5
    weight = 500.0

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        distance = mmd(z, noise_like(z, batch.generator))
        return (1 - self.alpha) * self.kl(posterior) + (self.alpha + self.weight - 1) * distance


class WAE(AE):
    """No noise; all codes together shall look like the prior."""

    paper = "Tolstikhin et al. 2017, algorithm 2"
    formula = r"-\log p(x \mid z) + \lambda\, MMD_{IMQ}(q(z), p(z))"
    weight = 1000.0
    kernel: Callable[[Tensor, int], Tensor] = staticmethod(inverse_multiquadratic)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        return self.weight * mmd(z, noise_like(z, batch.generator), self.kernel)


class WAERBF(WAE):
    """The same with a kernel whose tails vanish."""

    formula = r"-\log p(x \mid z) + \lambda\, MMD_{RBF}(q(z), p(z))"
    kernel = staticmethod(rbf)


class SlicedWAE(AE):
    """The same with a transport distance along random directions."""

    paper = "Kolouri et al. 2018, eq. 12"
    formula = r"-\log p(x \mid z) + \lambda\, SW_2^2(q(z), p(z))"
    weight = 100.0

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        prior = noise_like(z, batch.generator)
        return self.weight * sliced_wasserstein(z, prior, generator=batch.generator)


# --- several codes for one picture -----------------------------------------------------------------------------------


class ImportanceWeighted(VAE):
    """K codes a picture instead of one: a tighter bound on -log p(x), because good codes count for more."""

    paper = "Burda, Grosse, Salakhutdinov 2015, eq. 8"
    formula = r"-\log \frac{1}{K} \sum_k \frac{p(x, z_k)}{q(z_k \mid x)}"
    means = 1  # M
    samples = 5  # K

    def forward(self, batch: Batch) -> Terms:
        posterior = self.posterior(batch)
        each = self.means * self.samples
        repeated = tuple(part.repeat_interleave(each, 0) for part in posterior)  # (B M K, D)
        z = self.draw(repeated, batch.generator)
        many = batch._replace(x=batch.x.repeat_interleave(each, 0))
        error = self.error(self.decode(z, many), many)
        log_weight = -error + (log_gaussian(z) - log_gaussian(z, *repeated)).sum(1)
        bound = (log_weight.reshape(-1, self.means, self.samples).logsumexp(2) - math.log(self.samples)).mean(1)
        error = error.reshape(len(bound), -1).mean(1)
        return Terms(error, -bound - error)


class MultiplyImportanceWeighted(ImportanceWeighted):
    """M such bounds, averaged: the encoder's gradient is less noisy."""

    paper = "Rainforth et al. 2018, eq. 20"
    formula = r"-\frac{1}{M} \sum_m \log \frac{1}{K} \sum_k \frac{p(x, z_{mk})}{q(z_{mk} \mid x)}"
    means = 2
    samples = 3


# --- other errors ---------------------------------------------------------------------------------------------------


class LogCosh(VAE):
    """An error that is square when small and absolute when large: edges may be sharp."""

    paper = "Chen et al. 2019, eq. 10"
    formula = r"w \sum \frac{1}{a} \log \cosh (a (\hat x - x)) + KL"
    sharpness = 10.0
    weight = 5.0

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        return self.weight * log_cosh(decoded - batch.x, self.sharpness).flatten(1).sum(1)


class Perceptual(VAE):
    """Pictures are compared by what another network sees in them as well."""

    paper = "Hou et al. 2016, section 3.2"
    formula = r"-\log p(x \mid z) + w \sum_l \text{mean}\, (\phi_l(\hat x) - \phi_l(x))^2 + KL"
    weight = 2000.0  # then features and pixels weigh about the same

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.seen_by = (
            AttributeFeatures(),
        )  # a stand-in for VGG, trained on drawn faces; in a tuple: not to be trained

    def features(self, x: Tensor) -> list[Tensor]:
        """What the reader's first convolutions see."""
        return self.seen_by[0](x)

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        pairs = zip(self.features(decoded), self.features(batch.x), strict=True)
        return super().error(decoded, batch) + self.weight * sum((a - b).square().flatten(1).mean(1) for a, b in pairs)


class MSSSIM(VAE):
    """Pictures are compared by structure at several scales."""

    paper = "Snell et al. 2015, section 3"
    formula = r"w\,(1 - \text{MS-SSIM}(\hat x, x)) + KL"
    weight = 600.0

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        similar = multiscale_structural_similarity_index_measure(
            (decoded.clamp(-1, 1) + 1) / 2,
            (batch.x + 1) / 2,
            data_range=1.0,
            sigma=0.5,
            kernel_size=5,  # a 5x5 window
            betas=(0.3, 0.4, 0.3),
            reduction="none",
            normalize="relu",
        )
        return self.weight * (1 - similar)
