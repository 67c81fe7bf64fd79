"""The zoo's second half: variants with other latents than Gaussian ones, and with other priors.

Alphabet as in `base`; K categories, pseudo-inputs or codes of a codebook.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.quantizers import EMAQuantizer, Quantized
from helpers.autoencoders.zoo.base import AE, SIZE, VAE, WIDTH, Batch, Encoder, Posterior, Terms, noise_like
from helpers.autoencoders.zoo.divergences import (
    categorical_kl,
    gamma_kl,
    gaussian_kl,
    gumbel_softmax,
    log_gaussian,
)

# --- other latents --------------------------------------------------------------------------------------------------


class Categorical(AE):
    """Categorical latents: each of D variables is one of K categories, sampled with the Gumbel-softmax relaxation."""

    paper = "Jang, Gu, Poole 2016, eq. 2"
    formula = r"-\log p(x \mid z) + \sum_n KL(q(z_n \mid x) \,\Vert\, U(K))"
    hyperparameters = ("max_temperature", "min_temperature")
    K = 16
    params_per_dim = K
    max_temperature = 1.0  # at the start of the training
    min_temperature = 0.5  # at its end

    def decoder_width(self) -> int:
        return self.width * self.K

    def posterior(self, batch: Batch) -> Posterior:
        """Logits (B, D, K)."""
        return (self.encoder(batch.x).unflatten(1, (self.width, self.K)),)

    def reparameterize(self, posterior: Posterior, generator: torch.Generator | None, progress: float = 1.0) -> Tensor:
        temperature = self.max_temperature * (self.min_temperature / self.max_temperature) ** progress
        return gumbel_softmax(posterior[0], temperature, generator).flatten(1)  # (B, D K)

    def kl(self, posterior: Posterior) -> Tensor:
        """(B,) KL of the posterior from the uniform prior, in nats."""
        return categorical_kl(posterior[0]).sum(1)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        return self.kl(posterior)

    def embed(self, batch: Batch) -> Tensor:
        return F.one_hot(self.posterior(batch)[0].argmax(-1), self.K).flatten(1).float()

    def variables(self, batch: Batch) -> Tensor:
        return self.posterior(batch)[0].argmax(-1).float()

    def rate(self, batch: Batch) -> Tensor:
        return self.kl(self.posterior(batch))

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        categories = torch.randint(self.K, (count, self.width), generator=generator)
        return F.one_hot(categories, self.K).flatten(1).float()


class Joint(VAE):
    """Gaussian latents for continuous factors and a categorical one for a discrete factor, each with its capacity."""

    paper = "Dupont 2018, eq. 7"
    formula = r"-\log p(x \mid z, c) + \gamma\, \lvert KL_z - C_z \rvert + \gamma\, \lvert KL_c - C_c \rvert"
    hyperparameters = ("gamma", "max_capacity", "temperature")
    K = 3  # as many as there are species
    gamma = 30.0
    max_capacity = 25.0  # nats, of the Gaussian latents
    temperature = 0.67

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.encoder = Encoder(2 * width + self.K)

    def decoder_width(self) -> int:
        return self.width + self.K

    def posterior(self, batch: Batch) -> Posterior:
        """Mean and log-variance (B, D) each, and logits (B, K)."""
        mean, logvar, logits = self.encoder(batch.x).split([self.width, self.width, self.K], dim=1)
        return mean, logvar.clamp(-12, 6), logits

    def reparameterize(self, posterior: Posterior, generator: torch.Generator | None, progress: float = 1.0) -> Tensor:
        mean, logvar, logits = posterior
        z = super().reparameterize((mean, logvar), generator)
        c = gumbel_softmax(logits, self.temperature, generator)
        return torch.cat([z, c], dim=1)  # (B, D + K)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        mean, logvar, logits = posterior
        gaussian_excess = self.kl((mean, logvar)).mean() - self.max_capacity * batch.progress
        categorical_excess = categorical_kl(logits).mean() - math.log(self.K) * batch.progress
        return self.gamma * (gaussian_excess.abs() + categorical_excess.abs())

    def embed(self, batch: Batch) -> Tensor:
        mean, _, logits = self.posterior(batch)
        return torch.cat([mean, F.one_hot(logits.argmax(1), self.K)], dim=1)

    def variables(self, batch: Batch) -> Tensor:
        mean, _, logits = self.posterior(batch)
        return torch.cat([mean, logits.argmax(1, keepdim=True)], dim=1)

    def rate(self, batch: Batch) -> Tensor:
        mean, logvar, logits = self.posterior(batch)
        return self.kl((mean, logvar)) + categorical_kl(logits)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        categories = torch.randint(self.K, (count,), generator=generator)
        return torch.cat([super().prior(count, generator), F.one_hot(categories, self.K).float()], dim=1)


class Gamma(AE):
    """Nonnegative latents: gamma distributions as posterior and prior."""

    paper = "Naesseth et al. 2016, eq. 5 and section 4"
    formula = r"-\log p(x \mid z) + KL(\Gamma(a, b) \,\Vert\, \Gamma(2, 1))"
    hyperparameters = ("boost", "prior_shape", "prior_rate")
    params_per_dim = 2
    boost = 6  # how far the shape is raised before sampling: then hardly any proposal is rejected
    prior_shape = 2.0
    prior_rate = 1.0

    def posterior(self, batch: Batch) -> Posterior:
        """Shape and rate, (B, D) each, positive."""
        shape, rate = super().posterior(batch)
        return F.softplus(shape) + 1e-2, F.softplus(rate) + 1e-2

    def reparameterize(self, posterior: Posterior, generator: torch.Generator | None, progress: float = 1.0) -> Tensor:
        shape, rate = posterior
        return sample_gamma(shape, self.boost, generator) / rate

    def kl(self, posterior: Posterior) -> Tensor:
        """(B,) KL of the posterior from the gamma prior, in nats."""
        shape, rate = posterior
        return gamma_kl(shape, rate, self.prior_shape, self.prior_rate).sum(1)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        return self.kl(posterior)

    def embed(self, batch: Batch) -> Tensor:
        shape, rate = self.posterior(batch)
        return shape / rate

    def rate(self, batch: Batch) -> Tensor:
        return self.kl(self.posterior(batch))

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.full((count, self.width), self.prior_shape)
        return sample_gamma(shape, self.boost, generator) / self.prior_rate


def sample_gamma(shape: Tensor, boost: int, generator: torch.Generator | None = None) -> Tensor:
    """Sample from Gamma(shape, 1) with a gradient for the shape, by Marsaglia's rejection sampler.

    The shape is raised by `boost`, which makes nearly all proposals acceptable, and uniform numbers bring the sample
    back to the original shape (Naesseth et al. 2016, section 4.2). Then nearly all of the gradient flows through the
    accepted proposal, and the rest is left out.
    """
    d = shape + boost - 1 / 3
    proposals = torch.randn((8, *shape.shape), generator=generator).to(shape)  # all eight fail once in 10^14 times
    u = torch.rand((8, *shape.shape), generator=generator).to(shape)
    with torch.no_grad():
        v = (1 + proposals / (9 * d).sqrt()) ** 3
        acceptable = (v > 0) & (u.log() < 0.5 * proposals**2 + d - d * v + d * v.clamp(min=1e-30).log())
        first = acceptable.float().argmax(0, keepdim=True)
    accepted = proposals.gather(0, first)[0]
    raised = d * (1 + accepted / (9 * d).sqrt()) ** 3
    uniform = torch.rand((boost, *shape.shape), generator=generator).to(shape).clamp(min=1e-7)
    steps = torch.arange(boost).reshape(-1, *[1] * shape.ndim).to(shape)
    return raised * (uniform.log() / (shape + steps)).sum(0).exp()


class VQ(AE):
    """Vector quantisation: sixteen tokens, each replaced by the nearest of K codes with EMA updates."""

    paper = "van den Oord, Vinyals, Kavukcuoglu 2017, eq. 3 and appendix A"
    formula = r"-\log p(x \mid e) + w \beta\, \text{mean}\, \Vert z - sg[e] \Vert^2"
    tokens = 16
    K = 64
    hyperparameters = ("weight",)
    weight = 300.0

    def __init__(self, width: int = WIDTH):
        super().__init__(self.tokens * width // 2)
        self.quantizer = EMAQuantizer(self.K, width // 2, decay=0.9)  # a short training needs a short memory

    def quantize(self, batch: Batch) -> Quantized:
        """The encoder's output as tokens (B, tokens, D / tokens), quantised."""
        return self.quantizer(self.encoder(batch.x).unflatten(1, (self.tokens, -1)))

    def forward(self, batch: Batch) -> Terms:
        quantized = self.quantize(batch)
        error = self.error(self.decode(quantized.z_q.flatten(1)), batch)
        return Terms(error, self.weight * quantized.loss.flatten(1).mean(1))

    def embed(self, batch: Batch) -> Tensor:
        return self.quantize(batch).z_q.flatten(1)

    def variables(self, batch: Batch) -> Tensor:
        return self.quantize(batch).indices.float()

    def rate(self, batch: Batch) -> Tensor:
        return batch.x.new_full((len(batch.x),), self.tokens * math.log(self.K))

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return self.quantizer.decode(torch.randint(self.K, (count, self.tokens), generator=generator)).flatten(1)


