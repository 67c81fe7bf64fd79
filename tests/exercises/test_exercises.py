"""Exercises: a blank fails, the solution passes, mistakes are told what is wrong, and nothing else falls through."""

import pytest
import torch

from benchmarks.exercises import answers, every_exercise, told_apart, weight
from helpers.exercises import check
from helpers.exercises.checking import Wrong, ask, close, exercises, number, tensor
from pages.execute import NOTEBOOKS, notebooks

EVERY = list(every_exercise())
each = pytest.mark.parametrize(("found", "blank", "solution"), EVERY, ids=[found.number for found, *_ in EVERY])


@each
def test_the_blank_fails_and_the_solution_passes(found, blank, solution) -> None:
    assert blank is not None, "the notebook has no cell for this exercise"
    assert blank.state == "blank", blank
    assert solution is not None, "the solutions lack this exercise"
    assert solution.state == "right", solution


@each
def test_typical_mistakes_are_told_what_is_wrong(found, blank, solution) -> None:
    assert len(found.mistakes) >= 2
    said = dict(zip(found.mistakes, told_apart(found), strict=True))
    assert all(said.values()), {words: check(found.number, found.mistakes[words]) for words in said if not said[words]}


@each
@pytest.mark.parametrize("nonsense", ["many", [1, 2], lambda *given: "many", lambda: 0, torch.zeros(0)])
def test_nonsense_is_refused_in_words(found, blank, solution, nonsense) -> None:
    verdict = check(found.number, nonsense)
    assert verdict.state == "wrong" and len(verdict.text) > 30


@pytest.mark.parametrize("path", [path for path in notebooks() if path.parent == NOTEBOOKS], ids=lambda path: path.stem)
def test_a_notebook_asks_what_is_judged(path) -> None:
    assert sorted(answers(path)) == list(exercises(path.stem[:2]))
    assert 4 <= len(answers(path)) <= 6


def test_an_exercise_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no exercise 02\.99; this notebook has 02\.1, "):
        check("02.99", 1)
    with pytest.raises(ValueError, match="notebook '99' has no exercises"):
        check("99.1", 1)


def test_a_verdict_reads_in_a_terminal_and_on_a_page() -> None:
    verdict = check("02.1", "a < b")
    assert repr(verdict).startswith("\N{BALLOT X} 02.1 not yet: ") and "a &lt; b" in verdict._repr_html_()


def test_an_error_in_the_answer_is_told_with_its_line() -> None:
    def broken(x):
        return x.nothing

    with pytest.raises(Wrong, match=r"stopped with AttributeError: .*in the line `return x\.nothing`"):
        ask(broken, 3)


def test_what_is_no_number_and_no_tensor_is_told() -> None:
    like = torch.zeros(2, 3)
    for wrong, words in [(torch.zeros(2), r"\(2,\); \(2, 3\)"), (like.long(), "int64"), (7, "it gave a int, 7")]:
        with pytest.raises(Wrong, match=words):
            tensor(wrong, like)
    with pytest.raises(Wrong, match="it got a list"):
        number([1])
    assert number(torch.tensor(2)) == 2 and close(1, torch.tensor(1.00001)) and not close([1], 1)


def test_a_page_weighs_its_text_and_every_picture_once(tmp_path) -> None:
    (tmp_path / "_images").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_images" / "one.png").write_bytes(bytes(1000))
    page = tmp_path / "notebooks" / "page.html"
    page.write_text('<img src="../_images/one.png"><img src="../_images/one.png">')
    assert weight(page) == 1000 + page.stat().st_size
