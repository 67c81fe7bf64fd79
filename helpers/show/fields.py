"""Vector fields in the plane: what a sampler would do at every place, drawn as arrows."""

from collections.abc import Callable

import torch
from matplotlib.axes import Axes
from torch import Tensor

from helpers.show.figures import INK

FEWEST = 2


def draw_field(axes: Axes, field: Callable[[Tensor], Tensor], limit: float, count: int = 17) -> None:
    """Draw a field as arrows of one length on a square grid: they show directions, and darker ones a stronger field.

    Far from the data a field is many times as strong as between them: arrows true to scale would be specks beside a
    few giants. The opacity is between 0.4 and 1, and halfway where the strength is the median of the grid.

    Args:
        axes: to draw on.
        field: points (B, 2) -> vectors (B, 2).
        limit: the grid covers [-limit, limit] in both directions.
        count: arrows per side.

    Raises:
        ValueError: for a grid of fewer than two arrows per side, or a field that is not finite.
    """
    if count < FEWEST:
        raise ValueError(f"a field needs {FEWEST} arrows per side or more, got {count}")
    side = torch.linspace(-limit, limit, count)
    places = torch.cartesian_prod(side, side)  # (count^2, 2)
    vectors = field(places)
    if not vectors.isfinite().all():
        raise ValueError("the field is infinite or NaN at some place of the grid")
    strength = vectors.norm(dim=1, keepdim=True)
    arrows = vectors / strength.clamp(min=1e-12)
    opacity = 0.4 + 0.6 * strength / (strength + strength.median()).clamp(min=1e-12)
    axes.quiver(
        *places.T,
        *arrows.T,
        color=INK,
        alpha=opacity.flatten().tolist(),
        angles="xy",
        scale_units="xy",
        scale=0.7 * (count - 1) / limit,  # seven tenths of the distance between two places
        pivot="middle",
        width=0.005,
        zorder=3,
    )
    axes.grid(False)
    axes.set(xlim=(-1.05 * limit, 1.05 * limit), ylim=(-1.05 * limit, 1.05 * limit), aspect="equal")
