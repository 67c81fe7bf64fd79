"""Numbers in the prose: each is computed or printed by a cell of its notebook, or listed with where it comes from."""

import ast
import re
from pathlib import Path

import pytest

from pages.execute import NOTEBOOKS, notebooks
from pages.prose import computed, numbers, texts

LESSONS = [path for path in notebooks() if path.parent == NOTEBOOKS]
ELSEWHERE = Path(__file__).with_name("numbers.txt")
COUNTED = 15  # up to here a number is a count that the reader can see, or names a notebook; it is no result
YEAR = re.compile(r"(19|20)\d\d")
COMPUTED = re.compile(r"\d[\d,_]*(?:\.\d+)?")
SUM = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)


def elsewhere() -> dict[tuple[str, str], str]:
    """What numbers.txt says: (notebook, number) -> a sum that gives it, or its source in words."""
    lines = [line for line in ELSEWHERE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    rows = [tuple(part.strip() for part in line.split("|")) for line in lines]
    assert all(len(row) == 3 for row in rows), "notebook | number | a sum, or a source"
    assert len({row[:2] for row in rows}) == len(rows), "each number of a notebook once"
    return {(notebook, number): why for notebook, number, why in rows}


def value(number: str) -> float:
    return float(number.replace(",", "").replace("_", ""))


def told_by(number: str, known: set[float]) -> bool:
    """Whether a computed number is this one, when rounded as this one is; shares may be told in per cent."""
    half = 0.5 * 10.0 ** -len(number.partition(".")[2]) * (1 + 1e-9)
    return any(abs(scale * known_number - value(number)) <= half for known_number in known for scale in (1, 100))


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_known_numberis_computed_or_has_a_source(path: Path) -> None:
    known = {value(number) for number in COMPUTED.findall(computed(path))}
    listed = {number for notebook, number in elsewhere() if notebook == path.stem[:2]}
    for number in numbers(texts()[path.stem]):
        small = value(number) <= COUNTED and value(number) == int(value(number))
        if not (small or YEAR.fullmatch(number) or number in listed):
            assert told_by(number, known), f"no cell computes {number}: assert it, or list it in {ELSEWHERE.name}"


def test_sums_are_right_and_the_list_holds_nothing_that_nobody_says() -> None:
    every = texts()
    lessons = {path.stem[:2]: every[path.stem] for path in LESSONS}
    for (notebook, number), why in elsewhere().items():
        prose = lessons[notebook]
        assert number in numbers(prose), f"notebook {notebook} does not say {number} any more"
        result = _sum(why)
        assert why and (result is None or told_by(number, {result})), f"{why} is {result}, not {number}"


def _sum(text: str) -> float | None:
    """The value of a sum such as 64 * 64 * 3; None for words."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        return None
    return eval(text) if all(isinstance(node, SUM) for node in ast.walk(tree)) else None


def test_rounding_is_understood() -> None:
    assert told_by("0.46", {0.4567}) and told_by("46", {0.4567}) and not told_by("0.47", {0.4567})
    assert told_by("1,024", {1024.0}) and _sum("64 * 64 * 3") == 12288 and _sum("SD3, section 5") is None
