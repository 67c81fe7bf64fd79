"""What the tiny model is taught, and the words that it needs for it."""

import numpy as np
import pytest
import torch

from helpers.data import load_faces
from helpers.data.toy_faces import face_boxes, face_mask
from helpers.vlm.boxes import Box, parse, pasted
from helpers.vlm.examples import GRID, all_texts, around, cut_masks, face_box, located, outlined, some_lessons
from helpers.vlm.processor import Processor, Tokenizer
from helpers.vlm.train import COUNTED, EACH, drawn_lessons


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "train", 64, limit=60, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def test_boxes_are_told_to_half_a_pixel(faces):
    for face in faces.attributes[:10]:
        for found in parse(located(face).answer):
            true = Box(*face_boxes(face)[found.name])
            assert max(abs(a - b) for a, b in zip(true, found.box, strict=True)) <= 0.5 / GRID + 0.001
            assert true.iou(found.box) > 0.75


def test_the_mask_lies_in_its_box(faces):
    for face, mask in zip(faces.attributes[:5], cut_masks(faces.attributes[:5]), strict=True):
        (found,) = parse(outlined(face, range(16)).answer)
        true = torch.from_numpy(face_mask(face, 64))
        assert found.codes == tuple(range(16)) and found.box.iou(face_box(face)) > 0.95
        again = pasted(mask, found.box, 64, 64) > 0.5
        assert (again & true).sum() / (again | true).sum() > 0.95


def test_the_smallest_box_around():
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[2:5, 4:12] = True
    assert around(mask) == Box(4 / 16, 2 / 8, 12 / 16, 5 / 8)


def test_every_lesson_can_be_told_in_the_tokenizers_words(faces):
    tokenizer = Tokenizer.of_words(all_texts(faces.attributes))
    unknown = tokenizer.tokenizer.token_to_id("<unk>")
    codes = torch.zeros(60, 16, dtype=torch.int64)
    pictures, lessons, labels = drawn_lessons(faces, codes, 40, np.random.default_rng(0))
    assert pictures.shape == (40, 3, 64, 64) and len(lessons) == 40 * EACH and len(labels) == 40
    kinds = {lesson.kind for lesson in lessons}
    assert kinds >= {"caption", "detect", "segment", "yes or no", "species", "fur", "pattern", "counting", "place"}
    assert sum(lesson.kind in ("counting", "place") for lesson in lessons) == EACH * len(range(0, 40, COUNTED))
    for lesson in lessons:
        for text in (lesson.prompt + "\n", lesson.answer):
            ids = tokenizer(text)
            assert unknown not in ids, text
            assert tokenizer.decode(ids) == text


def test_the_same_generator_gives_the_same_lessons(faces):
    one, other = (some_lessons(faces.attributes[0], [0] * 16, np.random.default_rng(5), 4) for _ in range(2))
    assert one == other and len({lesson.kind for lesson in one}) == 4


def test_rows_of_a_batch(faces):
    tokenizer = Tokenizer.of_words(all_texts(faces.attributes))
    processor = Processor(tokenizer, 64, 64)
    batch = processor([faces.tensor(slice(0, 1))[0]] * 2, ["caption en", "detect nose"], ["a cat", "a"])
    assert batch.ids.shape == batch.real.shape == batch.suffix.shape
    assert (batch.ids[:, :64] == tokenizer.image).all() and (batch.ids[:, 64] == tokenizer.start).all()
    assert tokenizer.decode(batch.ids[0][batch.suffix[0]]) == "a cat"
    assert batch.ids[0][batch.suffix[0]][-1] == tokenizer.end
    assert (batch.ids[~batch.real] == tokenizer.padding).all() and not batch.suffix[~batch.real].any()
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again("caption en\n") == tokenizer("caption en\n") and len(again) == len(tokenizer)