# --- other priors ---------------------------------------------------------------------------------------------------


class Hierarchical(VAE):
    """Two codes, of which the upper one says what the lower one is likely to be."""

    paper = "Rezende, Mohamed, Wierstra 2014 (there without z2 in z1's posterior)"
    formula = r"-\log p(x \mid z_1) + KL(q(z_1 \mid x, z_2) \Vert p(z_1 \mid z_2)) + KL(q(z_2 \mid x) \Vert N(0, I))"

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.encoder = Encoder(4 * width)
        self.upper = nn.Sequential(nn.SiLU(), nn.Linear(4 * width, 2 * width))
        self.lower = nn.Sequential(nn.SiLU(), nn.Linear(5 * width, 2 * width))
        self.below = mlp(width, 2 * width)

    def posterior(self, batch: Batch) -> Posterior:
        """Mean and log-variance of q(z_2 | x), (B, D) each, and the features (B, 4 D) for q(z_1 | x, z_2)."""
        features = self.encoder(batch.x)
        mean, logvar = self.upper(features).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6), features

    def lower_posterior(
        self, features: Tensor, upper: Tensor, lower_prior: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z_1 | x, z_2); `lower_prior` are those of p(z_1 | z_2). All are (B, D)."""
        mean, logvar = self.lower(torch.cat([features, upper], dim=1)).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6)

    def lower_prior(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z_1 | z_2), (B, D) each."""
        mean, logvar = self.below(upper).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6)

    def forward(self, batch: Batch) -> Terms:
        upper_mean, upper_logvar, features = self.posterior(batch)
        upper = super().reparameterize((upper_mean, upper_logvar), batch.generator)
        lower_prior = self.lower_prior(upper)
        lower = self.lower_posterior(features, upper, lower_prior)
        z = super().reparameterize(lower, batch.generator)
        rate = self.kl((upper_mean, upper_logvar)) + gaussian_kl(*lower, *lower_prior).sum(1)
        return Terms(self.error(self.decode(z), batch), rate)

    def embed(self, batch: Batch) -> Tensor:
        mean, _, features = self.posterior(batch)
        return self.lower_posterior(features, mean, self.lower_prior(mean))[0]

    def rate(self, batch: Batch) -> Tensor:
        return self(batch).penalty

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        upper = super().prior(count, generator).to(next(self.parameters()))
        return VAE.reparameterize(self, self.lower_prior(upper), generator)


