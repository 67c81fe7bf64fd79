"""Pictures of nothing in particular: shapes, gradients and textures, drawn by chance, and never a face.

What a general-purpose autoencoder of the course is trained on, so that it knows edges, colours and textures, and has
never seen what it will be used for.
"""

import colorsys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from helpers.course import course_home
from helpers.data.cache import load_or_build
from helpers.data.faces import SPLITS, Faces

VERSION = "1"  # part of the cache's name: raise it whenever a pixel of any picture changes
COUNTS = {"train": 8000, "val": 400}
FINER = 2  # drawn at so many times the size, then shrunk: smooth edges
PIECE = 50  # pictures between two ticks of the progress bar


def load_patterns(
    split: str = "train",
    size: int = 64,
    *,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Faces:
    """Drawn patterns, in the object that pictures of faces come in; their one class is called "pattern".

    Args:
        split, size, seed, cache_dir, progress: as for `load_faces`.
        limit: this number instead of 8000 (train) or 400 (val); the first k are the same for every number.

    Raises:
        ValueError: for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are: {', '.join(SPLITS)}")
    count = limit or COUNTS[split]
    recipe = {"source": "patterns", "split": split, "size": size, "count": count, "seed": seed, "version": VERSION}

    def build(details: dict) -> Iterator[np.ndarray]:
        from tqdm.auto import tqdm

        with tqdm(total=count, desc=f"drawing patterns at {size} px", unit=" pictures", disable=not progress) as bar:
            for start in range(0, count, PIECE):
                numbers = range(start, min(start + PIECE, count))
                yield np.stack(
                    [draw_pattern(np.random.default_rng((seed, SPLITS.index(split), i)), size) for i in numbers]
                )
                bar.update(len(numbers))

    folder = Path(cache_dir).expanduser() if cache_dir is not None else course_home() / "cache"
    images, _ = load_or_build(folder, f"patterns-{split}-{size}", recipe, build)
    return Faces(
        images,
        np.zeros(count, dtype=np.int64),
        ("pattern",),
        source="patterns",
        split=split,
        credit="Patterns drawn by the course.",
    )


def draw_pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """One picture, uint8 (3, size, size): some shapes in front of each other and of a ground, each with its texture."""
    fine = FINER * size
    picture = Image.fromarray(_texture(rng, fine))
    for _ in range(rng.integers(2, 12)):
        mask = Image.new("L", (fine, fine))
        _shape(rng, ImageDraw.Draw(mask), fine)
        picture.paste(Image.fromarray(_texture(rng, fine)), mask=mask)
    return np.asarray(picture.reduce(FINER)).transpose(2, 0, 1)


def _shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, fine: int) -> None:
    """An ellipse, a polygon, a line or an arc, anywhere and of any size from a dot to half the picture."""
    centre = rng.uniform(0, fine, 2)
    reach = fine * rng.uniform(0.15, 0.7) ** 2
    kind = rng.choice(["ellipse", "polygon", "line", "arc"], p=[0.35, 0.35, 0.2, 0.1])
    if kind in ("ellipse", "arc"):
        radii = reach * rng.uniform(0.4, 1, 2)
        box = [*(centre - radii), *(centre + radii)]
        if kind == "ellipse":
            draw.ellipse(box, fill=255)
        else:
            start = rng.uniform(0, 360)
            draw.arc(box, start, start + rng.uniform(60, 300), fill=255, width=int(rng.integers(1, 8)))
        return
    corners = rng.integers(3, 8) if kind == "polygon" else 2
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    if kind == "line":
        angles[1] = angles[0] + np.pi
    away = reach * rng.uniform(0.5, 1, corners)
    points = [tuple(point) for point in centre + np.stack([np.cos(angles), np.sin(angles)], 1) * away[:, None]]
    if kind == "polygon":
        draw.polygon(points, fill=255)
    else:
        draw.line(points, fill=255, width=int(rng.integers(1, 10)))


def _texture(rng: np.random.Generator, fine: int) -> np.ndarray:
    """uint8 (fine, fine, 3): two colours mixed evenly, along a gradient, in waves, checks or clouds."""
    kind = rng.choice(["plain", "gradient", "rings", "waves", "checks", "clouds"], p=[0.3, 0.25, 0.1, 0.15, 0.05, 0.15])
    near = _colour(rng)
    far = _colour(rng)
    if kind == "plain":
        return np.full((fine, fine, 3), near.round(), dtype=np.uint8)
    if rng.random() < 0.6:  # most textures are gentle: two shades of a colour
        far = near + 0.35 * (far - near)
    angle, y, x = rng.uniform(0, 2 * np.pi), *np.mgrid[:fine, :fine] / fine
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    waves = rng.uniform(2, 16)
    if kind == "gradient":
        share = (along - along.min()) / np.ptp(along)
    elif kind == "rings":
        share = np.clip(np.hypot(x - rng.uniform(), y - rng.uniform()) / rng.uniform(0.3, 1.2), 0, 1)
    elif kind == "waves":
        share = 0.5 + 0.5 * np.sin(2 * np.pi * waves * along + rng.uniform(0, 2 * np.pi))
    elif kind == "checks":
        share = ((along * waves).astype(int) + (across * waves).astype(int)) % 2
    else:
        share = _clouds(rng, fine)
    return (near + share[..., None] * (far - near)).round().astype(np.uint8)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) in 0..255, any hue; pale ones and dark ones as often as strong ones."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform() ** 1.5, rng.uniform(0.05, 1)))


def _clouds(rng: np.random.Generator, fine: int) -> np.ndarray:
    """(fine, fine) in [0, 1]: noise whose waves are the weaker the shorter they are, as in nature."""
    frequency = np.hypot(np.fft.fftfreq(fine)[:, None], np.fft.rfftfreq(fine)[None])
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(rng.standard_normal((fine, fine))) / frequency ** rng.uniform(0.6, 1.8)
    noise = np.fft.irfft2(waves, (fine, fine))
    return np.clip(0.5 + noise / (4 * noise.std()), 0, 1)
