"""Questions about synthetic faces with their true answers: from the attributes, so every answer can be checked.

An image for counting holds up to four faces. Alphabet: H W of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers.data.faces import DrawnFaces
from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES, FaceAttributes


class Question(NamedTuple):
    """A question about an image and its answer."""

    topic: str  # "species", "fur", "eyes", "background", "pattern", "yes or no", "counting" or "place"
    text: str
    answer: str


def species_name(species: str, plural: bool = False) -> str:
    """Return a species as a question or an answer says it: "wild" is "wild animal"."""
    noun = "wild animal" if species == "wild" else species
    return f"{noun}s" if plural else noun


def open_questions(face: FaceAttributes) -> list[Question]:
    """Return the questions about a face whose answer is a name, one for each attribute."""
    return [
        Question("species", "what animal is this?", species_name(face.species)),
        Question("fur", "what colour is the fur?", face.fur),
        Question("eyes", "what colour are the eyes?", face.eyes),
        Question("background", "what colour is the background?", face.background),
        Question("pattern", "what pattern has the fur?", face.pattern),
    ]


def yes_no_questions(face: FaceAttributes) -> dict[str, list[Question]]:
    """Return every yes-or-no question about a face, by attribute: one for each value that the attribute can have."""
    species = {name: species_name(name) for name in SPECIES}
    return {
        "species": [_yes_no(f"is this a {noun}?", name == face.species) for name, noun in species.items()],
        "fur": [_yes_no(f"is the fur {name}?", name == face.fur) for name in FURS],
        "eyes": [_yes_no(f"are the eyes {name}?", name == face.eyes) for name in EYES],
        "background": [_yes_no(f"is the background {name}?", name == face.background) for name in BACKGROUNDS],
        "pattern": [_yes_no(f"is the fur {name}?", name == face.pattern) for name in PATTERNS],
        "mane": [_yes_no("does it have a mane?", face.mane)],
        "tongue": [_yes_no("is its tongue out?", face.tongue)],
    }


def _yes_no(text: str, true: bool) -> Question:
    return Question("yes or no", text, "yes" if true else "no")


def sample_yes_no_question(
    face: FaceAttributes, rng: np.random.Generator, about: Sequence[str] | None = None
) -> Question:
    """Sample a yes-or-no question: first the answer, "yes" as often as "no", then an attribute, then the question.

    Args:
        face: what the question is about.
        rng: numpy generator.
        about: attributes to choose from, "pattern" among them, since "mane" and "tongue" may lack one of
            the answers; None: all.
    """
    answer = ("yes", "no")[rng.integers(2)]
    groups = []
    for attribute, questions in yes_no_questions(face).items():
        matching = [question for question in questions if question.answer == answer]
        if matching and (about is None or attribute in about):
            groups.append(matching)
    group = groups[rng.integers(len(groups))]
    return group[rng.integers(len(group))]


CORNERS = ("top left", "top right", "bottom left", "bottom right")


class FaceGrid(NamedTuple):
    """Up to four faces of a dataset in one image."""

    corners: tuple[int | None, ...]  # rows of the dataset, in the order of CORNERS; None: empty
    background_from: int  # row of the face whose background fills the empty corners

    def render(self, faces: DrawnFaces) -> np.ndarray:
        """Paste the faces, each at half its size, into one image: uint8 (3, H, W)."""
        image = np.empty(faces.images.shape[1:], dtype=np.uint8)
        image[:] = np.array(faces.attributes[self.background_from].look.background, dtype=np.uint8)[:, None, None]
        half = faces.size // 2
        for corner, row in enumerate(self.corners):
            if row is not None:
                small = faces.images[row].reshape(3, half, 2, half, 2).mean((2, 4))
                top = corner // 2 * half
                left = corner % 2 * half
                image[:, top : top + half, left : left + half] = small.round()
        return image

    def counting(self, faces: DrawnFaces) -> list[Question]:
        """Return the questions that ask for a number: of all animals, and of each species."""
        present = [faces.attributes[row].species for row in self.corners if row is not None]
        counts = {"animals": len(present)}
        for species in SPECIES:
            counts[species_name(species, plural=True)] = present.count(species)
        return [Question("counting", f"how many {noun} are there?", str(count)) for noun, count in counts.items()]

    def places(self, faces: DrawnFaces) -> list[Question]:
        """Return a question for each corner; the answer is an animal or "nothing"."""
        questions = []
        for corner, row in zip(CORNERS, self.corners, strict=True):
            answer = "nothing" if row is None else species_name(faces.attributes[row].species)
            questions.append(Question("place", f"what is at the {corner}?", answer))
        return questions


def sample_face_grid(count: int, rng: np.random.Generator) -> FaceGrid:
    """Sample one to four faces of a dataset of `count`, in random corners."""
    filled = rng.permutation(4) < rng.integers(1, 5)
    corners = tuple(int(rng.integers(count)) if fill else None for fill in filled)
    return FaceGrid(corners, background_from=int(rng.integers(count)))
