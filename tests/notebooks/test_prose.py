"""The prose is plain English in the field's terms, and the code in the notebooks uses the field's names.

`phrases.txt` lists what the course does not say, each with its reason and what to write instead.
"""

import re
from pathlib import Path

import pytest

from benchmarks.house import FORBIDDEN, bound_names
from pages.execute import NOTEBOOKS, notebooks
from pages.prose import bracket_share, code_cells, plain, sections, split_words, texts

TEXTS = texts()
NOTEBOOK_PATHS = {path.stem: path for path in notebooks()}
LESSONS = [path.stem for path in notebooks() if path.parent == NOTEBOOKS]
MOST_IN_BRACKETS = 1 / 25  # of the words: what matters stands in a sentence of its own
FEWEST_OPENING_WORDS = 12  # a section says why before its first cell or formula
LONGEST_LINE = 88  # of code: a page cuts none
# The field says "image"; "picture" is for an informal sentence now and then.
MOST_PICTURES = 1 / 5
# Names that hold anything, besides those that the packages avoid.
EMPTY_NAMES = (*FORBIDDEN, "some", "dice")
ANSWERS = ("answer", "answers")  # to an exercise, or to a question about an image


def phrases() -> list[tuple[re.Pattern[str], str]]:
    """The phrases that are not used, each with the reason."""
    lines = Path(__file__).with_name("phrases.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.rsplit(" | ", 1) for line in lines if line and not line.startswith("#")]
    return [(re.compile(expression, re.IGNORECASE), reason) for expression, reason in entries]


PHRASES = phrases()


def banned(text: str) -> list[str]:
    """What a text says that the course does not say, with the reason."""
    prose = plain(text)
    return [f"{match[0]}: {reason}" for phrase, reason in PHRASES for match in phrase.finditer(prose)]


def empty_names(source: str) -> list[str]:
    """Names bound by a cell that do not say what they hold."""
    names = {name.strip("_").lower() for _, name in bound_names(source)}
    return sorted(
        name for name in names if name not in ANSWERS and (name in EMPTY_NAMES or name.removesuffix("s") in EMPTY_NAMES)
    )


def pictures_for_images(text: str) -> float:
    """How often the text says "picture", as a share of that and "image"."""
    words = [word.lower().removesuffix("s") for word in split_words(text)]
    pictures = words.count("picture")
    return pictures / max(1, pictures + words.count("image"))


@pytest.mark.parametrize("name", TEXTS)
def test_no_phrase_of_a_private_language(name: str) -> None:
    assert banned(TEXTS[name]) == []


@pytest.mark.parametrize("name", TEXTS)
def test_little_stands_in_brackets(name: str) -> None:
    assert bracket_share(TEXTS[name]) <= MOST_IN_BRACKETS


@pytest.mark.parametrize("name", TEXTS)
def test_the_field_says_image(name: str) -> None:
    assert pictures_for_images(TEXTS[name]) <= MOST_PICTURES


@pytest.mark.parametrize("name", LESSONS)
def test_every_section_begins_with_a_reason(name: str) -> None:
    openings = sections(NOTEBOOK_PATHS[name])
    assert len(openings) >= 4
    short = {heading for heading, text in openings.items() if len(split_words(text)) < FEWEST_OPENING_WORDS}
    assert not short, "say why before the first cell or formula"


@pytest.mark.parametrize("name", NOTEBOOK_PATHS)
def test_names_in_cells_say_what_they_hold(name: str) -> None:
    assert [names for source in code_cells(NOTEBOOK_PATHS[name]) if (names := empty_names(source))] == []


@pytest.mark.parametrize("name", NOTEBOOK_PATHS)
def test_a_page_cuts_no_line_of_code(name: str) -> None:
    lines = [line for source in code_cells(NOTEBOOK_PATHS[name]) for line in source.splitlines()]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []


# --- each measure notices a fault -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence",
    [
        "Only the residual blocks are told the time.",
        "The network asks again.",
        "Afterwards you can read a schedule.",
        "The predecessor of this course did so.",
        "Mean and spread agree on both axes, and the spread is small.",
        "Show the drawn faces.",
    ],
)
def test_a_phrase_is_noticed(sentence: str) -> None:
    assert len(banned(sentence)) >= 1


@pytest.mark.parametrize(
    "sentence",
    ["The network is conditioned on the timestep.", "Noise spreads over the image.", "Run `told` in $hears$."],
)
def test_plain_english_is_free(sentence: str) -> None:
    assert banned(sentence) == []


def test_brackets_are_counted() -> None:
    assert bracket_share("Two words (and three more) here, $f(x)$ and [a link](address)") == pytest.approx(3 / 9)


def test_an_empty_name_is_noticed() -> None:
    assert empty_names("told, x = f()\nfor one in faces: some = answer = 1") == ["one", "some", "told"]


def test_images_are_called_images() -> None:
    assert pictures_for_images("An image, two images and a picture.") == pytest.approx(1 / 3)
