"""Point clouds in the plane: data so small that a diffusion model learns them in seconds.

Every cloud is centred and fits [-1, 1] but for a little noise, as images do. Its points carry labels, so that the same
data serve to train a conditional model.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Points:
    """Points in the plane with their class labels."""

    xy: Tensor  # (N, 2) float32, about [-1, 1]
    labels: Tensor  # (N,) int64 indices into class_names
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.xy)

    def of_class(self, name: str) -> "Points":
        """Select the points of one class; their labels stay as they are.

        Raises:
            ValueError: for a name that is not in class_names.
        """
        if name not in self.class_names:
            raise ValueError(f"unknown class {name!r}: choose one of {', '.join(self.class_names)}")
        chosen = self.labels == self.class_names.index(name)
        return Points(self.xy[chosen], self.labels[chosen], self.class_names)


def _generator(n: int, noise: float, seed: int) -> torch.Generator:
    """Check a cloud's arguments and seed its generator."""
    if n < 1 or noise < 0:
        raise ValueError(f"a cloud needs n of at least 1 and noise of at least 0, got n={n}, noise={noise}")
    return torch.Generator().manual_seed(seed)


def _polyline(corners: list[tuple[float, float]], n: int, generator: torch.Generator) -> Tensor:
    """Sample (n, 2) points uniformly along the line through the corners."""
    vertices = torch.tensor(corners)  # (K, 2)
    lengths = torch.cat([torch.zeros(1), (vertices.diff(dim=0)).norm(dim=1).cumsum(0)])  # (K,) up to each corner
    positions = torch.rand(n, generator=generator) * lengths[-1]  # (n,)
    end = torch.searchsorted(lengths, positions, right=True).clamp(1, len(corners) - 1)  # (n,) corner after each point
    share = (positions - lengths[end - 1]) / (lengths[end] - lengths[end - 1])
    return torch.lerp(vertices[end - 1], vertices[end], share[:, None])  # (n, 2)


def _arc(
    centre: tuple[float, float], radii: tuple[float, float], degrees: tuple[float, float], count: int = 24
) -> list[tuple[float, float]]:
    """`count` + 1 corners along an arc of an ellipse, anticlockwise from the right."""
    angles = [math.radians(degrees[0] + (degrees[1] - degrees[0]) * k / count) for k in range(count + 1)]
    return [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]


def _mirrored(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners mirrored at the vertical axis."""
    return [(-x, y) for x, y in corners]


def cat_head(n: int = 4096, noise: float = 0.015, seed: int = 0) -> Points:
    """Sample points of a line drawing of a cat's face: outline with pointed ears, eyes with nose and mouth, whiskers.

    Args:
        n: how many points.
        noise: standard deviation of the pen.
        seed: the same seed gives the same points.

    Returns:
        n points of the classes "head", "features" and "whiskers".
    """
    generator = _generator(n, noise, seed)
    ear = [(0.25, 0.48), (0.66, 0.93), (0.74, 0.14)]
    cheeks = _arc((0.0, -0.12), (0.78, 0.68), (-200, 20))  # from the left ear, below, to the right ear
    eye = _arc((0.32, 0.06), (0.14, 0.11), (0, 360))
    mouth = _arc((0.13, -0.40), (0.13, 0.12), (180, 340))
    nose = [(0.0, -0.40), (-0.08, -0.27), (0.08, -0.27), (0.0, -0.40)]
    whiskers = [[(0.36, -0.26), (1.0, -0.14)], [(0.36, -0.34), (1.0, -0.40)]]
    # (class, share of the points, lines): long lines get more of the points, so that the pen is about equally dark
    drawing = [
        (0, 0.66, [[*ear[::-1], *_mirrored(ear)], cheeks]),
        (1, 0.22, [eye, _mirrored(eye), nose, mouth, _mirrored(mouth)]),
        (2, 0.12, [*whiskers, *map(_mirrored, whiskers)]),
    ]
    lines = []
    for label, share, group in drawing:
        lines += [(label, share / len(group), line) for line in group]
    which = torch.multinomial(torch.tensor([share for _, share, _ in lines]), n, replacement=True, generator=generator)
    xy = torch.empty(n, 2)
    for k, (_, _, line) in enumerate(lines):
        xy[which == k] = _polyline(line, int((which == k).sum()), generator)
    xy += noise * torch.randn(n, 2, generator=generator)
    return Points(xy, torch.tensor([label for label, _, _ in lines])[which], ("head", "features", "whiskers"))


def clover(n: int = 4096, noise: float = 0.08, seed: int = 0) -> Points:
    """Sample points of three leaves that overlap in the middle, where the label says little about a point.

    Each leaf is a Gaussian, four times longer than wide, whose mean lies 0.35 from the middle; the leaves are turned
    by 0, 120 and 240 degrees from the top. Its density is known exactly, so what guidance does to it can be checked.

    Args:
        n: how many points.
        noise: standard deviation across a leaf; along it, four times as much.
        seed: the same seed gives the same points.

    Returns:
        n points of the classes "top", "left" and "right".
    """
    generator = _generator(n, noise, seed)
    labels = torch.randint(3, (n,), generator=generator)
    across, along = torch.randn(2, n, generator=generator)
    leaf = torch.stack([noise * across, 0.35 + 4 * noise * along], dim=1)  # (n, 2) pointing up
    angle = labels * (2 * math.pi / 3)
    cos = angle.cos()
    sin = angle.sin()
    xy = torch.stack([cos * leaf[:, 0] - sin * leaf[:, 1], sin * leaf[:, 0] + cos * leaf[:, 1]], dim=1)
    return Points(xy, labels, ("top", "left", "right"))


def two_moons(n: int = 4096, noise: float = 0.05, seed: int = 0) -> Points:
    """Sample points of two interleaving half circles: the classes "upper" and "lower".

    Args:
        n: how many points.
        noise: standard deviation of the pen.
        seed: the same seed gives the same points.
    """
    generator = _generator(n, noise, seed)
    labels = torch.randint(2, (n,), generator=generator)
    angle = math.pi * torch.rand(n, generator=generator)
    side = 1 - 2 * labels  # 1 upper, -1 lower
    xy = torch.stack([side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)], dim=1) * 0.6
    return Points(xy + noise * torch.randn(n, 2, generator=generator), labels, ("upper", "lower"))
