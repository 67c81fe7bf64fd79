"""Synthetic faces: the same for the same seed, only possible ones, and parts where the image shows them."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.drawing import attributes_of
from helpers.data.toy_faces import (
    BACKGROUNDS,
    EYES,
    FURS,
    PATTERNS,
    SPECIES,
    draw_face,
    face_boxes,
    face_mask,
    sample_attributes,
    toy_attributes,
)

SEEDS = st.integers(0, 2**32 - 1)


def face(seed=0, **fixed):
    return sample_attributes(np.random.default_rng(seed), **fixed)


def with_look(attributes, **look):
    return dataclasses.replace(attributes, look=dataclasses.replace(attributes.look, **look))


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others():
    first, same, other = (toy_attributes(12, seed) for seed in (5, 5, 6))
    assert first == same
    assert all(np.array_equal(draw_face(a), draw_face(b)) for a, b in zip(first, same))
    assert not any(np.array_equal(draw_face(a), draw_face(b)) for a, b in zip(first, other))


@given(SEEDS, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_a_smaller_set_is_the_beginning_of_a_larger_one(seed, a, b):
    small, large = sorted((a, b))
    assert toy_attributes(large, seed)[:small] == toy_attributes(small, seed)


def test_species_take_turns_and_everything_that_can_be_named_occurs():
    faces = toy_attributes(600, 0)
    assert [attributes.species for attributes in faces] == list(SPECIES) * 200
    for name, values in (("fur", FURS), ("eyes", EYES), ("pattern", PATTERNS), ("background", BACKGROUNDS)):
        assert {getattr(attributes, name) for attributes in faces} == set(values)
    assert 0.2 < np.mean([attributes.tongue for attributes in faces[1::3]]) < 0.8
    assert 0.1 < np.mean([attributes.mane for attributes in faces[2::3]]) < 0.6


def test_splits_and_seeds_share_no_face():
    faces = []
    for split, seed in itertools.product(("train", "val"), (0, 1)):
        faces += attributes_of(split, 50, seed)
    assert len({attributes.look.texture for attributes in faces}) == 200


@given(SEEDS)
@settings(max_examples=300, deadline=None)
def test_no_face_is_impossible(seed):
    attributes = face(seed)
    assert not attributes.mane or (attributes.species, attributes.pattern) == ("wild", "plain")
    assert not attributes.tongue or attributes.species == "dog"
    assert (attributes.species, attributes.pattern) != ("wild", "patched")


FIXED = st.fixed_dictionaries(
    {},
    optional={
        "species": st.sampled_from(SPECIES),
        "fur": st.sampled_from(list(FURS)),
        "eyes": st.sampled_from(list(EYES)),
        "pattern": st.sampled_from(PATTERNS),
        "background": st.sampled_from(list(BACKGROUNDS)),
    },
)


@pytest.mark.parametrize("part,species", [("mane", "wild"), ("tongue", "dog")])
def test_a_part_alone_brings_the_species_that_has_it(part, species):
    assert {face(seed, **{part: True}).species for seed in range(20)} == {species}


@given(SEEDS, FIXED)
@settings(max_examples=300, deadline=None)
def test_fixed_attributes_are_kept_or_refused_never_changed(seed, fixed):
    if fixed.get("species") == "wild" and fixed.get("pattern") == "patched":
        with pytest.raises(ValueError, match="never patched"):
            face(seed, **fixed)
        return
    attributes = face(seed, **fixed)  # where the species is free, one that can have the pattern
    assert {name: getattr(attributes, name) for name in fixed} == fixed


@pytest.mark.parametrize(
    "fixed, message",
    [
        ({"mane": True, "species": "cat"}, "a mane is drawn on plain wild animals only, not on a .* cat"),
        ({"mane": True, "species": "wild", "pattern": "striped"}, "not on a striped wild"),
        ({"tongue": True, "species": "cat"}, "a tongue is drawn on dogs only, not on a cat"),
        ({"species": "wild", "pattern": "patched"}, "never patched"),
        ({"species": "horse"}, "unknown species 'horse': choose one of cat, dog, wild"),
        ({"fur": "green"}, "unknown fur 'green': choose one of black"),
        ({"hat": "red"}, "unknown attribute 'hat': a drawn face has species"),
    ],
)
def test_what_is_never_drawn_is_refused_by_name(fixed, message):
    for seed in range(5):
        with pytest.raises(ValueError, match=message):
            face(seed, **fixed)


@pytest.mark.parametrize("size", [8, 33, 64, 128])
def test_images_are_uint8_of_the_requested_size(size):
    image = draw_face(face(), size)
    assert image.shape == (3, size, size) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert face_mask(face(), size).shape == (size, size)


def test_a_face_of_seven_pixels_is_refused():
    with pytest.raises(ValueError, match="at least 8 pixels a side, got size 7"):
        draw_face(face(), 7)


def test_small_images_are_antialiased_large_ones():
    """The same face at half the size is the average of its pixels, up to the edges of polygons."""
    for attributes in toy_attributes(6, 3):
        large = draw_face(attributes, 128).astype(float)
        small = draw_face(attributes, 64).astype(float)
        assert np.abs(large.reshape(3, 64, 2, 64, 2).mean((2, 4)) - small).mean() < 4


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_boxes_lie_inside_the_image_and_in_each_other(seed):
    boxes = face_boxes(face(seed))
    for x0, y0, x1, y1 in boxes.values():
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
    left = boxes["left eye"]
    right = boxes["right eye"]
    nose = boxes["nose"]
    assert left[2] < right[0] and left[0] < nose[0] and nose[2] < right[2]  # as seen
    x0, y0, x1, y1 = boxes["face"]
    for part in (left, right, nose):
        assert x0 < part[0] and y0 < part[1] and part[2] < x1 and part[3] < y1


def test_eye_boxes_hold_pixels_of_the_eyes_colour_and_the_rest_of_the_face_does_not():
    for attributes in toy_attributes(60, 8):
        image = draw_face(attributes, 128).astype(int)
        near = np.abs(image - np.array(attributes.look.eyes)[:, None, None]).max(0) <= 3  # (128, 128)
        for part in ("left eye", "right eye"):
            x0, y0, x1, y1 = (round(128 * value) for value in face_boxes(attributes)[part])
            assert near[y0:y1, x0:x1].mean() > 0.1, (attributes, part)
            near[y0:y1, x0:x1] = False
        if attributes.eyes in ("green", "blue"):  # no fur has these; of a background only the head's surroundings do
            assert near[face_mask(attributes, 128)].mean() < 0.002, attributes


def test_the_mask_is_the_head_without_background_and_body():
    """Another background leaves every pixel inside the mask alone, up to the edge."""
    for attributes in toy_attributes(12, 4):
        mask = face_mask(attributes)
        assert mask.dtype == bool and 0.15 < mask.mean() < 0.75
        other = with_look(attributes, background=(255, 0, 255), background_far=(255, 0, 255))
        changed = (draw_face(attributes) != draw_face(other)).any(0)
        assert (changed & mask).mean() < 0.05 and changed[~mask].mean() > 0.5
        x0, y0, x1, y1 = face_boxes(attributes)["face"]
        assert mask[round(32 * (y0 + y1)), round(32 * (x0 + x1))]


def test_tongue_mane_and_pattern_change_the_image():
    dog = face(1, species="dog", tongue=False)
    wild = face(2, species="wild", pattern="plain", mane=False)
    assert (draw_face(dog) != draw_face(dataclasses.replace(dog, tongue=True))).any()
    lion = dataclasses.replace(wild, mane=True)
    assert face_mask(lion).sum() > 1.15 * face_mask(wild).sum()
    for species in SPECIES:
        plain = face(3, species=species, pattern="plain", mane=False)
        patterns = PATTERNS if species != "wild" else PATTERNS[:3]
        images = [draw_face(dataclasses.replace(plain, pattern=pattern)).tobytes() for pattern in patterns]
        assert len(set(images)) == len(patterns)


def test_shades_vary_around_their_names_and_names_do_not_touch():
    """No two faces of one fur have one colour, yet the nearest colour of another name is further than a rounding."""
    rng = np.random.default_rng(0)
    furs = {name: [sample_attributes(rng, species="cat", fur=name).look.fur for _ in range(60)] for name in FURS}
    assert all(len(set(shades)) > 15 for shades in furs.values())
    shades = {name: np.array(values, float) for name, values in furs.items()}
    for a in FURS:
        for b in FURS:
            if a != b:
                assert np.linalg.norm(shades[a][:, None] - shades[b], axis=-1).min() > 15, (a, b)
