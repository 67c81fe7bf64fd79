"""Evaluation: perfect answers score 1, wrong ones 0, and malformed answers count as wrong."""

from types import SimpleNamespace

import pytest
import torch

from helpers.data import load_faces
from helpers.data.captions import caption
from helpers.data.questions import open_questions, yes_no_questions
from helpers.data.toy_faces import face_boxes
from helpers.vlm.boxes import box_to_tokens, mask_to_tokens
from helpers.vlm.evaluate import boxes_by_name, evaluate, mask_iou, mentions
from helpers.vlm.examples import PARTS, crop_face_masks, face_box


class PerfectAssistant:
    """Recognises each face by its pixels and answers from its attributes; a mask's first code is its face's index."""

    device = torch.device("cpu")

    def __init__(self, faces, wrong: bool = False):
        self.faces = faces
        self.wrong = wrong
        self.known = {
            image.numpy().tobytes(): face for image, face in zip(faces.tensor(), faces.attributes, strict=True)
        }
        masks = crop_face_masks(faces.attributes)
        self.masks = SimpleNamespace(decode=lambda codes: masks[codes[:, 0]])

    def caption(self, images, **_):
        return self.generate(images, ["caption en"] * len(images))

    def generate(self, images, prompts, **_):
        return [self.answer(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    def answer(self, image, prompt):
        face = self.known.get(image.numpy().tobytes())
        if self.wrong or face is None:  # None: several faces, which it cannot count
            return "<loc0001> nonsense"
        if prompt == "caption en":
            return caption(face)
        if prompt.startswith("detect"):
            return " ; ".join(f"{box_to_tokens(face_boxes(face)[part])} {part}" for part in PARTS)
        if prompt.startswith("segment"):
            codes = [self.faces.attributes.index(face)] + [0] * 15
            return f"{box_to_tokens(face_box(face))}{mask_to_tokens(codes)} face"
        questions = open_questions(face)
        for group in yes_no_questions(face).values():
            questions += group
        return next(question.answer for question in questions if prompt == f"answer en {question.text}")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "val", 64, limit=30, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def test_perfect_answers_score_one(faces):
    scores = evaluate(PerfectAssistant(faces), faces)
    assert scores.pop("counting") == scores.pop("place") == 0 and scores.pop("face mask") > 0.95
    assert set(scores.values()) == {1.0}, scores


def test_wrong_answers_score_zero(faces):
    assert set(evaluate(PerfectAssistant(faces, wrong=True), faces).values()) == {0.0}


@pytest.mark.parametrize(
    ("text", "attribute", "expected", "mentioned"),
    [
        ("a striped grey cat with green eyes on a red background", "species", "cat", True),
        ("a striped grey wild animal on a red background", "species", "wild animal", True),
        ("a striped grey cat on a red background", "species", "dog", False),
        ("a plain white dog with brown eyes", "fur", "white", True),
        ("a plain white dog with brown eyes", "fur", "brown", False),
        ("a plain dog with brown eyes", "fur", "brown", False),
    ],
)
def test_what_a_caption_mentions(text, attribute, expected, mentioned):
    assert mentions(text, attribute, expected) == mentioned


def test_malformed_boxes_are_none():
    assert boxes_by_name("<loc0001> nose") == {}
    assert set(boxes_by_name(f"{box_to_tokens((0, 0, 1, 1))} nose")) == {"nose"}


def test_mask_iou():
    a = torch.zeros(4, 4, dtype=torch.bool)
    b = torch.zeros(4, 4, dtype=torch.bool)
    a[:2] = True
    b[1:3] = True
    assert mask_iou(a, b) == pytest.approx(1 / 3)
