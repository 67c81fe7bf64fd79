"""Synthetic animal faces: the course's own dataset, with every attribute known, so that quality can be scored.

A face is a `FaceAttributes`: what a caption can say (species, fur, eyes, pattern, background, mane, tongue) and what it
cannot (exact shades, tilt, position, size, the shape of the ears ...). Colours vary continuously around their names,
so that a network cannot memorise images, with gaps between the names, so that a classifier cannot be in doubt.
"""

import colorsys
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from helpers.data.face_shapes import Colour, FaceLook, Shape, box, face_shapes, mask, render

PAINTER_VERSION = "1"  # part of every cache's name: raise it whenever a pixel of any face changes

SPECIES = ("cat", "dog", "wild")
PATTERNS = ("plain", "striped", "spotted", "patched")
# name -> hue, saturation and value, each a range to sample from (0..1)
FURS = {
    "black": ((0.55, 0.75), (0.05, 0.25), (0.10, 0.19)),
    "white": ((0.05, 0.15), (0.00, 0.05), (0.95, 1.00)),
    "grey": ((0.50, 0.70), (0.02, 0.12), (0.46, 0.60)),
    "brown": ((0.045, 0.075), (0.52, 0.66), (0.36, 0.48)),
    "orange": ((0.060, 0.085), (0.76, 0.90), (0.90, 0.99)),
    "cream": ((0.105, 0.130), (0.26, 0.40), (0.91, 0.98)),
}
EYES = {
    "green": ((0.28, 0.37), (0.65, 0.85), (0.62, 0.82)),
    "blue": ((0.55, 0.60), (0.60, 0.80), (0.85, 0.98)),
    "amber": ((0.115, 0.140), (0.88, 1.00), (0.95, 1.00)),
    "brown": ((0.04, 0.07), (0.60, 0.75), (0.36, 0.46)),
}
BACKGROUNDS = {
    "red": ((0.975, 1.010), (0.55, 0.80), (0.70, 0.90)),
    "yellow": ((0.145, 0.170), (0.45, 0.75), (0.85, 0.98)),
    "green": ((0.28, 0.40), (0.35, 0.70), (0.55, 0.85)),
    "blue": ((0.56, 0.64), (0.40, 0.75), (0.65, 0.95)),
    "purple": ((0.72, 0.79), (0.35, 0.65), (0.55, 0.85)),
    "pink": ((0.88, 0.94), (0.25, 0.50), (0.88, 1.00)),
}

CHOICES: dict[str, tuple] = {  # attribute -> its values
    "species": SPECIES,
    "fur": tuple(FURS),
    "eyes": tuple(EYES),
    "pattern": PATTERNS,
    "background": tuple(BACKGROUNDS),
    "mane": (False, True),
    "tongue": (False, True),
}
SPECIES_WITH = {"mane": ("wild",), "tongue": ("dog",), "patched": ("cat", "dog")}


@dataclass(frozen=True)
class FaceAttributes:
    """All that determines a synthetic face. Captions can mention the first seven; `look` holds the rest."""

    species: str  # one of SPECIES
    fur: str  # a name in FURS
    eyes: str  # a name in EYES
    pattern: str  # one of PATTERNS; wild animals are never patched
    background: str  # a name in BACKGROUNDS
    mane: bool  # some plain wild animals
    tongue: bool  # some dogs
    look: FaceLook  # exact shades, place, tilt, proportions, texture seed


def _shade(rng: np.random.Generator, ranges: tuple) -> Colour:
    """Sample a colour, hue, saturation and value uniformly in their ranges."""
    hue, saturation, value = (rng.uniform(low, high) for low, high in ranges)
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _look(rng: np.random.Generator, fur: str, eyes: str, background: str) -> FaceLook:
    """Sample what captions do not mention, for colours of these names."""
    return FaceLook(
        fur=_shade(rng, FURS[fur]),
        eyes=_shade(rng, EYES[eyes]),
        background=_shade(rng, BACKGROUNDS[background]),
        background_far=_shade(rng, BACKGROUNDS[background]),
        centre=(rng.uniform(0.46, 0.54), rng.uniform(0.53, 0.59)),
        scale=rng.uniform(0.27, 0.32),
        tilt=math.radians(rng.normal(0, 6)),
        width=rng.uniform(0.94, 1.06),
        ears=rng.uniform(0.9, 1.1),
        gaze=(rng.uniform(-0.2, 0.2), rng.uniform(-0.15, 0.15)),
        patch_side=int(rng.choice([-1, 1])),
        texture=int(rng.integers(2**31)),
    )


