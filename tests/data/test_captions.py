"""Captions say what a face is, in English, with words that the tokenizer knows."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.captions import DETAILS, LENGTH, PADDING, VOCABULARY, caption, drop_details, tokenize
from helpers.data.toy_faces import sample_attributes, toy_attributes


def face(seed=0, **fixed):
    return sample_attributes(np.random.default_rng(seed), **fixed)


def test_captions_read_as_written_here():
    cat = face(species="cat", fur="orange", eyes="green", pattern="striped", background="blue")
    assert caption(cat) == "a striped orange cat with green eyes on a blue background"
    assert caption(cat, ["fur"]) == "an orange cat"
    assert caption(cat, []) == "a cat"
    dog = face(species="dog", fur="black", eyes="amber", pattern="patched", background="red", tongue=True)
    assert caption(dog) == "a patched black dog with amber eyes and its tongue out on a red background"
    assert caption(dog, ["extras"]) == "a dog with its tongue out"
    lion = face(species="wild", fur="cream", eyes="brown", mane=True, background="pink")
    assert caption(lion, ["extras", "eyes"]) == "a wild animal with brown eyes and a mane"


KEPT = st.lists(st.sampled_from(DETAILS), unique=True)


@given(st.integers(0, 2**32 - 1), KEPT)
@settings(max_examples=300, deadline=None)
def test_captions_are_english_and_say_what_was_kept(seed, keep):
    attributes = face(seed)
    text = caption(attributes, keep)
    tokens = text.split()
    for article, noun in re.findall(r"\b(an?) (\w+)", text):
        assert article == ("an" if noun[0] in "aeiou" else "a"), text
    assert ("wild animal" if attributes.species == "wild" else attributes.species) in text
    assert (f"{attributes.eyes} eyes" in text) == ("eyes" in keep)
    assert (f"on a {attributes.background} background" in text) == ("background" in keep)
    assert ("mane" in tokens) == ("extras" in keep and attributes.mane)
    assert ("tongue" in tokens) == ("extras" in keep and attributes.tongue)
    assert (attributes.pattern in tokens) == ("pattern" in keep)
    assert not set(keep).issuperset(DETAILS) or attributes.fur in tokens


@given(st.integers(0, 2**32 - 1), KEPT)
@settings(max_examples=200, deadline=None)
def test_every_caption_can_be_tokenized_and_read_back(seed, keep):
    text = caption(face(seed), keep)
    ids = tokenize([text])
    assert ids.shape == (1, LENGTH) and ids.dtype.is_signed and not ids.dtype.is_floating_point
    assert " ".join(VOCABULARY[i] for i in ids[0].tolist() if i) == text


def test_words_are_unique_and_padding_is_zero():
    assert len(set(VOCABULARY)) == len(VOCABULARY) and VOCABULARY[0] == PADDING
    assert set(tokenize([""])[0].tolist()) == {0}
    assert tokenize([]).shape == (0, LENGTH)


def test_capitals_commas_and_full_stops_do_not_matter():
    assert tokenize(["A striped, orange Cat."]).equal(tokenize(["a striped orange cat"]))


def test_unknown_words_and_long_captions_are_refused():
    with pytest.raises(
        ValueError, match="unknown word 'horse' .in 'a brown horse'.; captions of the faces use: .*cat.*purple"
    ):
        tokenize(["a cat", "a brown horse"])
    with pytest.raises(ValueError, match=re.escape(f"unknown word '{PADDING}'")):
        tokenize([PADDING])
    with pytest.raises(ValueError, match=f"at most {LENGTH} words, got {LENGTH + 1}"):
        tokenize(["cat " * (LENGTH + 1)])
    assert (tokenize(["cat " * LENGTH]) > 0).all()


def test_shortened_captions_drop_details_at_the_stated_rate():
    rng = np.random.default_rng(0)
    faces = toy_attributes(1500, 3)
    texts = [drop_details(attributes, rng, chance=0.3) for attributes in faces]
    kept = {
        "eyes": np.mean(["eyes" in text for text in texts]),
        "background": np.mean(["background" in text for text in texts]),
        "pattern": np.mean([attributes.pattern in text for attributes, text in zip(faces, texts)]),
    }
    assert all(0.65 < share < 0.75 for share in kept.values()), kept
    assert drop_details(faces[0], rng, chance=0.0) == caption(faces[0])
    assert drop_details(faces[0], rng, chance=1.0) == caption(faces[0], [])
    first = np.random.default_rng(7)
    second = np.random.default_rng(7)
    assert [drop_details(face, first) for face in faces[:30]] == [drop_details(face, second) for face in faces[:30]]
