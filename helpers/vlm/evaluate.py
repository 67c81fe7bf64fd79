"""How often the tiny PaliGemma is right about drawn faces: every answer is compared with the attributes behind it.

Alphabet: N faces, H W of a mask.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from helpers.data import Faces
from helpers.data.questions import a_yes_no_question, animal, open_questions, sample_face_grid
from helpers.data.toy_faces import FURS, face_boxes, face_mask
from helpers.vlm.boxes import Box, parse, pasted
from helpers.vlm.examples import PARTS, Example, asked, located
from helpers.vlm.mask_codes import SIDE
from helpers.vlm.pipeline import PaliGemma

FOUND = 0.5  # a box counts as right from this share of overlap


def evaluate(assistant: PaliGemma, faces: Faces, seed: int = 0, progress: bool = False) -> dict[str, float]:
    """Shares of right answers, by kind, each in [0, 1].

    Args:
        faces: held out; as many pictures of several are put together from them.
        seed: of the yes-or-no questions and of what is counted.
        progress: show a bar per part.

    Returns:
        "species", "fur", "eyes", "background", "pattern", "yes or no", "counting", "place"; "caption, species" and
        "caption, fur" (mentioned); "left eye", "right eye" and "nose" (boxes that overlap by half); "face mask" (mean
        overlap).
    """
    if assistant.masks is None:
        raise ValueError("outlines are examined too: the assistant needs its masks")
    rng = np.random.default_rng(seed)
    pictures = list(faces.tensor())
    rows = [
        (picture, asked(one))
        for picture, face in zip(pictures, faces.attributes, strict=True)
        for one in (*open_questions(face), a_yes_no_question(face, rng))
    ]
    rows += _counting(faces, rng)
    told = assistant.write(
        [picture for picture, _ in rows], [one.prompt for _, one in rows], limit=4, batch_size=100, progress=progress
    )
    right = _shares([one for _, one in rows], told)
    captions = assistant.caption(pictures, batch_size=100, progress=progress)
    kinds = {
        "species": [animal(face.species) for face in faces.attributes],
        "fur": [face.fur for face in faces.attributes],
    }
    right |= {
        f"caption, {kind}": _mean(mentions(text, kind, word) for text, word in zip(captions, words, strict=True))
        for kind, words in kinds.items()
    }
    return right | _boxes(assistant, faces, progress) | {"face mask": _masks(assistant, faces, progress)}


def mentions(caption: str, kind: str, wanted: str) -> bool:
    """Does a caption say this species or fur? Eyes and background have colours too: only the animal's is read."""
    before = caption.split(" with ")[0].split(" on ")[0]
    if kind == "species":
        return before.endswith(wanted)
    return [word for word in before.split() if word in FURS] == [wanted]


def boxes_in(answer: str) -> dict[str, Box]:
    """What an answer found, by name; nothing where it is malformed."""
    try:
        return {found.name: found.box for found in parse(answer)}
    except ValueError:
        return {}


def overlap(mask: Tensor, true: Tensor) -> float:
    """What two masks bool (H, W) share over what they cover together."""
    return ((mask & true).sum() / (mask | true).sum()).item()


def _counting(faces: Faces, rng: np.random.Generator) -> list[tuple[Tensor, Example]]:
    rows = []
    for _ in range(len(faces)):
        group = sample_face_grid(len(faces), rng)
        picture = torch.from_numpy(group.picture(faces)) / 127.5 - 1
        for questions in (group.counting(faces), group.places(faces)):
            rows.append((picture, asked(questions[rng.integers(len(questions))])))
    return rows


def _shares(lessons: Sequence[Example], told: Sequence[str]) -> dict[str, float]:
    kinds = dict.fromkeys(one.kind for one in lessons)
    return {
        kind: _mean(text == one.answer for one, text in zip(lessons, told, strict=True) if one.kind == kind)
        for kind in kinds
    }


def _boxes(assistant: PaliGemma, faces: Faces, progress: bool) -> dict[str, float]:
    prompt = located(faces.attributes[0]).prompt
    told = assistant.write(list(faces.tensor()), [prompt] * len(faces), batch_size=100, progress=progress)
    found = [boxes_in(text) for text in told]
    nowhere = Box(0, 0, 0, 0)
    true = [face_boxes(face) for face in faces.attributes]
    return {
        part: _mean(
            Box(*where[part]).iou(said.get(part, nowhere)) >= FOUND for where, said in zip(true, found, strict=True)
        )
        for part in PARTS
    }


def _masks(assistant: PaliGemma, faces: Faces, progress: bool) -> float:
    """Mean overlap of the faces' masks; an answer without a mask overlaps with nothing."""
    told = assistant.write(list(faces.tensor()), ["segment face"] * len(faces), batch_size=100, progress=progress)
    shares = []
    for text, face in zip(told, faces.attributes, strict=True):
        try:
            (found,) = parse(text)
            with torch.inference_mode():
                small = assistant.masks.decode(torch.tensor([found.codes], device=assistant.device))[0].cpu()
            mask = pasted(small, found.box, SIDE, SIDE) > 0.5
            shares.append(overlap(mask, torch.from_numpy(face_mask(face, SIDE))))
        except (ValueError, TypeError):  # malformed, several objects, or a box without codes
            shares.append(0.0)
    return _mean(shares)


def _mean(values) -> float:
    return float(np.mean(list(values)))
