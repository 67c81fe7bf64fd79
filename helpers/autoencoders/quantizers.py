"""Quantisers: vectors in, vectors of a finite set out, with gradients as if nothing had happened.

Every quantiser answers with `Quantized`, and `usage` says of its indices how much of the set is in use: the first
question to ask of any of them. Alphabet: ... any leading axes, N vectors in all, D width, K codes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AT_ONCE = 1 << 22  # distances that are in memory together: 16 MB


class Quantized(NamedTuple):
    """What a quantiser answers."""

    codes: Tensor  # (..., D); their gradient is handed on to the input
    indices: Tensor  # (...), or (..., layers) of a residual one
    loss: Tensor  # (...) to be added, per vector


class Usage(NamedTuple):
    """How much of a codebook is in use."""

    share: float  # of the codes that occur at all
    perplexity: float  # as many equally frequent codes would be as hard to guess; at most K
    histogram: Tensor  # (K,) how often each occurs

    def __str__(self) -> str:
        return f"{self.share:.0%} of {len(self.histogram)} codes in use, perplexity {self.perplexity:.0f}"


def usage(indices: Tensor, K: int) -> Usage:
    """Of indices of any shape. Raises ValueError for indices outside 0..K-1, or none."""
    if not indices.numel() or indices.min() < 0 or indices.max() >= K:
        raise ValueError(f"indices must be whole numbers in 0..{K - 1}, one at least")
    histogram = torch.bincount(indices.flatten(), minlength=K)
    shares = histogram[histogram > 0] / histogram.sum()
    return Usage((histogram > 0).float().mean().item(), (-(shares * shares.log()).sum()).exp().item(), histogram)


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """The codes, with z's gradient (Bengio et al. 2013): the step between them is a constant for autograd."""
    return z + (codes - z).detach()


