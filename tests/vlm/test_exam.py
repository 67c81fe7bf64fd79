"""The exam: one that knows everything passes, one that says nothing right fails, malformed answers count as wrong."""

from types import SimpleNamespace

import pytest
import torch

from helpers.data import load_faces
from helpers.data.captions import caption
from helpers.data.questions import open_questions, yes_no_questions
from helpers.data.toy_faces import face_boxes
from helpers.vlm.boxes import box_to_tokens, mask_to_tokens
from helpers.vlm.evaluate import boxes_in, evaluate, mentions, overlap
from helpers.vlm.examples import PARTS, cut_masks, face_box


class KnowsAll:
    """Recognises each face by its pixels and answers from its attributes; a mask is the number of its face."""

    device = torch.device("cpu")

    def __init__(self, faces, wrong: bool = False):
        self.faces = faces
        self.wrong = wrong
        self.known = {
            picture.numpy().tobytes(): face for picture, face in zip(faces.tensor(), faces.attributes, strict=True)
        }
        cut = cut_masks(faces.attributes)
        self.masks = SimpleNamespace(decode=lambda codes: cut[codes[:, 0]])

    def caption(self, pictures, **_):
        return self.write(pictures, ["caption en"] * len(pictures))

    def write(self, pictures, prompts, **_):
        return [self.one(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]

    def one(self, picture, prompt):
        face = self.known.get(picture.numpy().tobytes())
        if self.wrong or face is None:  # None: several faces, which this one cannot count
            return "<loc0001> nonsense"
        if prompt == "caption en":
            return caption(face)
        if prompt.startswith("detect"):
            return " ; ".join(f"{box_to_tokens(face_boxes(face)[part])} {part}" for part in PARTS)
        if prompt.startswith("segment"):
            codes = [self.faces.attributes.index(face)] + [0] * 15
            return f"{box_to_tokens(face_box(face))}{mask_to_tokens(codes)} face"
        groups = yes_no_questions(face).values()
        asked = [*open_questions(face), *(question for group in groups for question in group)]
        return next(question.answer for question in asked if prompt == f"answer en {question.text}")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "val", 64, limit=30, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def test_who_knows_all_passes(faces):
    marks = evaluate(KnowsAll(faces), faces)
    assert marks.pop("counting") == marks.pop("place") == 0 and marks.pop("face mask") > 0.95
    assert set(marks.values()) == {1.0}, marks


def test_who_knows_nothing_fails(faces):
    assert set(evaluate(KnowsAll(faces, wrong=True), faces).values()) == {0.0}


@pytest.mark.parametrize(
    ("said", "kind", "wanted", "right"),
    [
        ("a striped grey cat with green eyes on a red background", "species", "cat", True),
        ("a striped grey wild animal on a red background", "species", "wild animal", True),
        ("a striped grey cat on a red background", "species", "dog", False),
        ("a plain white dog with brown eyes", "fur", "white", True),
        ("a plain white dog with brown eyes", "fur", "brown", False),
        ("a plain dog with brown eyes", "fur", "brown", False),
    ],
)
def test_what_a_caption_mentions(said, kind, wanted, right):
    assert mentions(said, kind, wanted) == right


def test_malformed_boxes_are_none():
    assert boxes_in("<loc0001> nose") == {} and set(boxes_in(f"{box_to_tokens((0, 0, 1, 1))} nose")) == {"nose"}


def test_overlap():
    a = torch.zeros(4, 4, dtype=torch.bool)
    b = torch.zeros(4, 4, dtype=torch.bool)
    a[:2] = True
    b[1:3] = True
    assert overlap(a, b) == pytest.approx(1 / 3)
