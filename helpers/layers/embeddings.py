"""The sinusoidal timestep embedding: a time as a vector."""

import math

import torch
from torch import Tensor, nn


def timestep_embedding(t: Tensor, width: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines, then sines, at `width / 2` frequencies from 1 to 1 / max_period (Vaswani et al. 2017, section 3.5).

    Args:
        t: (B,) timesteps; times of the course are in [0, 1] and are multiplied by 1000 before they come here.
        width: even.

    Returns:
        float32 (B, width) in [-1, 1].
    """
    half = width // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies  # (B, width / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)  # (B, width)


class TimeEmbedding(nn.Module):
    """Map a time to the vector that conditions every block: sinusoids, then an MLP (DDPM, appendix B)."""

    def __init__(self, sinusoid_width: int, width: int):
        super().__init__()
        self.sinusoid_width = sinusoid_width
        self.layers = nn.Sequential(nn.Linear(sinusoid_width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """t (B,) in [0, 1] -> (B, width)."""
        return self.layers(timestep_embedding(1000 * t, self.sinusoid_width))