@torch.no_grad()
def nearest(z: Tensor, codebook: Tensor) -> Tensor:
    """(N, D), (K, D) -> (N,) index of the nearest code.

    |z - e|^2 without |z|^2, which is the same for all codes; a few rows at a time, so that the distances of all
    vectors to all codes never are in memory together.
    """
    with torch.autocast(z.device.type, enabled=False):  # bfloat16's 8 bits would miss one neighbour in six
        z = z.float()
        codebook = codebook.float()
        half = -0.5 * codebook.square().sum(1)  # (K,)
        rows = max(1, AT_ONCE // len(codebook))
        return torch.cat([_argmax(torch.addmm(half, part, codebook.T)) for part in z.split(rows)])


def _argmax(x: Tensor, block: int = 32) -> Tensor:
    """(N, K) -> (N,) the first of the largest, in a third of `argmax`'s time on a CPU.

    Keeping a position beside every maximum is slow there: the largest of every block is found without, then the
    block, then the place in it.
    """
    if x.shape[1] % block:
        return x.argmax(1)
    blocks = x.unflatten(1, (-1, block))  # (N, K / block, block)
    which = blocks.amax(2).argmax(1)
    inside = blocks[torch.arange(len(x), device=x.device), which].argmax(1)
    return which * block + inside


class VectorQuantizer(nn.Module):
    """The nearest of K vectors, learned by gradient (van den Oord et al. 2017, eq. 3)."""

    def __init__(self, K: int, width: int, beta: float = 0.25):
        """
        Args:
            beta: weight of the pull on the input. It belongs on this term, not on the codebook's, where a
                much-copied implementation (taming-transformers' default) has it.
        """
        super().__init__()
        self.beta = beta
        self.codebook = nn.Parameter(torch.empty(K, width).uniform_(-1 / K, 1 / K))

    def forward(self, z: Tensor) -> Quantized:
        """(..., D)."""
        indices = nearest(z.flatten(0, -2), self.codebook).reshape(z.shape[:-1])
        codes = self.decode(indices)
        pull = (z - codes.detach()).square().mean(-1)
        return Quantized(straight_through(z, codes), indices, (z.detach() - codes).square().mean(-1) + self.beta * pull)

    def decode(self, indices: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return F.embedding(indices, self.codebook)


class EMAQuantizer(nn.Module):
    """The nearest of K vectors, each the running mean of what it is chosen for (van den Oord et al. 2017, appendix A).

    Two remedies against codes that nobody chooses: the first batch's cluster centres are the first codes, and a code
    that has gone out of use starts again at a vector of the batch.
    """

    def __init__(self, K: int, width: int, beta: float = 0.25, decay: float = 0.99, revive_below: float = 0.03):
        """
        Args:
            decay: of the running means, per batch.
            revive_below: share of the average use below which a code starts anew; 0: never.
        """
        super().__init__()
        self.beta = beta
        self.decay = decay
        self.revive_below = revive_below
        self.register_buffer("codebook", torch.randn(K, width))
        self.register_buffer("counts", torch.zeros(K))  # running use of each code
        self.register_buffer("sums", torch.zeros(K, width))  # running sum of what each is chosen for
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor) -> Quantized:
        """(..., D); in training mode the codebook moves, by the vectors of all processes together."""
        vectors = z.detach().flatten(0, -2).float()  # (N, D)
        if self.training and not self.started:
            self._start(all_gather_rows(vectors))
        chosen = nearest(vectors, self.codebook)
        indices = chosen.reshape(z.shape[:-1])
        codes = self.decode(indices)  # before they move
        if self.training:
            self._follow(all_gather_rows(vectors), all_gather_rows(chosen))
        return Quantized(straight_through(z, codes), indices, self.beta * (z - codes).square().mean(-1))

    def decode(self, indices: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return F.embedding(indices, self.codebook)

    @torch.no_grad()
    def _start(self, vectors: Tensor, rounds: int = 10) -> None:
        """k-means on one batch, from vectors of it (with repeats where there are fewer than codes)."""
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
    def _follow(self, vectors: Tensor, indices: Tensor) -> None:
        """Move every code to the running mean of its vectors; let the unused start anew."""
        counts, sums = self._assignment_counts(vectors, indices)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        average = self.counts.mean()
        unused = self.counts < self.revive_below * average
        if unused.any():
            self.sums[unused] = _sample_rows(vectors, int(unused.sum())) * average
            self.counts[unused] = average
        known = (self.counts > 1e-5)[:, None]  # a code that is never chosen has no mean: it stays
        self.codebook.copy_(torch.where(known, self.sums / self.counts.clamp(min=1e-5)[:, None], self.codebook))

    def _assignment_counts(self, vectors: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """How often each code was chosen, and the sum of what it was chosen for."""
        counts = torch.bincount(indices, minlength=len(self.codebook)).to(vectors)
        return counts, torch.zeros_like(self.sums).index_add_(0, indices, vectors)


def all_gather_rows(rows: Tensor) -> Tensor:
    """(N, ...) of this process -> those of all processes, in order of rank: every one then learns the same codes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def _sample_rows(vectors: Tensor, count: int) -> Tensor:
    """That many of the vectors, no one twice as long as there are enough."""
    order = torch.randperm(len(vectors), device=vectors.device)
    return vectors[order.repeat(-(-count // len(vectors)))[:count]]


class FSQ(nn.Module):
    """Every number is rounded to one of a few levels; the codebook is the grid (Mentzer et al. 2023, section 3.1).

    Nothing is learned, so nothing can collapse.
    """

    def __init__(self, levels: Sequence[int] = (8, 5, 5, 5)):
        """Raises ValueError for levels below 3."""
        super().__init__()
        if min(levels, default=0) < 3:
            raise ValueError(f"every number needs 3 levels or more (for 2 there is LFQ), got {list(levels)}")
        self.K = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("place", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """(..., D) -> codes in [-1, 1]."""
        half = (self.levels - 1) * (1 - 1e-3) / 2
        odd = self.levels % 2 == 1
        offset = torch.where(odd, 0.0, 0.5)
        bounded = (z + (offset / half).atanh()).tanh() * half - offset  # an even number of levels has no middle
        whole = straight_through(bounded, bounded.round())
        digits = (whole.detach() + self.levels // 2).long()
        return Quantized(whole / (self.levels // 2), (digits * self.place).sum(-1), z.new_zeros(z.shape[:-1]))

    def decode(self, indices: Tensor) -> Tensor:
        """(...) -> (..., D) in [-1, 1]."""
        digits = indices[..., None] // self.place % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


class LFQ(nn.Module):
    """Every number becomes its sign; the loss asks for sure choices, all of them used (Yu et al. 2023, section 3.1)."""

    def __init__(self, bits: int = 10, entropy: float = 0.01, beta: float = 0.02, sharpness: float = 4.0):
        """
        Args:
            entropy: weight of the entropies. Beside a squared error of some hundredths a larger one decides the signs
                before the pictures do.
            beta: weight of the pull of the input to its sign.
            sharpness: what the input is multiplied by before it counts as a logit.
        """
        super().__init__()
        self.K = 2**bits
        self.entropy = entropy
        self.beta = beta
        self.sharpness = sharpness
        self.register_buffer("place", 2 ** torch.arange(bits), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """(..., bits) -> codes of -1 and 1.

        The bits are independent given z, so their entropies add up (eq. 6); for those of all vectors together that
        is an upper bound.
        """
        signs = torch.where(z > 0, 1.0, -1.0)
        logits = self.sharpness * z
        often = logits.sigmoid().flatten(0, -2).mean(0)  # chance of a 1
        loss = self.entropy * (_binary_entropy(logits).sum(-1) - _binary_entropy(often.logit(eps=1e-6)).sum())
        loss = loss + self.beta * (z - signs).square().mean(-1)
        return Quantized(straight_through(z, signs), ((z > 0) * self.place).sum(-1), loss)

    def decode(self, indices: Tensor) -> Tensor:
        """(...) -> (..., bits)."""
        return 2.0 * (indices[..., None] // self.place % 2) - 1


def _binary_entropy(logits: Tensor) -> Tensor:
    """In nats; from logits, because the slope of p log p is infinite where a choice is sure."""
    return F.softplus(logits) - logits * logits.sigmoid()


class ResidualQuantizer(nn.Module):
    """Quantise, then quantise what is left, and so on (Zeghidour et al. 2021, algorithm 1)."""

    def __init__(self, layers: Sequence[nn.Module]):
        """Quantisers of one width."""
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, z: Tensor) -> Quantized:
        """(..., D); indices (..., layers)."""
        left = z
        total = torch.zeros_like(z)
        indices = []
        losses = []
        for layer in self.layers:
            found = layer(left)
            codes = found.codes.detach()
            total = total + codes
            left = left - codes
            indices.append(found.indices)
            losses.append(found.loss)
        return Quantized(straight_through(z, total), torch.stack(indices, -1), torch.stack(losses).sum(0))

    def decode(self, indices: Tensor) -> Tensor:
        """(..., layers) -> (..., D)."""
        return sum(layer.decode(indices[..., i]) for i, layer in enumerate(self.layers))
