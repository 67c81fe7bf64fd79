"""Spelling: every word of the prose and of the docstrings is English, or in the list of the course's own words."""

from pathlib import Path

import pytest

from pages.prose import docstrings, split_words, texts

spellchecker = pytest.importorskip("spellchecker", reason="pyspellchecker is not installed")
WORD_LIST = Path(__file__).with_name("words.txt")


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    """Every word that the course writes, and a place where it does."""
    places: dict[str, str] = {}
    for place, text in [*texts().items(), *docstrings()]:
        for word in split_words(text):
            places.setdefault(_bare(word), place)
    return places


@pytest.fixture(scope="module")
def unknown(written: dict[str, str]) -> dict[str, str]:
    """Those that no English dictionary has; abbreviations in capitals and single letters are left alone."""
    english = spellchecker.SpellChecker(language="en")
    checked = {word: place for word, place in written.items() if len(word) > 2 and not word.isupper()}
    missing = english.unknown(checked)  # lower case
    return {word: place for word, place in checked.items() if word.lower() in missing}


def _bare(word: str) -> str:
    return word.replace("’", "'").removesuffix("'s")


def test_every_word_is_known(unknown: dict[str, str]) -> None:
    listed = set(WORD_LIST.read_text(encoding="utf-8").split())
    wrong = {word: place for word, place in unknown.items() if word not in listed and word.lower() not in listed}
    assert not wrong, f"misspelt, or new: then add it to {WORD_LIST.name}: {wrong}"


def test_the_list_holds_nothing_that_is_not_needed(unknown: dict[str, str]) -> None:
    listed = WORD_LIST.read_text(encoding="utf-8").split()
    assert listed == sorted(set(listed), key=lambda word: (word.lower(), word)), "sorted, each word once"
    needed = {*unknown, *map(str.lower, unknown)}
    assert not [word for word in listed if word not in needed], "nobody writes these any more"


def test_a_slip_would_be_noticed() -> None:
    english = spellchecker.SpellChecker(language="en")
    assert english.unknown(["nosie", "pictrue", "noise", "picture"]) == {"nosie", "pictrue"}
