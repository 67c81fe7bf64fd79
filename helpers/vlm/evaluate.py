"""Evaluation of the tiny PaliGemma on synthetic faces: every answer is compared with the attributes behind the image.

Alphabet: N faces, H W of a mask.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from helpers.data.faces import DrawnFaces
from helpers.data.questions import open_questions, sample_face_grid, sample_yes_no_question, species_name
from helpers.data.toy_faces import FURS, face_boxes, face_mask
from helpers.vlm.boxes import Box, parse, paste_mask
from helpers.vlm.examples import PARTS, Example, detection_example, vqa_example
from helpers.vlm.mask_codes import SIDE, MaskAutoencoder
from helpers.vlm.pipeline import PaliGemma

IOU_THRESHOLD = 0.5  # a predicted box counts as correct from this IoU on
BATCH_SIZE = 100


def evaluate(assistant: PaliGemma, faces: DrawnFaces, seed: int = 0, progress: bool = False) -> dict[str, float]:
    """Measure the accuracy by category, each in [0, 1].

    Args:
        faces: held out; as many images of several faces are composed from them.
        seed: of the yes-or-no questions and of the composed images.
        progress: show a bar per part.

    Returns:
        "species", "fur", "eyes", "background", "pattern", "yes or no", "counting", "place"; "caption, species" and
        "caption, fur" (mentioned correctly); "left eye", "right eye" and "nose" (share of boxes with an IoU of at
        least 0.5); "face mask" (mean IoU).

    Raises:
        ValueError: without a mask autoencoder, which the masks need.
    """
    if assistant.masks is None:
        raise ValueError("segmentation is evaluated too: load the assistant with its mask autoencoder (masks=)")
    rng = np.random.default_rng(seed)
    images = list(faces.tensor())
    rows = []
    for image, face in zip(images, faces.attributes, strict=True):
        for question in (*open_questions(face), sample_yes_no_question(face, rng)):
            rows.append((image, vqa_example(question)))
    rows += _grid_rows(faces, rng)
    predictions = assistant.generate(
        [image for image, _ in rows],
        [example.prompt for _, example in rows],
        max_new_tokens=4,
        batch_size=BATCH_SIZE,
        progress=progress,
    )
    scores = _accuracies([example for _, example in rows], predictions)
    captions = assistant.caption(images, batch_size=BATCH_SIZE, progress=progress)
    scores["caption, species"] = _mean(
        mentions(text, "species", species_name(face.species))
        for text, face in zip(captions, faces.attributes, strict=True)
    )
    scores["caption, fur"] = _mean(
        mentions(text, "fur", face.fur) for text, face in zip(captions, faces.attributes, strict=True)
    )
    scores |= _box_accuracies(assistant, faces, progress)
    scores["face mask"] = _mean_mask_iou(assistant, assistant.masks, faces, progress)
    return scores


def mentions(caption: str, attribute: str, expected: str) -> bool:
    """Whether a caption names this species or fur. Only the animal's colour counts, not that of eyes and background."""
    animal_text = caption.split(" with ")[0].split(" on ")[0]
    if attribute == "species":
        return animal_text.endswith(expected)
    return [word for word in animal_text.split() if word in FURS] == [expected]


def boxes_by_name(answer: str) -> dict[str, Box]:
    """The boxes of an answer; none where it is malformed."""
    try:
        return {detection.name: detection.box for detection in parse(answer, strict=True)}
    except ValueError:
        return {}


def mask_iou(mask: Tensor, target: Tensor) -> float:
    """Intersection over union of two masks, bool (H, W)."""
    return ((mask & target).sum() / (mask | target).sum()).item()


def _grid_rows(faces: DrawnFaces, rng: np.random.Generator) -> list[tuple[Tensor, Example]]:
    """N images of several faces, each with a counting question and with a question about a corner."""
    rows = []
    for _ in range(len(faces)):
        grid = sample_face_grid(len(faces), rng)
        image = torch.from_numpy(grid.render(faces)) / 127.5 - 1
        for questions in (grid.counting(faces), grid.places(faces)):
            rows.append((image, vqa_example(questions[rng.integers(len(questions))])))
    return rows


def _accuracies(examples: Sequence[Example], predictions: Sequence[str]) -> dict[str, float]:
    """The share of correct predictions in every category, in the order of their first examples."""
    correct: dict[str, list[bool]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        correct.setdefault(example.category, []).append(prediction == example.answer)
    return {category: _mean(values) for category, values in correct.items()}


def _box_accuracies(assistant: PaliGemma, faces: DrawnFaces, progress: bool) -> dict[str, float]:
    prompt = detection_example(faces.attributes[0]).prompt
    predictions = assistant.generate(
        list(faces.tensor()), [prompt] * len(faces), batch_size=BATCH_SIZE, progress=progress
    )
    correct: dict[str, list[bool]] = {part: [] for part in PARTS}
    empty = Box(0, 0, 0, 0)
    for face, text in zip(faces.attributes, predictions, strict=True):
        targets = face_boxes(face)
        predicted = boxes_by_name(text)
        for part in PARTS:
            iou = Box(*targets[part]).iou(predicted.get(part, empty))
            correct[part].append(iou >= IOU_THRESHOLD)
    return {part: _mean(values) for part, values in correct.items()}


def _mean_mask_iou(assistant: PaliGemma, masks: MaskAutoencoder, faces: DrawnFaces, progress: bool) -> float:
    """Mean IoU of the faces' masks; an answer without a mask counts as 0."""
    predictions = assistant.generate(
        list(faces.tensor()), ["segment face"] * len(faces), batch_size=BATCH_SIZE, progress=progress
    )
    ious = []
    for text, face in zip(predictions, faces.attributes, strict=True):
        try:
            (detection,) = parse(text, strict=True)
            with torch.inference_mode():
                decoded = masks.decode(torch.tensor([detection.codes], device=assistant.device))[0].cpu()
            mask = paste_mask(decoded, detection.box, SIDE, SIDE) > 0.5
            ious.append(mask_iou(mask, torch.from_numpy(face_mask(face, SIDE))))
        except (ValueError, TypeError):  # malformed, several objects, or a box without codes
            ious.append(0.0)
    return _mean(ious)


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
