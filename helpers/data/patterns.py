"""Random patterns: images of shapes, gradients and textures, and never a face.

The course's general-purpose autoencoder is trained on them, so that it knows edges, colours and textures but has never
seen the images it will be used for.
"""

import colorsys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from helpers.course import course_home
from helpers.data.cache import load_or_build
from helpers.data.faces import SPLITS, Faces

VERSION = "1"  # part of the cache's name: raise it whenever a pixel of any image changes
COUNTS = {"train": 8000, "val": 400}
SUPERSAMPLING = 2  # painted this much larger and averaged down: smooth edges
CHUNK = 50  # images between two updates of the progress bar


def load_patterns(
    split: str = "train",
    size: int = 64,
    *,
    limit: int | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: bool = True,
) -> Faces:
    """Return random patterns as `Faces` with the single class "pattern".

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

        with tqdm(total=count, desc=f"drawing patterns at {size} px", unit=" images", disable=not progress) as bar:
            for start in range(0, count, CHUNK):
                rows = range(start, min(start + CHUNK, count))
                generators = [np.random.default_rng((seed, SPLITS.index(split), row)) for row in rows]
                yield np.stack([draw_pattern(rng, size) for rng in generators])
                bar.update(len(rows))

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
    """Paint one image, uint8 (3, size, size): textured shapes in front of one another and of a background."""
    pixels = SUPERSAMPLING * size
    image = Image.fromarray(_texture(rng, pixels))
    for _ in range(rng.integers(2, 12)):
        mask = Image.new("L", (pixels, pixels))
        _paint_shape(rng, ImageDraw.Draw(mask), pixels)
        image.paste(Image.fromarray(_texture(rng, pixels)), mask=mask)
    return np.asarray(image.reduce(SUPERSAMPLING)).transpose(2, 0, 1)


def _paint_shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, pixels: int) -> None:
    """Paint an ellipse, a polygon, a line or an arc, anywhere and of any size from a dot to half the image."""
    centre = rng.uniform(0, pixels, 2)
    reach = pixels * rng.uniform(0.15, 0.7) ** 2
    shape = rng.choice(["ellipse", "polygon", "line", "arc"], p=[0.35, 0.35, 0.2, 0.1])
    if shape in ("ellipse", "arc"):
        radii = reach * rng.uniform(0.4, 1, 2)
        box = [*(centre - radii), *(centre + radii)]
        if shape == "ellipse":
            draw.ellipse(box, fill=255)
        else:
            start = rng.uniform(0, 360)
            draw.arc(box, start, start + rng.uniform(60, 300), fill=255, width=int(rng.integers(1, 8)))
        return
    corners = rng.integers(3, 8) if shape == "polygon" else 2
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    if shape == "line":
        angles[1] = angles[0] + np.pi
    distances = reach * rng.uniform(0.5, 1, corners)
    offsets = np.stack([np.cos(angles), np.sin(angles)], 1) * distances[:, None]
    points = [tuple(point) for point in centre + offsets]
    if shape == "polygon":
        draw.polygon(points, fill=255)
    else:
        draw.line(points, fill=255, width=int(rng.integers(1, 10)))


def _texture(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """uint8 (pixels, pixels, 3): two colours mixed evenly, along a gradient, in waves, checks or clouds."""
    texture = rng.choice(
        ["plain", "gradient", "rings", "waves", "checks", "clouds"], p=[0.3, 0.25, 0.1, 0.15, 0.05, 0.15]
    )
    near = _colour(rng)
    far = _colour(rng)
    if texture == "plain":
        return np.full((pixels, pixels, 3), near.round(), dtype=np.uint8)
    if rng.random() < 0.6:  # most textures are gentle: two shades of a colour
        far = near + 0.35 * (far - near)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:pixels, :pixels] / pixels
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    waves = rng.uniform(2, 16)
    if texture == "gradient":
        share = (along - along.min()) / np.ptp(along)
    elif texture == "rings":
        share = np.clip(np.hypot(x - rng.uniform(), y - rng.uniform()) / rng.uniform(0.3, 1.2), 0, 1)
    elif texture == "waves":
        share = 0.5 + 0.5 * np.sin(2 * np.pi * waves * along + rng.uniform(0, 2 * np.pi))
    elif texture == "checks":
        share = ((along * waves).astype(int) + (across * waves).astype(int)) % 2
    else:
        share = _clouds(rng, pixels)
    return (near + share[..., None] * (far - near)).round().astype(np.uint8)


def _colour(rng: np.random.Generator) -> np.ndarray:
    """A random colour (3,) in 0..255: any hue, pale and dark as often as strong."""
    return 255 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform() ** 1.5, rng.uniform(0.05, 1)))


def _clouds(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """(pixels, pixels) in [0, 1]: noise whose amplitude falls with frequency, as in natural images."""
    frequency = np.hypot(np.fft.fftfreq(pixels)[:, None], np.fft.rfftfreq(pixels)[None])
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(rng.standard_normal((pixels, pixels))) / frequency ** rng.uniform(0.6, 1.8)
    noise = np.fft.irfft2(waves, (pixels, pixels))
    return np.clip(0.5 + noise / (4 * noise.std()), 0, 1)
