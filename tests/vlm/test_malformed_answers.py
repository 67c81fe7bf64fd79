"""Answers of the vision-language model: one bad object costs neither the other objects nor the other images."""

import warnings

import pytest
import torch
from PIL import Image

from benchmarks.paligemma.reference import SMALL, TOKENIZER
from helpers.vlm.boxes import mask_to_tokens, parse
from helpers.vlm.mask_codes import MaskAutoencoder, MaskConfig
from helpers.vlm.paligemma import PaliGemmaModel
from helpers.vlm.pipeline import TASKS, PaliGemma

DOG = "<loc0100><loc0100><loc0200><loc0200> dog"
MASKED_DOG = DOG.replace(" dog", mask_to_tokens(range(16)) + " dog")
BAD = {
    "corners in the wrong order": ("<loc0500><loc0100><loc0400><loc0200> cat", "is an empty box"),
    "left after right": ("<loc0100><loc0900><loc0400><loc0200> cat", "is an empty box"),
    "no height": ("<loc0100><loc0100><loc0100><loc0200> thin", "is an empty box"),
    "no width": ("<loc0100><loc0200><loc0300><loc0200> thin", "is an empty box"),
    "cut off": ("<loc0100><loc0100>", "has 2 <loc> tokens, a box has 4"),
    "cut off in a token": ("<loc0100><loc0100><loc0200><loc02", "is not an object"),
    "five corners": ("<loc0100><loc0100><loc0200><loc0200><loc0300> cat", "has 5 <loc> tokens"),
    "beyond the image": ("<loc0100><loc0100><loc0200><loc4000> cat", "a <loc> above 1023"),
    "no box": ("a cat", "has 0 <loc> tokens"),
    "box behind the name": ("cat <loc0100><loc0100><loc0200><loc0200>", "is not an object"),
    "half a mask": ("<loc0100><loc0100><loc0200><loc0200><seg001><seg002> cat", "has 2 <seg> tokens"),
}
ROWS = pytest.mark.parametrize(("bad", "reason"), BAD.values(), ids=BAD)
pytestmark = pytest.mark.fault("foreign errors and rows", refused=True)


@pytest.fixture(scope="module")
def model() -> PaliGemma:
    torch.manual_seed(0)
    return PaliGemma(PaliGemmaModel(SMALL).eval(), TOKENIZER, MaskAutoencoder(MaskConfig.tiny()).eval(), TASKS)


@ROWS
@pytest.mark.parametrize("order", ["before", "after", "between"])
def test_good_objects_beside_a_bad_one_are_kept(bad, reason, order):
    parts = {"before": [DOG, bad], "after": [bad, DOG], "between": [DOG, bad, DOG]}[order]
    with pytest.warns(UserWarning, match=f"an object is left out: .*{reason}") as caught:
        detections = parse(" ; ".join(parts))
    assert [detection.name for detection in detections] == ["dog"] * parts.count(DOG) and len(caught) == 1
    assert detections[0].box == pytest.approx((100 / 1023, 100 / 1023, 200 / 1023, 200 / 1023))


@ROWS
def test_a_single_bad_object_is_refused_and_so_is_any_where_it_must_be_right(bad, reason):
    for answer, strict in ((bad, False), (f"{DOG} ; {bad}", True)):
        with pytest.raises(ValueError, match=reason):
            parse(answer, strict=strict)


@ROWS
def test_a_bad_answer_about_one_image_keeps_the_others(model, monkeypatch, bad, reason):
    monkeypatch.setattr(model, "generate", lambda *_, **__: [DOG, bad, DOG])
    with pytest.warns(UserWarning, match=f"the answer about image 1 cannot be read: .*{reason}"):
        objects = model.detect([torch.zeros(3, 8, 8)] * 3, "dog")
    assert [[detection.name for detection in of_image] for of_image in objects] == [["dog"], [], ["dog"]]


@ROWS
def test_a_bad_object_about_one_image_keeps_its_others(model, monkeypatch, bad, reason):
    monkeypatch.setattr(model, "generate", lambda *_, **__: [DOG, f"{DOG} ; {bad}", DOG])
    with pytest.warns(UserWarning, match=f"an object is left out: .*{reason}"):
        objects = model.detect([torch.zeros(3, 8, 8)] * 3, "dog")
    assert [[detection.name for detection in of_image] for of_image in objects] == [["dog"]] * 3


def test_a_box_without_a_mask_keeps_the_masks_of_the_others(model, monkeypatch):
    answers = [MASKED_DOG, DOG, f"{DOG} ; {MASKED_DOG}"]
    monkeypatch.setattr(model, "generate", lambda *_, **__: answers)
    with pytest.warns(UserWarning) as caught:
        segments = model.segment([torch.zeros(3, 8, 8)] * 3, "dog")
    assert [len(of_image) for of_image in segments] == [1, 0, 1]
    reports = [str(warning.message) for warning in caught]
    assert any("about image 1 cannot be read: the answer has a box of 'dog' but no mask" in text for text in reports)
    assert any("left out: the answer has a box of 'dog' but no mask" in text for text in reports)


def test_good_answers_are_read_without_a_word(model, monkeypatch):
    monkeypatch.setattr(model, "generate", lambda *_, **__: [DOG, "", f"{DOG} ; "])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [len(of_image) for of_image in model.detect([torch.zeros(3, 8, 8)] * 3, "dog")] == [1, 0, 1]


IMAGE = torch.zeros(3, 28, 28)


@pytest.mark.parametrize(
    ("images", "prompts", "options", "error", "message"),
    [
        ([IMAGE, IMAGE, "/nowhere.png"], ["caption en"] * 3, {}, FileNotFoundError, "no image at /nowhere.png"),
        ([IMAGE, IMAGE, None], ["caption en"] * 3, {}, TypeError, "got none"),
        ([IMAGE, IMAGE, IMAGE / 0], ["caption en"] * 3, {}, ValueError, "got up to nan"),
        ([IMAGE, IMAGE, IMAGE + 7], ["caption en"] * 3, {}, ValueError, "got up to 7"),
        ([IMAGE] * 3, ["caption en", "caption en", "answer en <pad>"], {}, ValueError, "must not contain <pad>"),
        ([IMAGE] * 3, ["caption en"] * 3, {"temperature": float("nan")}, ValueError, "temperature must be at least 0"),
        ([IMAGE] * 3, ["caption en"] * 3, {"temperature": -1.0}, ValueError, "temperature must be at least 0"),
        ([IMAGE] * 3, ["caption en"] * 3, {"top_p": 0.0}, ValueError, r"top_p in \(0, 1\]"),
        ([IMAGE] * 3, ["caption en"] * 3, {"top_p": float("nan")}, ValueError, r"top_p in \(0, 1\]"),
    ],
)
def test_what_is_wrong_with_a_later_batch_shows_before_the_first_is_answered(
    model, monkeypatch, images, prompts, options, error, message
):
    monkeypatch.setattr(model.model, "forward", lambda *_: pytest.fail("answered before the refusal"))
    monkeypatch.setattr("helpers.vlm.pipeline.generate", lambda *_, **__: pytest.fail("answered before the refusal"))
    with pytest.raises(error, match=message):
        model.generate(images, prompts, batch_size=1, **options)


def test_pillow_images_pass_that_check(model):
    from helpers.vlm.processor import check_image

    assert check_image(Image.new("L", (9, 9))) is None
