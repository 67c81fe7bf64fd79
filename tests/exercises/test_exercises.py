"""Exercises: a blank fails, the solution passes, typical mistakes get their explanation, and nonsense is refused."""

import pytest
import torch

from benchmarks.exercises import answers, every_exercise, mistakes_recognised, weight
from helpers.exercises import check
from helpers.exercises.checking import Wrong, as_number, as_tensor, call, close, exercises
from pages.execute import NOTEBOOKS, notebooks

EVERY = list(every_exercise())
NUMBERS = [entry.number for entry, *_ in EVERY]
each = pytest.mark.parametrize(("entry", "blank", "solution"), EVERY, ids=NUMBERS)


@each
def test_the_blank_fails_and_the_solution_passes(entry, blank, solution) -> None:
    assert blank is not None, "the notebook has no cell for this exercise"
    assert blank.state == "blank", blank
    assert solution is not None, "the solutions lack this exercise"
    assert solution.state == "right", solution


@each
def test_typical_mistakes_get_their_explanation(entry, blank, solution) -> None:
    assert len(entry.mistakes) >= 2
    recognised = dict(zip(entry.mistakes, mistakes_recognised(entry), strict=True))
    missed = [text for text in recognised if not recognised[text]]
    assert not missed, {text: check(entry.number, entry.mistakes[text]) for text in missed}


@each
@pytest.mark.parametrize("nonsense", ["many", [1, 2], lambda *args: "many", lambda: 0, torch.zeros(0)])
def test_nonsense_is_refused_with_an_explanation(entry, blank, solution, nonsense) -> None:
    verdict = check(entry.number, nonsense)
    assert verdict.state == "wrong" and len(verdict.text) > 30


@pytest.mark.parametrize("path", [path for path in notebooks() if path.parent == NOTEBOOKS], ids=lambda path: path.stem)
def test_every_exercise_of_a_notebook_has_a_judge(path) -> None:
    assert sorted(answers(path)) == list(exercises(path.stem[:2]))
    fewest = 2 if path.stem.startswith("00") else 4  # the first notebook only shows how exercises work
    assert fewest <= len(answers(path)) <= 6


def test_an_exercise_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no exercise 02\.99; this notebook has 02\.1, "):
        check("02.99", 1)
    with pytest.raises(ValueError, match="notebook '99' has no exercises"):
        check("99.1", 1)


def test_a_verdict_reads_in_a_terminal_and_on_a_page() -> None:
    verdict = check("02.1", "a < b")
    assert repr(verdict).startswith("\N{BALLOT X} 02.1 not yet: ") and "a &lt; b" in verdict._repr_html_()


def test_an_error_in_the_answer_is_reported_with_its_line() -> None:
    def broken(x):
        return x.nothing

    with pytest.raises(Wrong, match=r"stopped with AttributeError: .*in the line `return x\.nothing`"):
        call(broken, 3)


def test_other_values_than_numbers_and_tensors_are_refused() -> None:
    like = torch.zeros(2, 3)
    for wrong, message in [
        (torch.zeros(2), r"\(2,\); it should be \(2, 3\)"),
        (like.long(), "int64"),
        (7, "It returned a value of type int: 7"),
    ]:
        with pytest.raises(Wrong, match=message):
            as_tensor(wrong, like)
    with pytest.raises(Wrong, match="It got a value of type list"):
        as_number([1])
    assert as_number(torch.tensor(2)) == 2 and close(1, torch.tensor(1.00001)) and not close([1], 1)


def test_the_size_of_a_page_counts_every_image_once(tmp_path) -> None:
    (tmp_path / "_images").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_images" / "one.png").write_bytes(bytes(1000))
    page = tmp_path / "notebooks" / "page.html"
    page.write_text('<img src="../_images/one.png"><img src="../_images/one.png">')
    assert weight(page) == 1000 + page.stat().st_size
