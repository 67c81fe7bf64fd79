"""The geometry of a synthetic face: polygons in the head's coordinates, painted back to front.

In head coordinates the face is centred at (0, 0), about 1 in radius, x to the right and y down. `FaceLook` places,
tilts and colours it. One list of shapes serves for the image, the boxes of its parts and the mask.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
BLACK = (22, 20, 24)
WHITE = (255, 255, 255)
PINK = (226, 138, 140)
TONGUE = (230, 96, 110)
SUPERSAMPLING = 4  # images are painted this much larger and averaged down
ROUND = np.stack([f(np.linspace(0, 2 * math.pi, 28, endpoint=False)) for f in (np.cos, np.sin)], 1)  # (28, 2)


@dataclass(frozen=True)
class FaceLook:
    """Appearance of a face that captions do not mention: exact colours, place, tilt, proportions."""

    fur: Colour
    eyes: Colour
    background: Colour
    background_far: Colour  # the other end of the background's gradient
    centre: tuple[float, float]  # of the head, in the image's unit coordinates
    scale: float  # head radius over image width
    tilt: float  # radians, clockwise
    width: float  # of the head, relative
    ears: float  # size, relative
    gaze: tuple[float, float]  # where the pupils look, in eye radii
    patch_side: int  # -1 left, 1 right as seen
    texture: int  # seed of the spots and of the background's blotches


class Shape(NamedTuple):
    """One filled polygon."""

    part: str  # "body", "ear", "face", "mane", "left eye", "right eye", "nose", "mark"
    points: np.ndarray  # (P, 2) x and y in the image's unit coordinates
    fill: Colour


Add = Callable[[str, np.ndarray, Colour], None]  # takes points in head coordinates


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Mix two colours: `share` of the way from a to b."""
    red, green, blue = (round(x + share * (y - x)) for x, y in zip(a, b, strict=True))
    return red, green, blue


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
    """Return (28, 2) points on an ellipse, turned clockwise by `turn` radians."""
    c = math.cos(turn)
    s = math.sin(turn)
    return ROUND * (rx, ry) @ np.array([[c, s], [-s, c]]) + (x, y)


def leaf(x: float, y: float, dx: float, dy: float, thick: float) -> np.ndarray:
    """Return (4, 2) points of a stroke from (x, y) along (dx, dy), pointed at both ends and widest at 40 %."""
    length = math.hypot(dx, dy)
    nx = -dy / length * thick / 2
    ny = dx / length * thick / 2
    return np.array(
        [(x, y), (x + 0.4 * dx + nx, y + 0.4 * dy + ny), (x + dx, y + dy), (x + 0.4 * dx - nx, y + 0.4 * dy - ny)]
    )


def flip(points: np.ndarray, side: int) -> np.ndarray:
    """Return the points as they are for side 1, mirrored for side -1."""
    return points * (side, 1)


def face_shapes(species: str, pattern: str, mane: bool, tongue: bool, look: FaceLook) -> list[Shape]:
    """Return all shapes of a face, back to front, in the image's unit coordinates."""
    c = math.cos(look.tilt)
    s = math.sin(look.tilt)
    to_image = look.scale * np.array([[c * look.width, s * look.width], [-s, c]])
    shapes: list[Shape] = []

    def add(part: str, points: np.ndarray, fill: Colour) -> None:
        shapes.append(Shape(part, points @ to_image + look.centre, fill))

    rim = mix(look.fur, BLACK, 0.35)
    dark = sum(look.fur) < 300  # black and brown: their markings are lighter than the fur
    mark = mix(look.fur, (222, 204, 184), 0.55) if dark else mix(look.fur, (60, 42, 34), 0.66)
    light = mix(look.fur, WHITE, 0.38 if dark else 0.62)
    add("body", ellipse(0, 1.75, 1.12, 0.98), mix(look.fur, BLACK, 0.22))
    add("body", ellipse(0, 1.62, 0.5, 0.72), mix(look.fur, WHITE, 0.12 if dark else 0.35))
    add_head = {"cat": _cat, "dog": _dog, "wild": _wild}[species]
    add_head(add, look, rim, mark, light, pattern, mane, tongue)
    return shapes


def _head(add: Add, rx: float, ry: float, look: FaceLook, rim: Colour) -> None:
    """Skull and forehead, rx and ry in radius."""
    add("face", ellipse(0, 0, rx + 0.04, ry + 0.04), rim)
    add("face", ellipse(0, 0, rx, ry), look.fur)
    add("mark", ellipse(0, -0.28 * ry, 0.62 * rx, 0.5 * ry), mix(look.fur, WHITE, 0.07))


