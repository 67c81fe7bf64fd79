"""Disentanglement: does each latent dimension represent one attribute? Three scores, where the attributes are known.

Latents are taken as they are; for those of a VAE pass the posterior means, or samples if its noise should count.

Alphabet: N images, D latent dimensions, F attributes, each an integer per image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 20


def mutual_information(latents: Tensor, attributes: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor]:
    """Estimate the mutual information of every latent dimension, cut into `bins` equally full bins, and attribute.

    Args:
        latents: (N, D) floats.
        attributes: (N, F) integers from 0.
        bins: into which a dimension's values are sorted.

    Returns:
        (D, F) in nats, and the entropies of the attributes (F,).

    Raises:
        ValueError: for shapes that do not fit, or fewer images than bins.
    """
    if latents.ndim != 2 or attributes.ndim != 2 or len(latents) != len(attributes) or len(latents) < bins:
        raise ValueError(
            f"latents (N, D) and attributes (N, F) of the same {bins} images or more are needed, "
            f"got {tuple(latents.shape)} and {tuple(attributes.shape)}"
        )
    information = []
    for column in _bin_indices(latents, bins).T:
        information.append(torch.stack([_information(_contingency(column, a)) for a in attributes.T]))
    entropies = [_entropy(torch.bincount(attribute)) for attribute in attributes.T]
    return torch.stack(information), torch.stack(entropies)


def mig(latents: Tensor, attributes: Tensor) -> float:
    """Compute the mutual information gap (Chen et al. 2018, eq. 6), 0 to 1.

    For each attribute: the information of the most informative dimension less that of the second, over the entropy.
    """
    information, entropy = mutual_information(latents, attributes)
    best = information.topk(2, dim=0).values
    return ((best[0] - best[1]) / entropy).mean().item()


def sap(latents: Tensor, attributes: Tensor) -> float:
    """Compute the separated attribute predictability (Kumar et al. 2017, section 3), 0 to 1.

    The same gap as in `mig`, between accuracies: one dimension predicts an attribute by the commonest value in a bin.
    """
    correct = []
    for column in _bin_indices(latents, BINS).T:
        correct.append(torch.stack([_contingency(column, attribute).amax(1).sum() for attribute in attributes.T]))
    accuracy = torch.stack(correct) / len(latents)  # (D, F)
    best = accuracy.topk(2, dim=0).values
    return (best[0] - best[1]).mean().item()


def dci(latents: Tensor, attributes: Tensor, steps: int = 300, sparsity: float = 0.005) -> tuple[float, float, float]:
    """Compute disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 3), each 0 to 1.

    Every attribute is predicted from all dimensions by a logistic regression with an L1 penalty; the sizes of its
    weights are the dimensions' importances. Half of the images train it, the other half measure its accuracy.

    Args:
        latents: (N, D).
        attributes: (N, F).
        steps: of the regression's optimiser.
        sparsity: weight of the L1 penalty.
    """
    latents = (latents - latents.mean(0)) / latents.std(0).clamp(min=1e-6)
    half = len(latents) // 2
    importances = []
    accuracies = []
    for attribute in attributes.T:
        weights, bias = _regression(latents[:half], attribute[:half], int(attribute.max()) + 1, steps, sparsity)
        importances.append(weights.abs().sum(1))  # (D,)
        predictions = (latents[half:] @ weights + bias).argmax(1)
        accuracies.append((predictions == attribute[half:]).float().mean())
    importance = torch.stack(importances, dim=1) + 1e-12  # (D, F)
    by_dimension = importance / importance.sum(1, True)
    by_attribute = importance / importance.sum(0)
    num_dimensions, num_attributes = importance.shape
    purity = 1 - _entropy_along(by_dimension, 1) / torch.tensor(float(num_attributes)).log()  # (D,)
    disentanglement = (purity * importance.sum(1) / importance.sum()).sum()
    completeness = (1 - _entropy_along(by_attribute, 0) / torch.tensor(float(num_dimensions)).log()).mean()
    return disentanglement.item(), completeness.item(), torch.stack(accuracies).mean().item()


def _bin_indices(latents: Tensor, bins: int) -> Tensor:
    """(N, D) index of the equally full bin of every value; a column of few different values gets a bin for each."""
    return torch.stack([_bin_column(column.contiguous(), bins) for column in latents.float().T], dim=1)


def _bin_column(column: Tensor, bins: int) -> Tensor:
    values, indices = column.unique(return_inverse=True)
    if len(values) <= 3 * bins:
        return indices
    return torch.searchsorted(torch.quantile(column, torch.linspace(0, 1, bins + 1)[1:-1]), column)


def _contingency(bin_indices: Tensor, attribute: Tensor) -> Tensor:
    """How often every pair of a bin and an attribute's value occurs: (bins, values)."""
    values = int(attribute.max()) + 1
    pairs = torch.bincount(bin_indices * values + attribute, minlength=(int(bin_indices.max()) + 1) * values)
    return pairs.reshape(-1, values)


def _entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of the distribution that counts of any shape give."""
    shares = counts[counts > 0] / counts.sum()
    return -(shares * shares.log()).sum()


def _information(contingency: Tensor) -> Tensor:
    """Mutual information in nats of rows and columns of a table of counts."""
    joint = _entropy(contingency)
    return (_entropy(contingency.sum(0)) + _entropy(contingency.sum(1)) - joint).clamp(min=0)


def _entropy_along(shares: Tensor, axis: int) -> Tensor:
    """Entropy in nats of distributions that lie along an axis."""
    return -torch.special.xlogy(shares, shares).sum(axis)


def _regression(latents: Tensor, attribute: Tensor, values: int, steps: int, sparsity: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression with an L1 penalty, by proximal gradient steps (ISTA): (D, values), (values,)."""
    weights = torch.zeros(latents.shape[1], values)
    bias = torch.zeros(values)
    targets = F.one_hot(attribute, values).float()
    # 1 / curvature: a softmax's is 1/2 at most
    step_size = 2 * len(latents) / torch.linalg.matrix_norm(latents, 2).square()
    for _ in range(steps):
        residual = (latents @ weights + bias).softmax(1) - targets
        weights = weights - step_size * latents.T @ residual / len(latents)
        weights = weights.sign() * (weights.abs() - step_size * sparsity).clamp(min=0)
        bias = bias - residual.mean(0)
    return weights, bias