def sample_attributes(rng: np.random.Generator, **fixed: str | bool) -> FaceAttributes:
    """Sample a face's attributes, with some of them fixed.

    Args:
        rng: numpy generator; the same state gives the same face.
        fixed: any of species, fur, eyes, pattern, background, mane, tongue; the others are random.

    Raises:
        ValueError: for an unknown attribute or value, or a combination that no face has.
    """
    for name, value in fixed.items():
        if name not in CHOICES:
            raise ValueError(f"unknown attribute {name!r}: a drawn face has {', '.join(CHOICES)}")
        if value not in CHOICES[name]:
            raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, CHOICES[name]))}")
    values: dict[str, Any] = {name: choices[rng.integers(len(choices))] for name, choices in CHOICES.items()}
    may_have_mane = values["species"] == "wild" and rng.random() < 0.4
    values |= fixed
    if "species" not in fixed:
        values["species"] = _possible_species(rng, values["species"], fixed)
    if values["species"] != "wild":
        values["mane"] = fixed.get("mane", False)
    elif "mane" not in fixed:
        values["mane"] = may_have_mane and fixed.get("pattern", "plain") == "plain"
    if values["mane"]:
        values["pattern"] = fixed.get("pattern", "plain")
    elif values["species"] == "wild" and values["pattern"] == "patched":
        values["pattern"] = fixed.get("pattern", ("striped", "spotted")[rng.integers(2)])
    values["tongue"] = fixed.get("tongue", values["species"] == "dog" and values["tongue"])
    _check_possible(values)
    return FaceAttributes(**values, look=_look(rng, values["fur"], values["eyes"], values["background"]))


def _possible_species(rng: np.random.Generator, species: str, fixed: dict) -> str:
    """The species itself, or if it cannot have the fixed attributes, a random one that can."""
    features = [name for name in ("mane", "tongue") if fixed.get(name)] + [fixed.get("pattern", "")]
    possible = [name for name in SPECIES if all(name in SPECIES_WITH.get(feature, SPECIES) for feature in features)]
    return species if species in possible or not possible else possible[rng.integers(len(possible))]


def _check_possible(values: dict[str, Any]) -> None:
    """Raise ValueError for a combination that no face has."""
    species = values["species"]
    pattern = values["pattern"]
    if values["mane"] and (species != "wild" or pattern != "plain"):
        raise ValueError(f"a mane is drawn on plain wild animals only, not on a {pattern} {species}")
    if values["tongue"] and species != "dog":
        raise ValueError(f"a tongue is drawn on dogs only, not on a {species}")
    if species == "wild" and pattern == "patched":
        raise ValueError("wild animals are plain, striped or spotted, never patched")


def shapes(attributes: FaceAttributes) -> list[Shape]:
    """Return the face as coloured polygons in unit coordinates (0, 0 top left, 1, 1 bottom right), back to front."""
    return face_shapes(attributes.species, attributes.pattern, attributes.mane, attributes.tongue, attributes.look)


def draw_face(attributes: FaceAttributes, size: int = 64) -> np.ndarray:
    """Render a face, antialiased.

    Returns:
        uint8 (3, size, size).

    Raises:
        ValueError: for a size below 8.
    """
    if size < 8:
        raise ValueError(f"a face needs at least 8 pixels a side, got size {size}")
    return render(shapes(attributes), attributes.look, size)


def face_boxes(attributes: FaceAttributes) -> dict[str, tuple[float, float, float, float]]:
    """Return boxes (x0, y0, x1, y1) in [0, 1] of "left eye" and "right eye" (as seen), "nose" and "face"."""
    polygons = shapes(attributes)
    return {part: box(polygons, part) for part in ("left eye", "right eye", "nose", "face")}


def face_mask(attributes: FaceAttributes, size: int = 64) -> np.ndarray:
    """Return where the head is, ears and mane included, without the body: bool (size, size)."""
    return mask(shapes(attributes), size)


def toy_attributes(count: int, seed: int) -> tuple[FaceAttributes, ...]:
    """Sample `count` faces for a dataset, the species in rotation so that the classes are balanced.

    Face i depends on (seed, i) alone: a smaller set is the beginning of a larger one.
    """
    faces = []
    for i in range(count):
        faces.append(sample_attributes(np.random.default_rng([seed, i]), species=SPECIES[i % len(SPECIES)]))
    return tuple(faces)
