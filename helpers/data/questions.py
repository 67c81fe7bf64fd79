"""What can be asked about a drawn face, with the true answer: from the attributes, so that every answer can be checked.

A picture for counting holds up to four faces. Alphabet: H W of the picture.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers.data.faces import Faces
from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES, FaceAttributes


class Question(NamedTuple):
    """A question about a picture and its answer."""

    kind: str  # "species", "fur", "eyes", "background", "pattern", "yes or no", "counting" or "place"
    text: str
    answer: str


def animal(species: str, several: bool = False) -> str:
    """A species in words."""
    word = "wild animal" if species == "wild" else species
    return f"{word}s" if several else word


def open_questions(face: FaceAttributes) -> list[Question]:
    """What is to be named."""
    return [
        Question("species", "what animal is this?", animal(face.species)),
        Question("fur", "what colour is the fur?", face.fur),
        Question("eyes", "what colour are the eyes?", face.eyes),
        Question("background", "what colour is the background?", face.background),
        Question("pattern", "what pattern has the fur?", face.pattern),
    ]


def yes_no_questions(face: FaceAttributes) -> dict[str, list[Question]]:
    """Every yes-or-no question, by what it asks about."""

    def asked(form: str, true: str, choices: Sequence[str]) -> list[Question]:
        words = {one: animal(one) if one in SPECIES else one for one in choices}
        return [Question("yes or no", form.format(words[one]), "yes" if one == true else "no") for one in choices]

    return {
        "species": asked("is this a {}?", face.species, SPECIES),
        "fur": asked("is the fur {}?", face.fur, tuple(FURS)),
        "eyes": asked("are the eyes {}?", face.eyes, tuple(EYES)),
        "background": asked("is the background {}?", face.background, tuple(BACKGROUNDS)),
        "pattern": asked("is the fur {}?", face.pattern, PATTERNS),
        "mane": [Question("yes or no", "does it have a mane?", "yes" if face.mane else "no")],
        "tongue": [Question("yes or no", "is its tongue out?", "yes" if face.tongue else "no")],
    }


def a_yes_no_question(face: FaceAttributes, rng: np.random.Generator, about: Sequence[str] | None = None) -> Question:
    """One of them, or of those about some things ("pattern" must be among these): "yes" is as often right as "no"."""
    wanted = ("yes", "no")[rng.integers(2)]
    groups = [
        [one for one in group if one.answer == wanted]
        for kind, group in yes_no_questions(face).items()
        if about is None or kind in about
    ]
    groups = [group for group in groups if group]
    group = groups[rng.integers(len(groups))]
    return group[rng.integers(len(group))]


CORNERS = ("top left", "top right", "bottom left", "bottom right")


class FaceGrid(NamedTuple):
    """Up to four faces of a set in one picture."""

    corners: tuple[int | None, ...]  # positions in the set, top left, top right, bottom left, bottom right; None: empty
    filling: int  # position of the face whose background fills the empty corners

    def picture(self, faces: Faces) -> np.ndarray:
        """uint8 (3, H, W), every face at half its size."""
        picture = np.empty(faces.images.shape[1:], dtype=np.uint8)
        picture[:] = np.array(faces.attributes[self.filling].look.background, dtype=np.uint8)[:, None, None]
        half = faces.size // 2
        for i, position in enumerate(self.corners):
            if position is not None:
                small = faces.images[position].reshape(3, half, 2, half, 2).mean((2, 4))
                picture[:, i // 2 * half :, i % 2 * half :][:, :half, :half] = small.round()
        return picture

    def counting(self, faces: Faces) -> list[Question]:
        """All that can be counted."""
        there = [faces.attributes[i].species for i in self.corners if i is not None]
        counts = {"animals": len(there)} | {animal(one, True): there.count(one) for one in SPECIES}
        return [Question("counting", f"how many {things} are there?", str(count)) for things, count in counts.items()]

    def places(self, faces: Faces) -> list[Question]:
        """What is in each corner: "nothing", or an animal."""
        there = ["nothing" if i is None else animal(faces.attributes[i].species) for i in self.corners]
        return [Question("place", f"what is at the {corner}?", one) for corner, one in zip(CORNERS, there, strict=True)]


def sample_face_grid(count: int, rng: np.random.Generator) -> FaceGrid:
    """One to four of a set of `count` faces, in random corners."""
    filled = rng.permutation(4) < rng.integers(1, 5)
    return FaceGrid(tuple(int(rng.integers(count)) if one else None for one in filled), int(rng.integers(count)))