class Ladder(Hierarchical):
    """The lower posterior is the precision-weighted product of an estimate from the image and of the lower prior."""

    paper = "Sonderby et al. 2016, eq. 17-19"

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.lower = nn.Sequential(nn.SiLU(), nn.Linear(4 * width, 2 * width))

    def lower_posterior(
        self, features: Tensor, upper: Tensor, lower_prior: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        prior_mean, prior_logvar = lower_prior
        mean, logvar = self.lower(features).chunk(2, dim=1)
        precision = (-logvar.clamp(-12, 6)).exp()
        prior_precision = (-prior_logvar).exp()
        variance = 1 / (precision + prior_precision)
        return variance * (precision * mean + prior_precision * prior_mean), variance.log()


class Vamp(VAE):
    """The prior is a mixture of the posteriors of K learned pseudo-inputs."""

    paper = "Tomczak & Welling 2017, eq. 9"
    formula = r"-\log p(x \mid z) + \log q(z \mid x) - \log \frac{1}{K} \sum_k q(z \mid u_k)"
    K = 32

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.pseudo_inputs = nn.Parameter(0.3 * torch.randn(self.K, 3, SIZE, SIZE))

    def components(self) -> Posterior:
        """Means and log-variances of the prior's components, (K, D) each."""
        return self.posterior(Batch(self.pseudo_inputs.clamp(-1, 1), torch.zeros(self.K)))

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        mean, logvar = self.components()
        parts = log_gaussian(z[:, None], mean[None], logvar[None]).sum(2)  # (B, K)
        return log_gaussian(z, *posterior).sum(1) - parts.logsumexp(1) + math.log(self.K)

    def rate(self, batch: Batch) -> Tensor:
        posterior = self.posterior(batch)
        return self.penalty(posterior, self.reparameterize(posterior, batch.generator), batch)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        components = torch.randint(self.K, (count,), generator=generator)
        return self.reparameterize(tuple(part[components] for part in self.components()), generator)


class TwoStage(VAE):
    """A second VAE learns the distribution of the first one's latents; generating goes through both."""

    paper = "Dai & Wipf 2019, section 4"
    formula = r"-\log p(x \mid z) + KL_z \;+\; -\log p(z \mid u) + KL_u"

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.up = mlp(width, 2 * width)
        self.down = mlp(width, width)
        self.log_std = nn.Parameter(torch.zeros(()))  # learned, which is the paper's point

    def second(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,) the negative ELBO of the second stage, a bound on -log p(z)."""
        mean, logvar = self.up(z).chunk(2, dim=1)
        u = self.reparameterize((mean, logvar.clamp(-12, 6)), generator)
        error = -log_gaussian(z, self.down(u), 2 * self.log_std).sum(1)
        return error + gaussian_kl(mean, logvar.clamp(-12, 6)).sum(1)

    def penalty(self, posterior: Posterior, z: Tensor, batch: Batch) -> Tensor:
        return self.kl(posterior) + self.second(z.detach(), batch.generator)  # no gradient for the first stage

    def rate(self, batch: Batch) -> Tensor:
        posterior = self.posterior(batch)
        z = self.reparameterize(posterior, batch.generator)
        return log_gaussian(z, *posterior).sum(1) + self.second(z, batch.generator)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        z = self.down(super().prior(count, generator).to(self.log_std))
        return z + self.log_std.exp() * noise_like(z, generator)


def mlp(width: int, out: int) -> nn.Sequential:
    """A network with two hidden layers: (B, width) -> (B, out)."""
    return nn.Sequential(nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, out))
