"""What a drawn face can be called: captions from attributes, and words to numbers.

Every caption is made of words from one short list, so that a tokenizer of a few lines suffices; the
byte-pair tokenizer of Stable Diffusion is the subject of notebook 03.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES, FaceAttributes

PADDING = "<pad>"
LENGTH = 18
_GLUE = (
    "a",
    "an",
    "the",
    "face",
    "of",
    "with",
    "and",
    "eyes",
    "on",
    "background",
    "animal",
    "mane",
    "its",
    "tongue",
    "out",
)
WORDS = (PADDING, *dict.fromkeys((*_GLUE, *SPECIES, *PATTERNS, *FURS, *EYES, *BACKGROUNDS)))


def caption(attributes: FaceAttributes, keep: Sequence[str] = ("pattern", "fur", "eyes", "background", "more")) -> str:
    """One sentence that says what is in `keep`, and the species always.

    Args:
        attributes: of a drawn face.
        keep: any of "pattern", "fur", "eyes", "background", "more" (mane and tongue).

    Returns:
        for instance "a striped orange cat with green eyes on a blue background".
    """
    before = [getattr(attributes, name) for name in ("pattern", "fur") if name in keep]
    noun = "wild animal" if attributes.species == "wild" else attributes.species
    phrase = " ".join([*before, noun])
    details = [f"{attributes.eyes} eyes"] if "eyes" in keep else []
    if "more" in keep:
        details += ["a mane"] * attributes.mane + ["its tongue out"] * attributes.tongue
    if details:
        phrase += " with " + " and ".join(details)
    if "background" in keep:
        phrase += f" on a {attributes.background} background"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def drop_details(attributes: FaceAttributes, rng: np.random.Generator, chance: float = 0.15) -> str:
    """A caption that leaves each detail out with some chance: a network must cope with prompts that say little."""
    details = ("pattern", "fur", "eyes", "background", "more")
    return caption(attributes, [detail for detail in details if rng.random() >= chance])


def caption_variants(faces: Sequence[FaceAttributes], count: int, seed: int = 0) -> list[str]:
    """`count` captions of the first face, of the second, ...: the full one, then such as leave details out."""
    rng = np.random.default_rng(seed)
    return [text for face in faces for text in (caption(face), *(drop_details(face, rng) for _ in range(count - 1)))]


def encode(captions: Sequence[str], length: int = LENGTH) -> Tensor:
    """Words to numbers: int64 (B, length), padded with 0; an empty caption is all padding, and means "anything".

    Raises:
        ValueError: for a word outside the course's list (it names the word and the list) or too long a caption.
    """
    ids = torch.zeros(len(captions), length, dtype=torch.int64)
    for row, text in zip(ids, captions, strict=True):
        words = text.lower().replace(",", " ").replace(".", " ").split()
        unknown = [word for word in words if word not in WORDS[1:]]
        if unknown:
            known = " ".join(WORDS[1:])
            raise ValueError(f"the drawn faces know no {unknown[0]!r} (in {text!r}); their words: {known}")
        if len(words) > length:
            raise ValueError(f"a caption holds at most {length} words, got {len(words)}: {text!r}")
        row[: len(words)] = torch.tensor([WORDS.index(word) for word in words], dtype=torch.int64)
    return ids