def _eyes(add: Add, look: FaceLook, x: float, y: float, r: float, pupil: tuple[float, float], squint: float) -> None:
    """Two symmetric eyes: rim, iris, pupil, glint. `squint` flattens them; `pupil` is its radii over the eye's."""
    for side, part in ((-1, "left eye"), (1, "right eye")):
        turn = side * 0.18
        gx = side * x + look.gaze[0] * r
        gy = y + look.gaze[1] * r
        add(part, ellipse(side * x, y, 1.18 * r, 1.18 * r * squint, turn), BLACK)
        add(part, ellipse(side * x, y, r, r * squint, turn), look.eyes)
        add(part, ellipse(gx, gy, pupil[0] * r, pupil[1] * r * squint), BLACK)
        add(part, ellipse(gx + 0.28 * r, gy - 0.34 * r, 0.2 * r, 0.2 * r), WHITE)


def _pattern(add: Add, pattern: str, look: FaceLook, mark: Colour, rx: float, ry: float) -> None:
    """Stripes or spots on a head of radii rx and ry; nothing for the other patterns."""
    if pattern == "striped":
        for x in (-0.3, 0.0, 0.3):
            add("mark", leaf(x * rx, -0.94 * ry + 0.25 * abs(x), -0.25 * x, 0.46 * ry, 0.15), mark)
        for side in (-1, 1):
            for y in (0.02, 0.26, 0.5):
                edge = rx * math.sqrt(1 - y * y / ry**2) - 0.02
                add("mark", flip(leaf(edge, y, -0.36, 0.07 - 0.1 * y, 0.13), side), mark)
    elif pattern == "spotted":
        rng = np.random.default_rng(look.texture)
        for k in range(13):
            angle = 2 * math.pi * (k + rng.uniform(-0.3, 0.3)) / 13
            far = rng.uniform(0.72, 0.86) if k % 2 else rng.uniform(0.6, 0.72)
            r = rng.uniform(0.075, 0.105)
            add("mark", ellipse(far * rx * math.sin(angle), -far * ry * math.cos(angle), r, r), mark)


def _cat(
    add: Add, look: FaceLook, rim: Colour, mark: Colour, light: Colour, pattern: str, mane: bool, tongue: bool
) -> None:
    for side in (-1, 1):
        tip = np.array([0.86, -0.62 - 0.86 * look.ears])
        ear = np.array([(0.16, -0.72), tip - (0.12, -0.1), tip, tip + (0.05, 0.12), (1.02, -0.15)])
        add("ear", flip(ear * 1.03, side), rim)
        add("ear", flip(ear, side), mark if pattern == "patched" and side == look.patch_side else look.fur)
        add("ear", flip(np.array([(0.40, -0.74), tip + (-0.05, 0.22), (0.88, -0.42)]), side), PINK)
        tuft = np.array([(0.9, 0.05), (1.17, 0.34), (0.98, 0.38), (1.10, 0.60), (0.84, 0.62), (0.6, 0.7)])
        add("face", flip(tuft, side), look.fur)
    _head(add, 1.0, 0.86, look, rim)
    if pattern == "patched":
        add("mark", flip(ellipse(0.46, -0.16, 0.46, 0.48, 0.3), look.patch_side), mark)
    _pattern(add, pattern, look, mark, 1.0, 0.86)
    for side in (-1, 1):
        add("face", ellipse(side * 0.19, 0.46, 0.27, 0.20, side * -0.2), light)
    _eyes(add, look, 0.44, -0.06, 0.255, (0.34, 0.86), 1.0)
    add("nose", np.array([(-0.13, 0.25), (0.13, 0.25), (0.04, 0.37), (-0.04, 0.37)]), PINK)
    for side in (-1, 1):
        add("mark", flip(leaf(-0.01, 0.53, 0.24, -0.09, 0.06), side), rim)
        for k, y in enumerate((0.36, 0.45, 0.54)):
            add("mark", flip(leaf(0.36, y, 0.85, -0.14 + 0.13 * k, 0.03), side), mix(light, WHITE, 0.6))


def _dog(
    add: Add, look: FaceLook, rim: Colour, mark: Colour, light: Colour, pattern: str, mane: bool, tongue: bool
) -> None:
    _head(add, 0.84, 0.92, look, rim)
    if pattern == "patched":
        add("mark", flip(ellipse(0.40, -0.22, 0.38, 0.46, 0.2), look.patch_side), mark)
    _pattern(add, pattern, look, mark, 0.84, 0.92)
    for side in (-1, 1):
        add("ear", ellipse(side * 0.93, 0.02, 0.30, 0.70 * look.ears, side * -0.16), rim)
        inner = mark if pattern == "patched" and side == look.patch_side else mix(look.fur, BLACK, 0.22)
        add("ear", ellipse(side * 0.93, 0.02, 0.26, 0.66 * look.ears, side * -0.16), inner)
    if tongue:
        add("mark", ellipse(0.03, 0.86, 0.15, 0.28), mix(TONGUE, BLACK, 0.3))
        add("mark", ellipse(0.03, 0.86, 0.125, 0.25), TONGUE)
    add("face", ellipse(0, 0.46, 0.40, 0.40), light)
    _eyes(add, look, 0.36, -0.20, 0.20, (0.5, 0.5), 1.0)
    add("nose", ellipse(0, 0.26, 0.19, 0.13), BLACK)
    add("nose", ellipse(-0.06, 0.21, 0.06, 0.03), (110, 108, 115))
    for side in (-1, 1):
        add("mark", flip(leaf(-0.02, 0.60, 0.27, -0.10, 0.07), side), rim)


