"""The house is in order: no import circles, no dense lines, and names that say what they hold."""

import subprocess
import sys

import pytest

from benchmarks import house

SOURCES = house.read_sources(*house.PACKAGES)


def test_no_modules_import_one_another() -> None:
    assert house.import_circles(SOURCES) == []


def test_parallel_assignments_are_rare() -> None:
    places = {path: lines for path, source in SOURCES.items() if (lines := house.parallel_assignments(source))}
    count = sum(map(len, places.values()))
    length = sum(len(source.splitlines()) for source in SOURCES.values())
    assert 1000 * count / length <= house.MOST_PARALLEL_ASSIGNMENTS, places


def test_comprehensions_with_two_loops_are_rare() -> None:
    places = {path: lines for path, source in SOURCES.items() if (lines := house.double_comprehensions(source))}
    assert sum(map(len, places.values())) <= house.MOST_DOUBLE_COMPREHENSIONS, places


@pytest.mark.parametrize("path", SOURCES)
def test_names_say_what_they_hold(path: str) -> None:
    assert house.forbidden_names(path, SOURCES[path]) == [], (
        "take the field's term: see the list in benchmarks/house.py"
    )


def test_every_exception_is_needed() -> None:
    """An exception that no file uses any more would hide the next name of that kind."""
    for pattern, name in house.ALLOWED_NAMES:
        bound = [source for path, source in SOURCES.items() if house.matches(pattern, path)]
        names = {found.strip("_") for source in bound for _, found in house.bound_names(source)}
        assert name in names, f"nothing is called {name} in {pattern}: take it out of ALLOWED_NAMES"


# --- each measure notices a fault -------------------------------------------------------------------------------------


def test_a_circle_is_noticed() -> None:
    two = {"helpers/a.py": "from helpers.b import f", "helpers/b.py": "def f():\n    from helpers import a"}
    assert house.import_circles(two) == [["helpers.a", "helpers.b"]]
    three = {"p/a.py": "from . import b", "p/b.py": "import p.c", "p/c.py": "from .a import x", "p/d.py": "import p.a"}
    assert house.import_circles(three) == [["p.a", "p.b", "p.c"]]
    assert house.import_circles({**three, "p/c.py": "import torch"}) == []


def test_a_package_is_its_init_file() -> None:
    sources = {"p/__init__.py": "from p.a import f", "p/a.py": "from p import g"}
    assert house.import_circles(sources) == [["p", "p.a"]]


def test_a_parallel_assignment_is_noticed() -> None:
    source = "a, b = f(), g()\nc, d = h()\na, b = b, a\nfor i, j in pairs: pass\nx = 1, 2"
    assert house.parallel_assignments(source) == [1, 3]


def test_a_double_comprehension_is_noticed() -> None:
    source = "a = [x for y in z for x in y]\nb = [[x for x in y] for y in z]\nc = {x: y for z in q for x, y in z}"
    assert house.double_comprehensions(source) == [1, 3]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("told = read()", "told"),
        ("def f(_pictures): pass", "_pictures"),
        ("lambda kind: 0", "kind"),
        ("def _again(): pass", "_again"),
        ("class Reader: pass", "Reader"),
        ("self.words = 1", "words"),
        ("for one in rows: pass", "one"),
        ("[own for own in rows]", "own"),
        ("with f() as (made, x): pass", "made"),
        ("PICTURES: int = 3", "PICTURES"),
        ("if (found := f()): pass", "found"),
        ("import x as spread", "spread"),
        ("class A:\n    drawn: int", "drawn"),
    ],
)
def test_a_forbidden_name_is_noticed(source: str, name: str) -> None:
    assert [found for _, found in house.forbidden_names("helpers/a.py", source)] == [name]


def test_reading_a_name_and_longer_names_are_free() -> None:
    source = "kid = distance.spread\nf(kind=3)\nimage_kinds = wanted_share = ones_like = 1\nword = 'told'"
    assert house.forbidden_names("helpers/a.py", source) == []


def test_an_answer_to_a_question_keeps_its_name() -> None:
    assert house.forbidden_names("helpers/vlm/examples.py", "answer = 3") == []
    assert house.forbidden_names("helpers/sd1/unet.py", "answer = 3") == [(1, "answer")]


def test_each_measure_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "type_errors", lambda: ["a.py:1: error: x"])
    monkeypatch.setattr(house, "unformatted_files", list)
    rows = {row.name: row for row in house.check()}
    assert len(rows) == 6 and not rows["type errors (mypy)"].ok
    assert rows["files that ruff format would change"].ok and rows["import circles"].measured == "0"


def test_a_tool_that_does_not_run_is_no_clean_house(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([sys.executable], 1, "", "No module named mypy")

    monkeypatch.setattr(house.subprocess, "run", broken)
    with pytest.raises(RuntimeError, match="mypy did not run: No module named mypy"):
        house.type_errors()
    with pytest.raises(RuntimeError, match="ruff did not run"):
        house.unformatted_files()
