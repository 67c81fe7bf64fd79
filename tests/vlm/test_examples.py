"""Training examples of the tiny model, and the vocabulary that they need."""

import numpy as np
import pytest
import torch

from helpers.data import load_faces
from helpers.data.toy_faces import face_boxes, face_mask
from helpers.vlm.boxes import Box, parse, paste_mask
from helpers.vlm.examples import (
    GRID,
    all_texts,
    crop_face_masks,
    detection_example,
    face_box,
    mask_to_box,
    sample_examples,
    segmentation_example,
)
from helpers.vlm.processor import Processor, Tokenizer
from helpers.vlm.train import EXAMPLES_PER_IMAGE, GRID_EVERY, sample_training_data


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces("toy-faces", "train", 64, limit=60, cache_dir=tmp_path_factory.mktemp("cache"), progress=False)


def test_boxes_are_accurate_to_half_a_pixel(faces):
    for face in faces.attributes[:10]:
        for detection in parse(detection_example(face).answer):
            true = Box(*face_boxes(face)[detection.name])
            assert max(abs(a - b) for a, b in zip(true, detection.box, strict=True)) <= 0.5 / GRID + 0.001
            assert true.iou(detection.box) > 0.75


def test_the_mask_lies_in_its_box(faces):
    for face, mask in zip(faces.attributes[:5], crop_face_masks(faces.attributes[:5]), strict=True):
        (detection,) = parse(segmentation_example(face, range(16)).answer)
        true = torch.from_numpy(face_mask(face, 64))
        assert detection.codes == tuple(range(16)) and detection.box.iou(face_box(face)) > 0.95
        pasted = paste_mask(mask, detection.box, 64, 64) > 0.5
        assert (pasted & true).sum() / (pasted | true).sum() > 0.95


def test_the_bounding_box_of_a_mask():
    mask = torch.zeros(8, 16, dtype=torch.bool)
    mask[2:5, 4:12] = True
    assert mask_to_box(mask) == Box(4 / 16, 2 / 8, 12 / 16, 5 / 8)


def test_the_vocabulary_covers_every_example(faces):
    tokenizer = Tokenizer.from_texts(all_texts(faces.attributes))
    unknown = tokenizer.tokenizer.token_to_id("<unk>")
    codes = torch.zeros(60, 16, dtype=torch.int64)
    images, examples, labels = sample_training_data(faces, codes, 40, np.random.default_rng(0))
    assert images.shape == (40, 3, 64, 64) and len(examples) == 40 * EXAMPLES_PER_IMAGE and len(labels) == 40
    categories = {example.category for example in examples}
    assert categories >= {"caption", "detect", "segment", "yes or no", "species", "fur", "pattern", "counting", "place"}
    from_grids = sum(example.category in ("counting", "place") for example in examples)
    assert from_grids == EXAMPLES_PER_IMAGE * len(range(0, 40, GRID_EVERY))
    for example in examples:
        for text in (example.prompt + "\n", example.answer):
            ids = tokenizer(text)
            assert unknown not in ids, text
            assert tokenizer.decode(ids) == text


def test_the_same_generator_gives_the_same_examples(faces):
    first, second = (sample_examples(faces.attributes[0], [0] * 16, np.random.default_rng(5), 4) for _ in range(2))
    assert first == second and len({example.category for example in first}) == 4


def test_rows_of_a_batch(faces):
    tokenizer = Tokenizer.from_texts(all_texts(faces.attributes))
    processor = Processor(tokenizer, 64, 64)
    batch = processor([faces.tensor(slice(0, 1))[0]] * 2, ["caption en", "detect nose"], ["a cat", "a"])
    assert batch.ids.shape == batch.attention_mask.shape == batch.suffix.shape
    assert (batch.ids[:, :64] == tokenizer.image_token_id).all() and (batch.ids[:, 64] == tokenizer.bos_token_id).all()
    assert tokenizer.decode(batch.ids[0][batch.suffix[0]]) == "a cat"
    assert batch.ids[0][batch.suffix[0]][-1] == tokenizer.eos_token_id
    assert (batch.ids[~batch.attention_mask] == tokenizer.pad_token_id).all() and not batch.suffix[
        ~batch.attention_mask
    ].any()
    reloaded = Tokenizer.from_json(tokenizer.to_json())
    assert reloaded("caption en\n") == tokenizer("caption en\n") and len(reloaded) == len(tokenizer)