def _wild(
    add: Add, look: FaceLook, rim: Colour, mark: Colour, light: Colour, pattern: str, mane: bool, tongue: bool
) -> None:
    if mane:
        angles = np.linspace(0, 2 * math.pi, 72, endpoint=False)
        for radius, colour in ((1.42, mix(mark, BLACK, 0.15)), (1.26, mix(mark, look.fur, 0.25))):
            r = radius * (1 + 0.055 * np.sin(12 * angles))
            add("mane", np.stack([r * np.cos(angles), 0.96 * r * np.sin(angles)], 1), colour)
    for side in (-1, 1):
        ear = 0.31 * look.ears
        add("ear", ellipse(side * 0.78, -0.74, ear + 0.03, ear + 0.03), rim)
        add("ear", ellipse(side * 0.78, -0.74, ear, ear), look.fur)
        add("ear", ellipse(side * 0.77, -0.71, 0.58 * ear, 0.58 * ear), mix(look.fur, BLACK, 0.5))
    _head(add, 1.0, 0.94, look, rim)
    _pattern(add, pattern, look, mark, 1.0, 0.94)
    for side in (-1, 1):
        add("face", ellipse(side * 0.23, 0.50, 0.32, 0.27, side * -0.15), light)
    add("face", ellipse(0, 0.72, 0.24, 0.16), light)
    _eyes(add, look, 0.43, -0.14, 0.215, (0.42, 0.42), 0.82)
    nose = np.array([(-0.24, 0.16), (0, 0.12), (0.24, 0.16), (0.10, 0.36), (0, 0.41), (-0.10, 0.36)])
    add("nose", nose, mix(BLACK, (120, 60, 60), 0.3))
    add("mark", leaf(0, 0.38, 0.0, 0.16, 0.06), rim)
    for side in (-1, 1):
        add("mark", flip(leaf(-0.02, 0.58, 0.33, -0.08, 0.07), side), rim)


def _background(look: FaceLook, pixels: int) -> Image.Image:
    """A soft gradient with blotches: 5 x 5 colours, smoothly enlarged."""
    rng = np.random.default_rng(look.texture)
    near = np.array(look.background, float)
    far = np.array(look.background_far, float)
    x, y = np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 1, 5))
    angle = rng.uniform(0, 2 * math.pi)
    share = 0.5 + 0.5 * (math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5)) * 1.4
    colours = near + share[..., None] * (far - near) + rng.normal(0, 9, (5, 5, 1))
    small = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8), "RGB")
    return small.resize((pixels, pixels), Image.Resampling.BICUBIC)


def render(shapes: Sequence[Shape], look: FaceLook, size: int) -> np.ndarray:
    """Paint shapes over the background: uint8 (3, size, size)."""
    pixels = SUPERSAMPLING * size
    image = _background(look, pixels)
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        draw.polygon((shape.points * pixels).ravel().tolist(), fill=shape.fill)
    return np.ascontiguousarray(np.asarray(image.reduce(SUPERSAMPLING)).transpose(2, 0, 1))


def box(shapes: Sequence[Shape], part: str) -> tuple[float, float, float, float]:
    """Return the box (x0, y0, x1, y1) around all shapes of a part, clipped to the image.

    Raises:
        ValueError: if the face has no such part.
    """
    polygons = [shape.points for shape in shapes if shape.part == part]
    if not polygons:
        raise ValueError(f"this face has no {part!r}: its parts are {sorted({shape.part for shape in shapes})}")
    points = np.clip(np.concatenate(polygons), 0, 1)
    x0, y0 = points.min(0).tolist()
    x1, y1 = points.max(0).tolist()
    return x0, y0, x1, y1


def mask(shapes: Sequence[Shape], size: int) -> np.ndarray:
    """Return which pixels the head, ears or mane cover: bool (size, size)."""
    pixels = SUPERSAMPLING * size
    image = Image.new("L", (pixels, pixels))
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if shape.part not in ("body", "mark"):  # marks lie on the head, or are whiskers that stick out of it
            draw.polygon((shape.points * pixels).ravel().tolist(), fill=255)
    return np.asarray(image.reduce(SUPERSAMPLING)) > 127
