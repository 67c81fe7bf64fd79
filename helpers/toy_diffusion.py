"""The diffusion model that notebook 02 writes out, for points in the plane; notebooks 03 and 04 begin with it trained.

`tests/test_toy_diffusion.py` runs the cells of notebooks 02 and 03 beside this module: both give the same numbers.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.diffusion import Denoised, NoisePath, convert_prediction, training_target


def dots(axes: Any, xy: Tensor, title: str = "", limit: float = 1.3, **options: Any) -> None:
    """Plot points (N, 2) into matplotlib axes, from -limit to limit in both directions; options are for `scatter`."""
    axes.scatter(*xy.T, s=1.5, **options)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), title=title, aspect="equal")
    axes.set_axis_off()


def sinusoidal_embedding(values: Tensor, frequencies: Tensor) -> Tensor:
    """(..., K) values -> (..., K, 2F) cosines and sines at F frequencies."""
    angles = values[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class DenoisingMLP(nn.Module):
    """An MLP for points in the plane, conditioned on the time and on a class label."""

    x_frequencies: Tensor
    t_frequencies: Tensor

    def __init__(self, classes: int = 0, width: int = 128):
        super().__init__()
        self.null_label = classes  # one after the last
        self.label_embedding = nn.Embedding(classes + 1, width)
        self.register_buffer("x_frequencies", math.pi / 2 * 2.0 ** torch.arange(5))
        self.register_buffer("t_frequencies", torch.logspace(0, 1.5, 16))
        self.input_layer = nn.Linear(2 + 2 * 10 + 32, width)
        self.hidden_layer = nn.Linear(width, width)
        self.output_layer = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Predict (B, 2) from points (B, 2), times (B,) and labels (B,); None stands for the null label."""
        if label is None:
            label = torch.full_like(t, self.null_label, dtype=torch.long)
        x_features = sinusoidal_embedding(x, self.x_frequencies).flatten(1)
        t_features = sinusoidal_embedding(t, self.t_frequencies)
        h = self.input_layer(torch.cat([x, x_features, t_features], dim=1))
        h = F.silu(h + self.label_embedding(label))  # (B, width)
        return self.output_layer(F.silu(self.hidden_layer(h)))  # (B, 2)


def train(
    network: DenoisingMLP,
    data: Tensor,
    path: NoisePath,
    prediction_type: str,
    steps: int,
    labels: Tensor | None = None,
    drop_prob: float = 0.1,
) -> Iterator[float]:
    """Train a network in place, yielding the loss of every step.

    Args:
        network: new, or trained before.
        data: (N, 2) points.
        path: from data to noise.
        prediction_type: what the network predicts, one of `PREDICTION_TYPES`.
        steps: how many batches of 256.
        labels: (N,) of the points; None: the null label for all.
        drop_prob: the probability with which a label is replaced by the null label.
    """
    batch_size = 256
    generator = torch.Generator().manual_seed(0)
    if labels is None:
        labels = torch.full((len(data),), network.null_label)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        indices = torch.randint(len(data), (batch_size,), generator=generator)
        t, uniform = torch.rand(2, batch_size, generator=generator)  # (B,) each
        x0 = data[indices]  # (B, 2)
        eps = torch.randn(batch_size, 2, generator=generator)  # (B, 2)
        label = torch.where(uniform < drop_prob, network.null_label, labels[indices])
        prediction = network(path.add_noise(x0, eps, t), t, label)  # (B, 2)
        target = training_target(prediction_type, x0, eps, *path.alpha_sigma(t))
        loss = F.mse_loss(prediction, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        lr_scheduler.step()
        yield loss.item()


def train_network(
    prediction_type: str,
    path: NoisePath,
    data: Tensor,
    steps: int,
    labels: Tensor | None = None,
    classes: int = 0,
) -> DenoisingMLP:
    """Make a network, always from the same first weights, and train it to the end; the arguments are `train`'s."""
    torch.manual_seed(0)
    network = DenoisingMLP(classes)
    for _ in train(network, data, path, prediction_type, steps, labels):
        pass
    return network


def make_denoiser(
    network: DenoisingMLP, prediction_type: str, path: NoisePath, label: int | None = None
) -> Callable[[Tensor, Any], Denoised]:
    """Turn a trained network into a denoiser: (x, t) -> (x0, eps)."""

    @torch.no_grad()
    def denoise(x: Tensor, t: Any) -> Denoised:
        labels = None if label is None else torch.full((len(x),), label)
        prediction = network(x, torch.full((len(x),), float(t)), labels)
        alpha, sigma = path.alpha_sigma(torch.tensor(float(t)))
        return convert_prediction(prediction_type, prediction, x, alpha, sigma)

    return denoise


def exact_denoiser(data: Tensor, path: NoisePath) -> Callable[[Tensor, Any], Denoised]:
    """The best possible denoiser when the data are these points (N, 2) and no others: notebook 03, section 2."""

    def denoise(x_t: Tensor, t: Any) -> Denoised:
        alpha, sigma = path.alpha_sigma(t)
        squared_distance = torch.cdist(x_t, alpha * data).square()
        likelihood = F.softmax(-squared_distance / (2 * sigma**2), dim=1)  # (B, N)
        x0 = likelihood @ data
        return Denoised(x0, (x_t - alpha * x0) / sigma)

    return denoise


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """The sliced Wasserstein distance of two clouds (N, 2) of equally many points."""
    angles = torch.arange(directions) * math.pi / directions
    lines = torch.stack([angles.cos(), angles.sin()])  # (2, directions)
    sorted_a = (a @ lines).sort(0).values
    sorted_b = (b @ lines).sort(0).values
    return (sorted_a - sorted_b).abs().mean().item()
