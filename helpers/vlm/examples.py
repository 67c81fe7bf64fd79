"""Training examples of the tiny PaliGemma: prompts and answers about synthetic faces, in PaliGemma's format.

Alphabet: N images, H W of an image.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.data.captions import caption
from helpers.data.faces import DrawnFaces
from helpers.data.questions import (
    CORNERS,
    FaceGrid,
    Question,
    open_questions,
    sample_yes_no_question,
    species_name,
    yes_no_questions,
)
from helpers.data.toy_faces import SPECIES, FaceAttributes, face_boxes, face_mask
from helpers.vlm.boxes import Box, box_to_tokens, crop_mask, mask_to_tokens
from helpers.vlm.mask_codes import SIDE, MaskAutoencoder

GRID = 128  # box coordinates are multiples of 1 / GRID: half a pixel of the synthetic faces
PARTS = ("left eye", "right eye", "nose")
HARD = ("pattern", "tongue")  # small or faint, therefore more frequent in training


class Example(NamedTuple):
    """One row of a batch."""

    category: str
    prompt: str
    answer: str


def vqa_example(question: Question) -> Example:
    """Visual question answering: a question in PaliGemma's format."""
    return Example(question.topic, f"answer en {question.text}", question.answer)


def caption_example(face: FaceAttributes) -> Example:
    """Captioning: the caption with every detail."""
    return Example("caption", "caption en", caption(face))


def detection_example(face: FaceAttributes, parts: Sequence[str] = PARTS) -> Example:
    """Detection: boxes of parts of the face, "detect left eye ; nose"."""
    boxes = _boxes(face)
    answer = " ; ".join(f"{box_to_tokens(boxes[part], GRID)} {part}" for part in parts)
    return Example("detect", f"detect {' ; '.join(parts)}", answer)


def segmentation_example(face: FaceAttributes, codes: Sequence[int]) -> Example:
    """Segmentation: box and mask of the whole face."""
    return Example("segment", "segment face", f"{box_to_tokens(face_box(face), GRID)}{mask_to_tokens(codes)} face")


_boxes = lru_cache(maxsize=20_000)(face_boxes)  # training needs the same ones many times


@lru_cache(maxsize=20_000)
def _mask_and_box(face: FaceAttributes) -> tuple[Tensor, Box]:
    """The face's mask, bool (64, 64), and its bounding box."""
    mask = torch.from_numpy(face_mask(face, SIDE))
    return mask, mask_to_box(mask)


def face_box(face: FaceAttributes) -> Box:
    """The bounding box of the face's mask: head, ears and mane."""
    return _mask_and_box(face)[1]


def mask_to_box(mask: Tensor) -> Box:
    """The bounding box of a mask, bool (H, W). Raises ValueError for an empty mask."""
    rows = mask.any(dim=1).nonzero().flatten()
    columns = mask.any(dim=0).nonzero().flatten()
    if not len(rows):
        raise ValueError("this mask is empty")
    height, width = mask.shape
    return Box(
        columns[0].item() / width,
        rows[0].item() / height,
        (columns[-1].item() + 1) / width,
        (rows[-1].item() + 1) / height,
    )


def crop_face_masks(faces: Sequence[FaceAttributes]) -> Tensor:
    """The masks of faces, each cropped to its box and resized to a square: (N, 64, 64) in [0, 1]."""
    return torch.stack([crop_mask(*_mask_and_box(face), SIDE) for face in faces])


@torch.no_grad()
def encode_face_masks(faces: Sequence[FaceAttributes], autoencoder: MaskAutoencoder, progress: bool = False) -> Tensor:
    """The mask codes of faces, int64 (N, 16); rendering the masks takes some minutes for ten thousand faces."""
    from tqdm.auto import tqdm

    device = autoencoder.quantizer.codebook.device
    batches = [faces[start : start + 100] for start in range(0, len(faces), 100)]
    bar = tqdm(batches, desc="rendering masks", unit="00 faces", disable=not progress)
    return torch.cat([autoencoder.encode(crop_face_masks(batch).to(device)).cpu() for batch in bar])


def sample_examples(face: FaceAttributes, codes: Sequence[int], rng: np.random.Generator, count: int) -> list[Example]:
    """Random examples about a face, each of another task; questions about small or faint details are more frequent."""
    return [_sample_example(task, face, codes, rng) for task in rng.permutation(5)[:count]]


def _sample_example(task: int, face: FaceAttributes, codes: Sequence[int], rng: np.random.Generator) -> Example:
    """A caption, a mask, boxes, a yes-or-no question or an open question, for task 0 to 4."""
    if task == 0:
        return caption_example(face)
    if task == 1:
        return segmentation_example(face, codes)
    if task == 2:
        return detection_example(face, rng.permutation(PARTS)[: rng.integers(1, 4)].tolist())
    if task == 3:
        return vqa_example(sample_yes_no_question(face, rng, HARD if rng.random() < 0.5 else None))
    questions = open_questions(face)
    if rng.random() < 0.4:
        questions = [question for question in questions if question.topic in HARD]
    return vqa_example(questions[rng.integers(len(questions))])


def sample_grid_examples(grid: FaceGrid, faces: DrawnFaces, rng: np.random.Generator, count: int) -> list[Example]:
    """Random questions about an image of several faces: how many there are, and what is in each corner."""
    questions = [*grid.counting(faces), *grid.places(faces)]
    return [vqa_example(questions[i]) for i in rng.permutation(len(questions))[:count]]


def all_texts(faces: Sequence[FaceAttributes]) -> list[str]:
    """Every text that can occur in examples about these faces: what a word tokenizer must know."""
    texts = ["segment face", f"detect {' ; '.join(PARTS)}"]
    texts += [f"how many {species_name(species, True)} animals are there? 0 1 2 3 4" for species in SPECIES]
    texts += [f"what is at the {corner}? nothing" for corner in CORNERS]
    for face in faces:
        questions = open_questions(face)
        for group in yes_no_questions(face).values():
            questions += group
        for example in (caption_example(face), *map(vqa_example, questions)):
            texts += [example.prompt, example.answer]
    return texts
