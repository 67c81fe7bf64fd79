"""The tokenizer: byte for byte CLIP's, and right for any text there is."""

import json
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.text.bpe import (
    BytePairTokenizer,
    bytes_to_unicode,
    merge_pair,
    published_merges,
    split_words,
    to_symbols,
)
from helpers.text.train import learn_merges

CORPUS = ["the cat sat on the mat", "the cats sat"] * 2
TOKENIZER = BytePairTokenizer(list(learn_merges(CORPUS, 40)), length=16)
TEXTS = [
    "a photo of a cat",
    "A  Cat's   eyes... they're 123 blue! naïve café 日本語 😀 don't",
    "",
    "   ",
    "it's\n\ttwo",
    "ǅ İstanbul ﬁne",
    "x" * 300,
    "under_score a²b",
    "<|endoftext|> x",
    "e\u0301 é",
]


def test_the_published_vocabulary_follows_from_the_merges():
    vocabulary = Path(os.environ.get("CLIP_TOKENIZER_DIR", ".")) / "clip_vocab.json"
    if not vocabulary.is_file():
        pytest.skip("CLIP's published vocabulary is not here: set CLIP_TOKENIZER_DIR to a folder with clip_vocab.json")
    ours = BytePairTokenizer.from_file(published_merges())
    assert ours.ids == json.loads(vocabulary.read_text())
    assert ours(["a photo of a cat"])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.parametrize("text", TEXTS)
def test_the_same_numbers_as_transformers(text):
    from transformers import CLIPTokenizer

    ours = BytePairTokenizer.from_file(published_merges())
    theirs = CLIPTokenizer(vocab=ours.ids, merges=ours.merges, model_max_length=77)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = ours([text])[0].tolist()
    assert row == theirs([text], padding="max_length", truncation=True, max_length=77)["input_ids"][0]


def test_the_same_numbers_as_transformers_with_merges_of_our_own():
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer(vocab=TOKENIZER.ids, merges=TOKENIZER.merges, model_max_length=16)
    for text in ("the cat sat", "a mat on cats", "the dog!"):
        expected = theirs([text], padding="max_length", truncation=True, max_length=16)["input_ids"][0]
        assert TOKENIZER([text])[0].tolist() == expected


@given(st.text(max_size=40))
def test_nothing_is_unknown_and_nothing_is_lost(text):
    pieces = TOKENIZER.split(text)
    assert all(piece in TOKENIZER.ids for piece in pieces)
    assert TOKENIZER.decode([TOKENIZER.ids[piece] for piece in pieces]).split() == " ".join(split_words(text)).split()


def test_every_byte_has_a_letter_of_its_own():
    table = bytes_to_unicode()
    assert len(set(table.values())) == 256 and all(letter.isprintable() for letter in table.values())
    assert to_symbols("cat") == ["c", "a", "t</w>"] and len(to_symbols("é")) == 2


def test_merges_are_the_most_frequent_pairs():
    first = next(learn_merges(["aab aab ab"], 1))
    assert first == ("a", "b</w>")  # three times; a, a twice
    assert merge_pair(["a", "b", "a", "b"], ("a", "b")) == ["ab", "ab"]
    assert list(learn_merges(["abc"], 9)) == []  # seen once: not worth a token


def test_frequent_words_become_one_token():
    assert TOKENIZER.split("the cat") == ["the</w>", "cat</w>"]
    assert len(TOKENIZER.split("dog")) == 3


def test_a_long_text_is_truncated_with_a_warning_that_quotes_what_is_lost():
    with pytest.warns(UserWarning, match=r"holds 14 tokens, this one has 16; its end was cut off: 'sat mat'"):
        row = TOKENIZER(["the cat " * 7 + "sat mat"])[0]
    assert row[0] == TOKENIZER.bos_id and row[-1] == TOKENIZER.eos_id


def test_padding():
    assert TOKENIZER(["cat"])[0].tolist()[2:] == [TOKENIZER.eos_id] * 14
    zero = BytePairTokenizer(TOKENIZER.merges, length=5, padding=0)
    assert zero(["cat"])[0].tolist()[2:] == [zero.eos_id, 0, 0]
    assert zero.decode(zero(["cat"])[0]) == "cat"
    assert BytePairTokenizer.from_json(zero.to_json()).pad_id == 0


def test_a_tokenizer_that_transformers_saved_today(tmp_path):
    """Its newer versions write tokenizer.json and no merges.txt."""
    from transformers import CLIPTokenizer

    CLIPTokenizer(vocab=TOKENIZER.ids, merges=TOKENIZER.merges, model_max_length=16).save_pretrained(tmp_path)
    assert not (tmp_path / "merges.txt").exists()
    assert BytePairTokenizer.from_file(tmp_path).ids == TOKENIZER.ids


def test_it_survives_being_written_down():
    loaded = BytePairTokenizer.from_json(TOKENIZER.to_json())
    assert loaded.ids == TOKENIZER.ids and (loaded(CORPUS) == TOKENIZER(CORPUS)).all()
