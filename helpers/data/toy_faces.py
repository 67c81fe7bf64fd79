"""Drawn animal faces: the course's own data set, with every attribute known, so that quality can be scored.

A face is a `FaceAttributes`: what a caption can say (species, fur, eyes, pattern, background, mane, tongue) and what
it cannot (the exact shades, tilt, position, size, the shape of the ears ...). Colours vary continuously around their
names, with gaps between the names, so that a network cannot memorise pictures and a reader cannot be in doubt.
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from helpers.data.face_shapes import Colour, FaceLook, Shape, box, face_shapes, mask, render

PAINTER_VERSION = "1"  # part of every cache's name: raise it whenever a pixel of any face changes

SPECIES = ("cat", "dog", "wild")
PATTERNS = ("plain", "striped", "spotted", "patched")
# name -> hue, saturation and value, each a range to draw from (0..1)
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


@dataclass(frozen=True)
class FaceAttributes:
    """All that determines a drawn face. The first seven can be said in words; `look` holds what cannot."""

    species: str  # one of SPECIES
    fur: str  # a name in FURS
    eyes: str  # a name in EYES
    pattern: str  # one of PATTERNS; wild animals are never patched
    background: str  # a name in BACKGROUNDS
    mane: bool  # some plain wild animals
    tongue: bool  # some dogs
    look: FaceLook  # exact shades, place, tilt, proportions, texture seed


def _shade(rng: np.random.Generator, ranges: tuple) -> Colour:
    hue, saturation, value = (rng.uniform(low, high) for low, high in ranges)
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _look(rng: np.random.Generator, fur: str, eyes: str, background: str) -> FaceLook:
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


def sample_attributes(rng: np.random.Generator, **wanted: str | bool) -> FaceAttributes:
    """Draw a face's attributes; whatever is not asked for is random.

    Args:
        rng: numpy generator; the same state gives the same face.
        wanted: any of species, fur, eyes, pattern, background, mane, tongue.

    Raises:
        ValueError: for an attribute or a value nobody knows, or a combination that is never drawn.
    """
    choices = {
        "species": SPECIES,
        "fur": tuple(FURS),
        "eyes": tuple(EYES),
        "pattern": PATTERNS,
        "background": tuple(BACKGROUNDS),
        "mane": (False, True),
        "tongue": (False, True),
    }
    for name, value in wanted.items():
        if name not in choices:
            raise ValueError(f"unknown attribute {name!r}: a drawn face has {', '.join(choices)}")
        if value not in choices[name]:
            raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, choices[name]))}")
    drawn = {name: options[rng.integers(len(options))] for name, options in choices.items()}
    lion = drawn["species"] == "wild" and rng.random() < 0.4
    drawn |= wanted
    if "species" not in wanted:
        drawn["species"] = _possible_species(rng, drawn["species"], wanted)
    if drawn["species"] != "wild":
        drawn["mane"] = wanted.get("mane", False)
    elif "mane" not in wanted:
        drawn["mane"] = lion and wanted.get("pattern", "plain") == "plain"
    if drawn["mane"]:
        drawn["pattern"] = wanted.get("pattern", "plain")
    elif drawn["species"] == "wild" and drawn["pattern"] == "patched":
        drawn["pattern"] = wanted.get("pattern", ("striped", "spotted")[rng.integers(2)])
    drawn["tongue"] = wanted.get("tongue", drawn["species"] == "dog" and drawn["tongue"])
    _refuse_impossible(drawn)
    return FaceAttributes(**drawn, look=_look(rng, drawn["fur"], drawn["eyes"], drawn["background"]))


def _possible_species(rng: np.random.Generator, species: str, wanted: dict) -> str:
    """The species drawn, or where it cannot have what is wanted, another that can."""
    able = {"mane": ("wild",), "tongue": ("dog",), "patched": ("cat", "dog")}
    asked = [name for name in ("mane", "tongue") if wanted.get(name)] + [wanted.get("pattern", "")]
    possible = [one for one in SPECIES if all(one in able.get(name, SPECIES) for name in asked)]
    return species if species in possible or not possible else possible[rng.integers(len(possible))]


def _refuse_impossible(drawn: dict) -> None:
    species = drawn["species"]
    pattern = drawn["pattern"]
    if drawn["mane"] and (species != "wild" or pattern != "plain"):
        raise ValueError(f"a mane is drawn on plain wild animals only, not on a {pattern} {species}")
    if drawn["tongue"] and species != "dog":
        raise ValueError(f"a tongue is drawn on dogs only, not on a {species}")
    if species == "wild" and pattern == "patched":
        raise ValueError("wild animals are plain, striped or spotted, never patched")


def shapes(attributes: FaceAttributes) -> list[Shape]:
    """The face as coloured polygons in unit coordinates (0, 0 top left, 1, 1 bottom right), back to front."""
    return face_shapes(attributes.species, attributes.pattern, attributes.mane, attributes.tongue, attributes.look)


def draw_face(attributes: FaceAttributes, size: int = 64) -> np.ndarray:
    """Paint a face, antialiased.

    Returns:
        uint8 (3, size, size).

    Raises:
        ValueError: for a size below 8.
    """
    if size < 8:
        raise ValueError(f"a face needs at least 8 pixels a side, got size {size}")
    return render(shapes(attributes), attributes.look, size)


def face_boxes(attributes: FaceAttributes) -> dict[str, tuple[float, float, float, float]]:
    """Boxes (x0, y0, x1, y1) in [0, 1] of "left eye" and "right eye" (as seen), "nose" and "face"."""
    drawn = shapes(attributes)
    return {part: box(drawn, part) for part in ("left eye", "right eye", "nose", "face")}


def face_mask(attributes: FaceAttributes, size: int = 64) -> np.ndarray:
    """bool (size, size): where the head is, ears and mane included, the body left out."""
    return mask(shapes(attributes), size)


def toy_attributes(count: int, seed: int) -> tuple[FaceAttributes, ...]:
    """`count` faces for a data set, the species in rotation so that the classes are balanced.

    Face i depends on (seed, i) alone: a smaller set is the beginning of a larger one.
    """
    return tuple(
        sample_attributes(np.random.default_rng([seed, i]), species=SPECIES[i % len(SPECIES)]) for i in range(count)
    )
