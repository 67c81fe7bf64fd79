"""Quantisers: map every vector to one of a finite set, the codebook, and pass gradients straight through.

Every quantiser returns `Quantized`; `usage` measures from its indices how much of the codebook is in use, the first
thing to look at in any VQ model. Alphabet: ... any leading axes, N vectors in all, D width of a vector, K codes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_DISTANCES = 1 << 22  # that are in memory together: 16 MB


class Quantized(NamedTuple):
    """The output of every quantiser."""

    z_q: Tensor  # (..., D) quantised vectors; their gradient is passed on to the input
    indices: Tensor  # (...) of the codes, or (..., layers) of a residual quantiser's
    loss: Tensor  # (...) per vector, to be added to the reconstruction loss


class Usage(NamedTuple):
    """How much of a codebook is in use."""

    utilization: float  # fraction of the codes that occur at all
    perplexity: float  # exp of the entropy of the codes' frequencies; K where all are equally frequent
    histogram: Tensor  # (K,) how often each code occurs

    def __str__(self) -> str:
        return f"{self.utilization:.0%} of {len(self.histogram)} codes in use, perplexity {self.perplexity:.0f}"


def usage(indices: Tensor, K: int) -> Usage:
    """Codebook usage: utilization, perplexity and histogram of indices of any shape into K codes.

    Raises:
        ValueError: for indices outside 0..K-1, or none.
    """
    if not indices.numel() or indices.min() < 0 or indices.max() >= K:
        raise ValueError(f"indices must be whole numbers in 0..{K - 1}, one at least")
    histogram = torch.bincount(indices.flatten(), minlength=K)
    frequencies = histogram[histogram > 0] / histogram.sum()
    entropy = -(frequencies * frequencies.log()).sum()
    utilization = (histogram > 0).float().mean()
    return Usage(utilization.item(), entropy.exp().item(), histogram)


def straight_through(z: Tensor, z_q: Tensor) -> Tensor:
    """The values of z_q with the gradient of z (Bengio et al. 2013): autograd treats their difference as a constant."""
    return z + (z_q - z).detach()


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest code of each vector: (N, D), (K, D) -> (N,).

    Minimises |z - e|^2 without |z|^2, which is the same for all codes. It works on a few rows at a time, so that the
    N x K matrix of distances is never in memory as a whole.
    """
    with torch.autocast(z.device.type, enabled=False):  # bfloat16 has 8 bits: it would miss one neighbour in six
        z = z.float()
        codebook = codebook.float()
        half = -0.5 * codebook.square().sum(1)  # (K,)
        rows = max(1, MAX_DISTANCES // len(codebook))
        return torch.cat([_argmax(torch.addmm(half, part, codebook.T)) for part in z.split(rows)])


def _argmax(x: Tensor, block: int = 32) -> Tensor:
    """`x.argmax(1)`, (N, K) -> (N,), in a third of its time on a CPU; of equal values the first.

    Tracking a position beside every maximum is slow there. So the maximum of every block is computed without
    positions, then the best block is located, then the position inside it.
    """
    if x.shape[1] % block:
        return x.argmax(1)
    blocks = x.unflatten(1, (-1, block))  # (N, K / block, block)
    best_block = blocks.amax(2).argmax(1)
    inside = blocks[torch.arange(len(x), device=x.device), best_block].argmax(1)
    return best_block * block + inside


class Quantizer(nn.Module):
    """What every quantiser offers: calling it quantises vectors, `decode` turns indices back into vectors."""

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (...) -> their vectors (..., D)."""
        raise NotImplementedError


class VectorQuantizer(Quantizer):
    """The nearest of K vectors, learned by gradient (van den Oord et al. 2017, eq. 3)."""

    def __init__(self, K: int, width: int, beta: float = 0.25):
        """
        Args:
            K: codebook size.
            width: of a vector.
            beta: weight of the commitment loss, which moves the input towards its code. It belongs on this term, not
                on the codebook loss, where a much-copied implementation (taming-transformers' default) has it.
        """
        super().__init__()
        self.beta = beta
        self.codebook = nn.Parameter(torch.empty(K, width).uniform_(-1 / K, 1 / K))

    def forward(self, z: Tensor) -> Quantized:
        """Quantise (..., D)."""
        indices = nearest(z.flatten(0, -2), self.codebook).reshape(z.shape[:-1])
        codes = self.decode(indices)
        codebook_loss = (z.detach() - codes).square().mean(-1)
        commitment_loss = (z - codes.detach()).square().mean(-1)
        return Quantized(straight_through(z, codes), indices, codebook_loss + self.beta * commitment_loss)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (...) -> codes (..., D)."""
        return F.embedding(indices, self.codebook)


class EMAQuantizer(Quantizer):
    """The nearest of K vectors, each a running mean of the inputs assigned to it (van den Oord et al. 2017, app. A).

    Two remedies against dead codes, which are never chosen: the codebook starts at the k-means centres of the first
    batch, and a code that is hardly used any more is reset to a random vector of the batch.
    """

    codebook: Tensor  # (K, D)
    counts: Tensor  # (K,) running number of inputs assigned to each code
    sums: Tensor  # (K, D) running sum of the inputs assigned to each code
    started: Tensor  # bool: whether k-means has initialised the codebook

    def __init__(self, K: int, width: int, beta: float = 0.25, decay: float = 0.99, dead_code_threshold: float = 0.03):
        """
        Args:
            K: codebook size.
            width: of a vector.
            beta: weight of the commitment loss.
            decay: of the running means, per batch.
            dead_code_threshold: fraction of the average count below which a code is reset; 0: never.
        """
        super().__init__()
        self.beta = beta
        self.decay = decay
        self.dead_code_threshold = dead_code_threshold
        self.register_buffer("codebook", torch.randn(K, width))
        self.register_buffer("counts", torch.zeros(K))
        self.register_buffer("sums", torch.zeros(K, width))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantized:
        """Quantise (..., D); in training mode also update the codebook, from the vectors of all processes together."""
        vectors = z.detach().flatten(0, -2).float()  # (N, D)
        if self.training and not self.started:
            self._initialise(all_gather_rows(vectors))
        assignments = nearest(vectors, self.codebook)  # (N,)
        indices = assignments.reshape(z.shape[:-1])
        codes = self.decode(indices)  # before the update
        if self.training:
            self._update(all_gather_rows(vectors), all_gather_rows(assignments))
        commitment_loss = (z - codes).square().mean(-1)
        return Quantized(straight_through(z, codes), indices, self.beta * commitment_loss)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (...) -> codes (..., D)."""
        return F.embedding(indices, self.codebook)

    @torch.no_grad()
    def _initialise(self, vectors: Tensor, rounds: int = 10) -> None:
        """k-means on one batch (N, D), starting at random vectors of it, with repeats where N < K."""
        K = len(self.codebook)
        self.codebook.copy_(_sample_rows(vectors, K))
        for _ in range(rounds):
            indices = nearest(vectors, self.codebook)
            counts, sums = self._assignment_counts(vectors, indices)
            self.codebook.copy_(torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], self.codebook))
        self.counts.fill_(len(vectors) / K)
        self.sums.copy_(self.codebook * self.counts[:, None])
        self.started.fill_(True)

    @torch.no_grad()
    def _update(self, vectors: Tensor, indices: Tensor) -> None:
        """Move every code to the running mean of its vectors; reset dead codes. Vectors (N, D), indices (N,)."""
        counts, sums = self._assignment_counts(vectors, indices)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        average = self.counts.mean()
        dead = self.counts < self.dead_code_threshold * average
        if dead.any():
            self.sums[dead] = _sample_rows(vectors, int(dead.sum())) * average
            self.counts[dead] = average
        has_mean = (self.counts > 1e-5)[:, None]  # a code that is never chosen has no mean: it stays
        self.codebook.copy_(torch.where(has_mean, self.sums / self.counts.clamp(min=1e-5)[:, None], self.codebook))

    def _assignment_counts(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors are assigned to each code (K,), and their sum (K, D)."""
        counts = torch.bincount(indices, minlength=len(self.codebook)).to(vectors)
        return counts, torch.zeros_like(self.sums).index_add_(0, indices, vectors)


def all_gather_rows(rows: Tensor) -> Tensor:
    """Concatenate (N, ...) of all processes in order of rank, so that all update the codebook alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _sample_rows(vectors: Tensor, count: int) -> Tensor:
    """Sample `count` rows of (N, D), without replacement while there are enough of them."""
    order = torch.randperm(len(vectors), device=vectors.device)
    return vectors[order.repeat(-(-count // len(vectors)))[:count]]


class FSQ(Quantizer):
    """Finite scalar quantisation: round every dimension to a few levels (Mentzer et al. 2023, section 3.1).

    The codebook is the grid of all combinations. Nothing is learned, so nothing can collapse.
    """

    levels: Tensor  # (D,) number of levels per dimension
    radix: Tensor  # (D,) what a digit of each dimension is worth in the index

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5)):
        """`levels`: per dimension. Raises ValueError for levels below 3."""
        super().__init__()
        if min(levels, default=0) < 3:
            raise ValueError(f"every dimension needs 3 levels or more (for 2 there is LFQ), got {list(levels)}")
        self.K = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("radix", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise (..., D); z_q lies in [-1, 1]."""
        half = (self.levels - 1) * (1 - 1e-3) / 2
        offset = torch.where(self.levels % 2 == 1, 0.0, 0.5)
        bounded = (z + (offset / half).atanh()).tanh() * half - offset  # an even number of levels has no middle
        rounded = straight_through(bounded, bounded.round())
        digits = (rounded.detach() + self.levels // 2).long()
        indices = (digits * self.radix).sum(-1)
        return Quantized(rounded / (self.levels // 2), indices, z.new_zeros(z.shape[:-1]))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (...) -> codes (..., D) in [-1, 1]."""
        digits = indices[..., None] // self.radix % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


class LFQ(Quantizer):
    """Lookup-free quantisation: every dimension becomes its sign (Yu et al. 2023, section 3.1).

    An entropy term rewards confident signs (low entropy per vector) and uniform use of the codebook (high entropy of
    the average).
    """

    radix: Tensor  # (bits,) powers of 2

    def __init__(self, bits: int = 10, entropy: float = 0.01, beta: float = 0.02, sharpness: float = 4.0):
        """
        Args:
            bits: dimensions; the codebook has 2**bits codes.
            entropy: weight of the entropy term. Beside a squared error of some hundredths, a larger weight fixes the
                signs before the reconstruction can.
            beta: weight of the commitment loss, which moves the input towards its sign.
            sharpness: the logit of a sign is the input times this.
        """
        super().__init__()
        self.K = 2**bits
        self.entropy = entropy
        self.beta = beta
        self.sharpness = sharpness
        self.register_buffer("radix", 2 ** torch.arange(bits), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise (..., bits); z_q is -1 or 1.

        The bits are independent given z, so their entropies add up (eq. 6). For the average over all vectors the sum
        is an upper bound of the entropy.
        """
        signs = torch.where(z > 0, 1.0, -1.0)
        logits = self.sharpness * z
        average = logits.sigmoid().flatten(0, -2).mean(0)  # (bits,) mean probability of a 1
        conditional_entropy = _binary_entropy(logits).sum(-1)
        marginal_entropy = _binary_entropy(average.logit(eps=1e-6)).sum()
        commitment_loss = (z - signs).square().mean(-1)
        loss = self.entropy * (conditional_entropy - marginal_entropy) + self.beta * commitment_loss
        indices = ((z > 0) * self.radix).sum(-1)
        return Quantized(straight_through(z, signs), indices, loss)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (...) -> codes (..., bits) of -1 and 1."""
        return 2.0 * (indices[..., None] // self.radix % 2) - 1


def _binary_entropy(logits: Tensor) -> Tensor:
    """Entropy of a Bernoulli variable in nats, from its logit: the slope of p log p is infinite at p = 0."""
    return F.softplus(logits) - logits * logits.sigmoid()


class ResidualQuantizer(Quantizer):
    """Quantise, then quantise the residual, and so on (Zeghidour et al. 2021, algorithm 1)."""

    def __init__(self, layers: Sequence[Quantizer]):
        """`layers`: quantisers of the same width, each for the residual that those before leave."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor) -> Quantized:
        """Quantise (..., D); the indices are (..., layers)."""
        residual = z
        total = torch.zeros_like(z)
        indices = []
        losses = []
        for layer in self.layers:
            quantized = layer(residual)
            codes = quantized.z_q.detach()
            total = total + codes
            residual = residual - codes
            indices.append(quantized.indices)
            losses.append(quantized.loss)
        return Quantized(straight_through(z, total), torch.stack(indices, -1), torch.stack(losses).sum(0))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (..., layers) -> the sum of the layers' codes (..., D)."""
        codes = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Quantizer)
            codes.append(layer.decode(indices[..., i]))
        return torch.stack(codes).sum(0)
