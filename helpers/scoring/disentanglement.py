"""Does every number of a code say one thing? Three answers, where the things that vary are known.

Codes are taken as they are given; for those of a VAE give the means, or draws where its noise shall count.

Alphabet: N pictures, D width of the code, F attributes, each a whole number per picture.
"""

import torch
from torch import Tensor

BINS = 20


def mutual_information(codes: Tensor, attributes: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor]:
    """Between every number of the code, cut into `bins` equally full pieces, and every attribute.

    Args:
        codes: (N, D) floats.
        attributes: (N, F) whole numbers from 0.

    Returns:
        (D, F) nats, and the attributes' own entropies (F,).

    Raises:
        ValueError: for shapes that do not fit, or fewer pictures than bins.
    """
    if codes.ndim != 2 or attributes.ndim != 2 or len(codes) != len(attributes) or len(codes) < bins:
        raise ValueError(
            f"codes (N, D) and attributes (N, F) of the same {bins} pictures or more, "
            f"got {tuple(codes.shape)} and {tuple(attributes.shape)}"
        )
    pieces = _pieces(codes, bins)
    tables = [[_table(piece, attribute) for attribute in attributes.T] for piece in pieces.T]
    known = torch.stack([torch.stack([_information(table) for table in row]) for row in tables])
    return known, torch.stack([_entropy(torch.bincount(attribute)) for attribute in attributes.T])


def mig(codes: Tensor, attributes: Tensor) -> float:
    """Mutual information gap (Chen et al. 2018, eq. 6): how much more the best number knows than the second best."""
    known, entropy = mutual_information(codes, attributes)
    best = known.topk(2, dim=0).values
    return ((best[0] - best[1]) / entropy).mean().item()


def sap(codes: Tensor, attributes: Tensor) -> float:
    """Separated attribute predictability (Kumar et al. 2017, section 3): the same gap, in shares of right guesses.

    A number of the code guesses an attribute by the commonest value in its piece.
    """
    pieces = _pieces(codes, BINS)
    guessed = [[_table(piece, attribute).amax(1).sum() for attribute in attributes.T] for piece in pieces.T]
    right = torch.stack([torch.stack(row) for row in guessed]) / len(codes)  # (D, F)
    best = right.topk(2, dim=0).values
    return (best[0] - best[1]).mean().item()


def dci(codes: Tensor, attributes: Tensor, steps: int = 300, sparsity: float = 0.005) -> tuple[float, float, float]:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 3).

    Every attribute is read from the whole code by a logistic regression whose weights are pulled to 0; how large
    they stay is each number's importance. Half of the pictures train it, the other half measure the share of right
    guesses.
    """
    codes = (codes - codes.mean(0)) / codes.std(0).clamp(min=1e-6)
    half = len(codes) // 2
    importance = []
    right = []
    for attribute in attributes.T:
        weights, bias = _regression(codes[:half], attribute[:half], int(attribute.max()) + 1, steps, sparsity)
        importance.append(weights.abs().sum(1))  # (D,)
        right.append(((codes[half:] @ weights + bias).argmax(1) == attribute[half:]).float().mean())
    importance = torch.stack(importance, dim=1) + 1e-12  # (D, F)
    by_code = importance / importance.sum(1, True)
    by_attribute = importance / importance.sum(0)
    D, F = importance.shape
    pure = 1 - _shares_entropy(by_code, 1) / torch.tensor(float(F)).log()
    disentangled = (pure * importance.sum(1) / importance.sum()).sum()
    complete = (1 - _shares_entropy(by_attribute, 0) / torch.tensor(float(D)).log()).mean()
    return disentangled.item(), complete.item(), torch.stack(right).mean().item()


def _pieces(codes: Tensor, bins: int) -> Tensor:
    """(N, D) which of the equally full pieces every number falls into; few different numbers are a piece each."""

    def places(column: Tensor) -> Tensor:
        values, place = column.unique(return_inverse=True)
        if len(values) <= 3 * bins:
            return place
        return torch.searchsorted(torch.quantile(column, torch.linspace(0, 1, bins + 1)[1:-1]), column)

    return torch.stack([places(column.contiguous()) for column in codes.float().T], dim=1)


def _table(piece: Tensor, attribute: Tensor) -> Tensor:
    """How often every pair occurs: (pieces, values)."""
    values = int(attribute.max()) + 1
    return torch.bincount(piece * values + attribute, minlength=(int(piece.max()) + 1) * values).reshape(-1, values)


def _entropy(counts: Tensor) -> Tensor:
    shares = counts[counts > 0] / counts.sum()
    return -(shares * shares.log()).sum()


def _information(table: Tensor) -> Tensor:
    return (_entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table)).clamp(min=0)


def _shares_entropy(shares: Tensor, axis: int) -> Tensor:
    return -torch.special.xlogy(shares, shares).sum(axis)


def _regression(codes: Tensor, attribute: Tensor, values: int, steps: int, sparsity: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L1 pull, by proximal gradient steps (ISTA): (D, values), (values,)."""
    weights = torch.zeros(codes.shape[1], values)
    bias = torch.zeros(values)
    wanted = torch.nn.functional.one_hot(attribute, values).float()
    rate = 2 * len(codes) / torch.linalg.matrix_norm(codes, 2).square()  # 1 / curvature: a softmax's is 1/2 at most
    for _ in range(steps):
        wrong = (codes @ weights + bias).softmax(1) - wanted
        weights = weights - rate * codes.T @ wrong / len(codes)
        weights = weights.sign() * (weights.abs() - rate * sparsity).clamp(min=0)
        bias = bias - wrong.mean(0)
    return weights, bias
