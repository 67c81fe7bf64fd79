"""The zoo's second half: variants with other codes than numbers with noise, and with other priors.

Alphabet as in `variant`; K categories, pseudo-pictures or codes of a codebook.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.autoencoders.quantizers import EMAQuantizer
from helpers.autoencoders.zoo.base import AE, SIZE, VAE, WIDTH, Batch, Encoder, Terms, noise_like
from helpers.autoencoders.zoo.divergences import (
    categorical_kl,
    gamma_kl,
    gaussian_kl,
    gumbel_softmax,
    log_gaussian,
)

# --- other codes ----------------------------------------------------------------------------------------------------


class Categorical(AE):
    """Codes that choose: every number of the code becomes a choice among K, drawn softly."""

    paper = "Jang, Gu, Poole 2016, eq. 2"
    formula = r"-\log p(x \mid z) + \sum_n KL(q(z_n \mid x) \,\Vert\, U(K))"
    K = 16
    warmest = 1.0
    coolest = 0.5
    temperature = warmest

    @property
    def numbers(self) -> int:
        return self.K

    def decoder_width(self) -> int:
        return self.width * self.K

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        self.temperature = self.warmest * (self.coolest / self.warmest) ** batch.progress
        return (self.encoder(batch.x).unflatten(1, (self.width, self.K)),)  # (B, D, K)

    def draw(self, posterior: tuple[Tensor, ...], generator: torch.Generator | None) -> Tensor:
        return gumbel_softmax(posterior[0], self.temperature, generator).flatten(1)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        return categorical_kl(posterior[0]).sum(1)

    def embed(self, batch: Batch) -> Tensor:
        return F.one_hot(self.posterior(batch)[0].argmax(-1), self.K).flatten(1).float()

    def variables(self, batch: Batch) -> Tensor:
        return self.posterior(batch)[0].argmax(-1).float()

    def rate(self, batch: Batch) -> Tensor:
        return self.penalty(self.posterior(batch), None, batch)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        chosen = torch.randint(self.K, (count, self.width), generator=generator)
        return F.one_hot(chosen, self.K).flatten(1).float()


class Joint(VAE):
    """Numbers for what varies, and one choice for what comes in kinds, each held at a capacity of its own."""

    paper = "Dupont 2018, eq. 7"
    formula = r"-\log p(x \mid z, c) + \gamma\, \lvert KL_z - C_z \rvert + \gamma\, \lvert KL_c - C_c \rvert"
    K = 3  # as many as there are species
    gamma = 30.0
    most = 25.0
    temperature = 0.67

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.encoder = Encoder(2 * width + self.K)

    def decoder_width(self) -> int:
        return self.width + self.K

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        mean, logvar, logits = self.encoder(batch.x).split([self.width, self.width, self.K], dim=1)
        return mean, logvar.clamp(-12, 6), logits

    def draw(self, posterior: tuple[Tensor, ...], generator: torch.Generator | None) -> Tensor:
        *normal, logits = posterior
        return torch.cat([super().draw(normal, generator), gumbel_softmax(logits, self.temperature, generator)], dim=1)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        *normal, logits = posterior
        numbers = self.kl(normal).mean()
        choice = categorical_kl(logits).mean()
        targets = self.most * batch.progress, math.log(self.K) * batch.progress
        return self.gamma * ((numbers - targets[0]).abs() + (choice - targets[1]).abs())

    def embed(self, batch: Batch) -> Tensor:
        mean, _, logits = self.posterior(batch)
        return torch.cat([mean, F.one_hot(logits.argmax(1), self.K)], dim=1)

    def variables(self, batch: Batch) -> Tensor:
        mean, _, logits = self.posterior(batch)
        return torch.cat([mean, logits.argmax(1, keepdim=True)], dim=1)

    def rate(self, batch: Batch) -> Tensor:
        *normal, logits = self.posterior(batch)
        return self.kl(normal) + categorical_kl(logits)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        chosen = torch.randint(self.K, (count,), generator=generator)
        return torch.cat([super().prior(count, generator), F.one_hot(chosen, self.K).float()], dim=1)


class Gamma(AE):
    """Codes that are never negative, with a posterior to match."""

    paper = "Naesseth et al. 2016, eq. 5 and section 4"
    formula = r"-\log p(x \mid z) + KL(\Gamma(a, b) \,\Vert\, \Gamma(2, 1))"
    numbers = 2
    boost = 6  # how far the shape is raised before drawing: then nearly nothing is rejected
    prior_shape = 2.0
    prior_rate = 1.0

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        shape, rate = (F.softplus(part) + 1e-2 for part in super().posterior(batch))
        return shape, rate

    def draw(self, posterior: tuple[Tensor, ...], generator: torch.Generator | None) -> Tensor:
        shape, rate = posterior
        return gamma_draw(shape, self.boost, generator) / rate

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        return gamma_kl(*posterior, self.prior_shape, self.prior_rate).sum(1)

    def embed(self, batch: Batch) -> Tensor:
        shape, rate = self.posterior(batch)
        return shape / rate

    def rate(self, batch: Batch) -> Tensor:
        return self.penalty(self.posterior(batch), None, batch)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        shape = torch.full((count, self.width), self.prior_shape)
        return gamma_draw(shape, self.boost, generator) / self.prior_rate


def gamma_draw(shape: Tensor, boost: int, generator: torch.Generator | None = None) -> Tensor:
    """Draws from Gamma(shape, 1) with a gradient for the shape: Marsaglia's proposals, accepted or not.

    A raised shape makes nearly all proposals good, and uniform numbers bring it back down (Naesseth et al. 2016,
    section 4.2); so the gradient through an accepted proposal is nearly all of it, and the rest is left out.
    """
    d = shape + boost - 1 / 3
    tries = torch.randn((8, *shape.shape), generator=generator).to(shape)  # one of eight: all fail 1 in 10^14 times
    chances = torch.rand((8, *shape.shape), generator=generator).to(shape)
    with torch.no_grad():
        v = (1 + tries / (9 * d).sqrt()) ** 3
        good = (v > 0) & (chances.log() < 0.5 * tries**2 + d - d * v + d * v.clamp(min=1e-30).log())
        first = good.float().argmax(0, keepdim=True)
    accepted = tries.gather(0, first)[0]
    raised = d * (1 + accepted / (9 * d).sqrt()) ** 3
    uniform = torch.rand((boost, *shape.shape), generator=generator).to(shape).clamp(min=1e-7)
    steps = torch.arange(boost).reshape(-1, *[1] * shape.ndim).to(shape)
    return raised * (uniform.log() / (shape + steps)).sum(0).exp()


class VQ(AE):
    """Codes from a book: sixteen vectors, each replaced by the nearest of K, which follow their vectors' means."""

    paper = "van den Oord, Vinyals, Kavukcuoglu 2017, eq. 3 and appendix A"
    formula = r"-\log p(x \mid e) + w \beta\, \text{mean}\, \Vert z - sg[e] \Vert^2"
    tokens = 16
    K = 64
    weight = 300.0

    def __init__(self, width: int = WIDTH):
        super().__init__(self.tokens * width // 2)
        self.quantizer = EMAQuantizer(self.K, width // 2, decay=0.9)  # a short training wants a short memory

    def forward(self, batch: Batch) -> Terms:
        quantized = self.quantizer(self.encoder(batch.x).unflatten(1, (self.tokens, -1)))
        return Terms(
            self.error(self.decode(quantized.codes.flatten(1)), batch), self.weight * quantized.loss.flatten(1).mean(1)
        )

    def embed(self, batch: Batch) -> Tensor:
        return self.quantizer(self.encoder(batch.x).unflatten(1, (self.tokens, -1))).codes.flatten(1)

    def variables(self, batch: Batch) -> Tensor:
        return self.quantizer(self.encoder(batch.x).unflatten(1, (self.tokens, -1))).indices.float()

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

    def posterior(self, batch: Batch) -> tuple[Tensor, ...]:
        """The upper code's mean and log-variance, and the features that the lower one's are made of."""
        features = self.encoder(batch.x)
        mean, logvar = self.upper(features).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6), features

    def lower_posterior(
        self, features: Tensor, upper: Tensor, expected: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z_1 | x, z_2); `expected` are those of p(z_1 | z_2)."""
        mean, logvar = self.lower(torch.cat([features, upper], dim=1)).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6)

    def expected(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        """p(z_1 | z_2)."""
        mean, logvar = self.below(upper).chunk(2, dim=1)
        return mean, logvar.clamp(-12, 6)

    def forward(self, batch: Batch) -> Terms:
        *normal, features = self.posterior(batch)
        upper = super().draw(normal, batch.generator)
        expected = self.expected(upper)
        lower = self.lower_posterior(features, upper, expected)
        z = super().draw(lower, batch.generator)
        rate = self.kl(normal) + gaussian_kl(*lower, *expected).sum(1)
        return Terms(self.error(self.decode(z), batch), rate)

    def embed(self, batch: Batch) -> Tensor:
        mean, _, features = self.posterior(batch)
        return self.lower_posterior(features, mean, self.expected(mean))[0]

    def rate(self, batch: Batch) -> Tensor:
        return self(batch).penalty

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        upper = super().prior(count, generator).to(next(self.parameters()))
        return VAE.draw(self, self.expected(upper), generator)


class Ladder(Hierarchical):
    """The lower code's posterior is what the picture says and what the upper code says, weighed by certainty."""

    paper = "Sonderby et al. 2016, eq. 17-19"

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.lower = nn.Sequential(nn.SiLU(), nn.Linear(4 * width, 2 * width))

    def lower_posterior(
        self, features: Tensor, upper: Tensor, expected: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        seen, seen_logvar = self.lower(features).chunk(2, dim=1)
        certain = (-seen_logvar.clamp(-12, 6)).exp()
        certain_expected = (-expected[1]).exp()
        variance = 1 / (certain + certain_expected)
        return variance * (certain * seen + certain_expected * expected[0]), variance.log()


class Vamp(VAE):
    """The prior is what the encoder says of K learned pictures, mixed."""

    paper = "Tomczak & Welling 2017, eq. 9"
    formula = r"-\log p(x \mid z) + \log q(z \mid x) - \log \frac{1}{K} \sum_k q(z \mid u_k)"
    K = 32

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.pictures = nn.Parameter(0.3 * torch.randn(self.K, 3, SIZE, SIZE))

    def components(self) -> tuple[Tensor, ...]:
        """(K, D) means and log-variances of the prior's parts."""
        return self.posterior(Batch(self.pictures.clamp(-1, 1), torch.zeros(self.K)))

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        mean, logvar = self.components()
        parts = log_gaussian(z[:, None], mean[None], logvar[None]).sum(2)  # (B, K)
        return log_gaussian(z, *posterior).sum(1) - parts.logsumexp(1) + math.log(self.K)

    def rate(self, batch: Batch) -> Tensor:
        posterior = self.posterior(batch)
        return self.penalty(posterior, self.draw(posterior, batch.generator), batch)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        chosen = torch.randint(self.K, (count,), generator=generator)
        return self.draw(tuple(part[chosen] for part in self.components()), generator)


class TwoStage(VAE):
    """A second autoencoder learns where the first one's codes are; generating goes through both."""

    paper = "Dai & Wipf 2019, section 4"
    formula = r"-\log p(x \mid z) + KL_z \;+\; -\log p(z \mid u) + KL_u"

    def __init__(self, width: int = WIDTH):
        super().__init__(width)
        self.up = mlp(width, 2 * width)
        self.down = mlp(width, width)
        self.log_spread = nn.Parameter(torch.zeros(()))  # learned, which is the paper's point

    def second(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,) the second stage's bound on -log p(z)."""
        mean, logvar = self.up(z).chunk(2, dim=1)
        u = self.draw((mean, logvar.clamp(-12, 6)), generator)
        error = -log_gaussian(z, self.down(u), 2 * self.log_spread).sum(1)
        return error + gaussian_kl(mean, logvar.clamp(-12, 6)).sum(1)

    def penalty(self, posterior: tuple[Tensor, ...], z: Tensor, batch: Batch) -> Tensor:
        return self.kl(posterior) + self.second(z.detach(), batch.generator)  # which learns from the first

    def rate(self, batch: Batch) -> Tensor:
        posterior = self.posterior(batch)
        z = self.draw(posterior, batch.generator)
        return log_gaussian(z, *posterior).sum(1) + self.second(z, batch.generator)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        z = self.down(super().prior(count, generator).to(self.log_spread))
        return z + self.log_spread.exp() * noise_like(z, generator)


def mlp(width: int, out: int) -> nn.Sequential:
    """(B, width) -> (B, out)."""
    return nn.Sequential(nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, out))
