"""Boxes and masks as tokens."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.vlm.boxes import Box, Detection, box_to_tokens, crop_mask, mask_to_tokens, parse, paste_mask

sides = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: abs(pair[0] - pair[1]) > 0.02).map(sorted)


@given(sides, sides, st.sampled_from([128, 1023]))
def test_a_box_survives_as_tokens(x, y, grid):
    box = Box(x[0], y[0], x[1], y[1])
    (detection,) = parse(box_to_tokens(box, grid) + " cat")
    assert detection.name == "cat"
    assert max(abs(a - b) for a, b in zip(box, detection.box, strict=True)) <= 0.5 / grid + 0.5 / 1023 + 1e-6


def test_y_comes_before_x():
    assert box_to_tokens((0.0, 0.25, 0.5, 1.0)) == "<loc0256><loc0000><loc1023><loc0512>"


def test_several_objects_and_their_masks():
    codes = tuple(range(16))
    answer = (
        f"{box_to_tokens((0, 0, 0.5, 0.5))}{mask_to_tokens(codes)} face ; {box_to_tokens((0.5, 0.5, 1, 1))} left eye"
    )
    face, eye = parse(answer)
    assert (face.name, face.codes, eye.name, eye.codes) == ("face", codes, "left eye", None)
    assert parse("") == []


@pytest.mark.parametrize(
    ("first", "second", "iou"),
    [
        (Box(0, 0, 1, 1), Box(0, 0, 1, 1), 1),
        (Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1), 0),
        (Box(0, 0, 0.5, 1), Box(0, 0, 1, 1), 0.5),
        (Box(0, 0, 0.6, 0.6), Box(0.3, 0.3, 0.9, 0.9), 0.09 / 0.63),
    ],
)
def test_intersection_over_union(first, second, iou):
    assert first.iou(second) == pytest.approx(iou) == second.iou(first)


def test_a_mask_comes_back_to_its_place():
    mask = torch.zeros(48, 64)
    mask[12:36, 20:50] = 1
    mask[20:30, 30:40] = 0
    box = Box(20 / 64, 12 / 48, 50 / 64, 36 / 48)
    pasted = paste_mask(crop_mask(mask, box), box, 48, 64)
    assert pasted.shape == mask.shape
    assert ((pasted > 0.5) != (mask > 0.5)).float().mean() < 0.01
    assert not pasted[:12].any() and not pasted[:, 50:].any()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("<loc0001><loc0002><loc0003> cat", "has 3 <loc> tokens, a box has 4"),
        ("<loc0001><loc0002><loc0003><loc0004><loc0005> cat", "has 5 <loc> tokens"),
        ("cat", "has 0 <loc> tokens"),
        ("cat <loc0001><loc0002><loc0003><loc0004>", "is not an object"),
        ("<loc0001><loc0002><loc0003><loc4000> cat", "a <loc> above 1023"),
        ("<loc0500><loc0002><loc0300><loc0400> cat", "an empty box"),
        ("<loc0001><loc0002><loc0003><loc0004><seg001><seg002> cat", "has 2 <seg> tokens, a mask has 16"),
        (box_to_tokens((0, 0, 1, 1)) + "<seg128>" * 16 + " cat", "a <seg> above 127"),
    ],
)
def test_an_answer_that_is_no_list_of_boxes(answer, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse(answer)


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0, 1.2, 1), (-0.1, 0, 1, 1), (0, 0.9, 1, 0.1)])
def test_an_invalid_box_is_refused(box):
    with pytest.raises(ValueError, match="a box is 0 <= x0 < x1 <= 1"):
        box_to_tokens(box)


def test_an_invalid_mask_is_refused():
    with pytest.raises(ValueError, match="a mask is 16 codes in 0..127"):
        mask_to_tokens([1, 2, 3])
    assert isinstance(Detection("cat", Box(0, 0, 1, 1)).codes, type(None))
