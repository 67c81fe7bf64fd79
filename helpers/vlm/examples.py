"""What the tiny PaliGemma is taught: prompts and answers about drawn faces, in PaliGemma's own form.

Alphabet: N pictures, H W of a picture.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.data.captions import caption
from helpers.data.faces import Faces
from helpers.data.questions import (
    CORNERS,
    FaceGrid,
    Question,
    a_yes_no_question,
    animal,
    open_questions,
    yes_no_questions,
)
from helpers.data.toy_faces import SPECIES, FaceAttributes, face_boxes, face_mask
from helpers.vlm.boxes import Box, box_to_tokens, crop_mask, mask_to_tokens
from helpers.vlm.mask_codes import SIDE, MaskAutoencoder

GRID = 128  # steps of a side that boxes are told in: half pixels of the drawn faces
PARTS = ("left eye", "right eye", "nose")
HARD = ("pattern", "tongue")  # small or faint: asked about more often


class Example(NamedTuple):
    """One row of a batch."""

    kind: str
    prompt: str
    answer: str


def asked(question: Question) -> Example:
    """A question as PaliGemma is asked it."""
    return Example(question.kind, f"answer en {question.text}", question.answer)


def load_config(face: FaceAttributes) -> Example:
    """The caption with every detail."""
    return Example("caption", "caption en", caption(face))


def located(face: FaceAttributes, parts: Sequence[str] = PARTS) -> Example:
    """Where parts of the face are: "detect left eye ; nose"."""
    boxes = _boxes(face)
    answer = " ; ".join(f"{box_to_tokens(boxes[part], GRID)} {part}" for part in parts)
    return Example("detect", f"detect {' ; '.join(parts)}", answer)


def outlined(face: FaceAttributes, codes: Sequence[int]) -> Example:
    """Box and mask of the face."""
    return Example("segment", "segment face", f"{box_to_tokens(face_box(face), GRID)}{mask_to_tokens(codes)} face")


_boxes = lru_cache(maxsize=20_000)(face_boxes)  # a training asks for the same ones again and again


@lru_cache(maxsize=20_000)
def _outline(face: FaceAttributes) -> tuple[Tensor, Box]:
    """Mask bool (64, 64), and the box around it."""
    mask = torch.from_numpy(face_mask(face, SIDE))
    return mask, around(mask)


def face_box(face: FaceAttributes) -> Box:
    """Around all that the mask covers: head, ears and mane."""
    return _outline(face)[1]


def around(mask: Tensor) -> Box:
    """The smallest box around a mask bool (H, W). Raises ValueError for an empty mask."""
    rows, columns = (mask.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        raise ValueError("this mask is empty")
    height, width = mask.shape
    return Box(
        columns[0].item() / width,
        rows[0].item() / height,
        (columns[-1].item() + 1) / width,
        (rows[-1].item() + 1) / height,
    )


def cut_masks(faces: Sequence[FaceAttributes]) -> Tensor:
    """Each face's mask, cut at its box and squeezed to a square: (N, 64, 64) in [0, 1]."""
    return torch.stack([crop_mask(*_outline(face), SIDE) for face in faces])


@torch.no_grad()
def mask_codes(faces: Sequence[FaceAttributes], autoencoder: MaskAutoencoder, progress: bool = False) -> Tensor:
    """int64 (N, 16); drawing the outlines takes some minutes for ten thousand faces."""
    from tqdm.auto import tqdm

    device = autoencoder.quantizer.codebook.device
    parts = [faces[start : start + 100] for start in range(0, len(faces), 100)]
    bar = tqdm(parts, desc="drawing outlines", unit="00 faces", disable=not progress)
    return torch.cat([autoencoder.encode(cut_masks(part).to(device)).cpu() for part in bar])


def some_lessons(face: FaceAttributes, codes: Sequence[int], rng: np.random.Generator, count: int) -> list[Example]:
    """A random choice: what is hard, words and places and patterns, comes more often than what is easy."""

    def one(kind: int) -> Example:
        if kind == 0:
            return load_config(face)
        if kind == 1:
            return outlined(face, codes)
        if kind == 2:
            return located(face, rng.permutation(PARTS)[: rng.integers(1, 4)].tolist())
        if kind == 3:
            return asked(a_yes_no_question(face, rng, HARD if rng.random() < 0.5 else None))
        questions = open_questions(face)
        about = [one for one in questions if one.kind in HARD] if rng.random() < 0.4 else questions
        return asked(about[rng.integers(len(about))])

    return [one(kind) for kind in rng.permutation(5)[:count]]


def some_counting(picture: FaceGrid, faces: Faces, rng: np.random.Generator, count: int) -> list[Example]:
    """Questions about how many, and what is where: to know the corners helps to count."""
    questions = [*picture.counting(faces), *picture.places(faces)]
    return [asked(questions[i]) for i in rng.permutation(len(questions))[:count]]


def all_texts(faces: Sequence[FaceAttributes]) -> list[str]:
    """Whatever may be said about faces like these: the words that a tokenizer must know."""
    counted = [f"how many {animal(species, True)} animals are there? 0 1 2 3 4" for species in SPECIES]
    placed = [f"what is at the {corner}? nothing" for corner in CORNERS]
    texts = ["segment face", f"detect {' ; '.join(PARTS)}", *counted, *placed]
    for face in faces:
        questions = [*open_questions(face), *(one for group in yes_no_questions(face).values() for one in group)]
        lessons = [load_config(face), *map(asked, questions)]
        texts += [text for lesson in lessons for text in (lesson.prompt, lesson.answer)]
    return texts
