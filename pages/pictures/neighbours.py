"""A diagram of notebook 13: the balls of precision and recall, in the plane."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from torch import Tensor

from helpers.scoring.precision_recall import precision_recall
from helpers.show.diagrams import LINE, Canvas
from pages.pictures.drawing import BLUE, ORANGE, WIDTH, write

ALT = (
    "Twice the same points in the plane, real images and generated ones. On the left a disc lies around every real "
    "point, reaching to its third nearest real neighbour: precision is the share of generated points inside the discs. "
    "On the right the discs lie around the generated points: recall is the share of real points inside them. A group "
    "of generated points lies apart from the data, and a group of real points is not covered."
)
NEIGHBOURS = 3


def point_sets(seed: int = 3) -> tuple[Tensor, Tensor]:
    """Real points in two groups; generated points in one of them, and in a place of their own: (N, 2) and (M, 2)."""
    rng = np.random.default_rng(seed)

    def group(x: float, y: float, radius: float, count: int) -> np.ndarray:
        angles = rng.uniform(0, 2 * np.pi, count)
        distances = radius * np.sqrt(rng.uniform(0, 1, count))
        return np.stack([x + distances * np.cos(angles), y + distances * np.sin(angles)], axis=1)

    real = [group(-0.6, 0.1, 0.72, 12), group(1.35, 0.6, 0.34, 5)]
    generated = [group(-0.65, 0.05, 0.6, 10), group(0.85, -0.95, 0.3, 4)]
    return torch.from_numpy(np.concatenate(real)), torch.from_numpy(np.concatenate(generated))


def radii(centres: Tensor) -> Tensor:
    """The distance of each point to its third nearest other point (N,)."""
    return torch.cdist(centres, centres).kthvalue(NEIGHBOURS + 1, dim=1).values


def inside(points: Tensor, centres: Tensor) -> Tensor:
    """Which points lie in one of the discs around the centres, bool (N,)."""
    return (torch.cdist(points, centres) <= radii(centres)).any(dim=1)


def draw() -> Canvas:
    """Precision on the left, recall on the right."""
    canvas = Canvas(WIDTH, 352, ALT)
    real, generated = point_sets()
    scores = precision_recall(real, generated, k=NEIGHBOURS)
    sides = (
        ("precision", scores.precision, real, generated, BLUE, ORANGE, "generated points in the discs of real ones"),
        ("recall", scores.recall, generated, real, ORANGE, BLUE, "real points in the discs of generated ones"),
    )
    for i, (name, score, centres, points, disc, dot, text) in enumerate(sides):
        axes = canvas.figure.add_axes((0.01 + 0.5 * i, 0.10, 0.48, 0.72))
        _panel(axes, centres, points, disc, dot)
        hits = int(inside(points, centres).sum())
        middle = (0.25 + 0.5 * i) * WIDTH
        write(canvas, middle, 20, f"{name} = {hits} of {len(points)} = {score:.2f}", 11.5, dot, bold=True)
        write(canvas, middle, 42, text, 9.5, LINE)
    _legend(canvas)
    return canvas


def _panel(axes: Axes, centres: Tensor, points: Tensor, disc: str, dot: str) -> None:
    for centre, radius in zip(centres.tolist(), radii(centres).tolist(), strict=True):
        axes.add_patch(Circle(centre, radius, facecolor=disc, alpha=0.09, linewidth=0, zorder=1))
        axes.add_patch(Circle(centre, radius, facecolor="none", edgecolor=disc, alpha=0.45, linewidth=0.8, zorder=2))
    axes.plot(*centres.T, ".", ms=7, color=disc, zorder=3)
    hit = inside(points, centres)
    axes.plot(*points[hit].T, "o", ms=8, color=dot, mec="white", mew=1, zorder=5)
    axes.plot(*points[~hit].T, "X", ms=9, mfc="white", mec=dot, mew=1.8, zorder=5)
    axes.set_aspect("equal")
    axes.set(xlim=(-1.95, 2.35), ylim=(-1.75, 1.4))
    axes.set_axis_off()


def _legend(canvas: Canvas) -> None:
    y = 334
    for x, colour, marker, text in (
        (122, BLUE, "o", "real"),
        (196, ORANGE, "o", "generated"),
        (304, LINE, "o", "inside a disc"),
        (424, LINE, "X", "outside every disc"),
    ):
        canvas.axes.plot(
            [x], [y], marker, ms=8, mfc="white" if marker == "X" else colour, mec=colour, mew=1.6, zorder=6
        )
        write(canvas, x + 12, y, text, 9, align="left")
