"""Captions of synthetic faces: sentences from attributes, and their token ids.

All captions are made of a short list of words, so a tokenizer of a few lines that splits at spaces suffices; the
byte-pair tokenizer of Stable Diffusion is the subject of notebook 05.
"""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from helpers.data.toy_faces import BACKGROUNDS, EYES, FURS, PATTERNS, SPECIES, FaceAttributes

PADDING = "<pad>"
LENGTH = 18  # tokens of a caption, padding included
CAPTION_VARIANTS = 4  # that trainings use per face: the full caption, and three that leave details out
DETAILS = ("pattern", "fur", "eyes", "background", "extras")  # what a caption may leave out; extras: mane and tongue
_OTHER_WORDS = "a an the face of with and eyes on background animal mane its tongue out".split()
VOCABULARY = (PADDING, *dict.fromkeys((*_OTHER_WORDS, *SPECIES, *PATTERNS, *FURS, *EYES, *BACKGROUNDS)))
WORD_IDS = {word: token_id for token_id, word in enumerate(VOCABULARY) if word != PADDING}


def caption(attributes: FaceAttributes, keep: Sequence[str] = DETAILS) -> str:
    """Describe a face in one sentence: its species always, and the details in `keep`.

    Args:
        attributes: of a synthetic face.
        keep: any of DETAILS.

    Returns:
        for instance "a striped orange cat with green eyes on a blue background".
    """
    adjectives = [getattr(attributes, name) for name in ("pattern", "fur") if name in keep]
    noun = "wild animal" if attributes.species == "wild" else attributes.species
    phrase = " ".join([*adjectives, noun])
    features = []
    if "eyes" in keep:
        features.append(f"{attributes.eyes} eyes")
    if "extras" in keep and attributes.mane:
        features.append("a mane")
    if "extras" in keep and attributes.tongue:
        features.append("its tongue out")
    if features:
        phrase += " with " + " and ".join(features)
    if "background" in keep:
        phrase += f" on a {attributes.background} background"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def drop_details(attributes: FaceAttributes, rng: np.random.Generator, chance: float = 0.15) -> str:
    """Describe a face, leaving out each detail with probability `chance`: prompts of users often say little."""
    return caption(attributes, [detail for detail in DETAILS if rng.random() >= chance])


def caption_variants(faces: Sequence[FaceAttributes], count: int, seed: int = 0) -> list[str]:
    """Write `count` captions for each face: the full one, then `count - 1` that leave out random details.

    Returns:
        captions of the first face, of the second, ...: N * count.
    """
    rng = np.random.default_rng(seed)
    captions = []
    for face in faces:
        captions.append(caption(face))
        captions += [drop_details(face, rng) for _ in range(count - 1)]
    return captions


def tokenize(captions: Sequence[str], length: int = LENGTH) -> Tensor:
    """Convert captions to token ids, one per word: int64 (B, length), padded with 0.

    Capitals, commas and full stops do not matter. An empty caption is all padding: the unconditional prompt.

    Raises:
        ValueError: for a word outside VOCABULARY (it lists the words, and suggests a similar one) or a caption of more
            than `length` words.
    """
    ids = torch.zeros(len(captions), length, dtype=torch.int64)
    for row, text in zip(ids, captions, strict=True):
        tokens = text.lower().replace(",", " ").replace(".", " ").split()
        for token in tokens:
            if token not in WORD_IDS:
                known = " ".join(WORD_IDS)
                close = get_close_matches(token, WORD_IDS, 1)
                suggestion = f". Did you mean {close[0]!r}?" if close else ""
                raise ValueError(
                    f"unknown word {token!r} (in {text!r}); captions of the faces use: {known}{suggestion}"
                )
        if len(tokens) > length:
            raise ValueError(f"a caption has at most {length} words, got {len(tokens)}: {text!r}")
        row[: len(tokens)] = torch.tensor([WORD_IDS[token] for token in tokens], dtype=torch.int64)
    return ids
