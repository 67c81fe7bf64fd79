"""The vocabulary page: every name that it gives for the course's code and for the libraries exists there."""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from pages.record import ROOT

PAGE = ROOT / "pages" / "vocabulary.md"
NAME = re.compile(r"`([^`]+)`")
LEAST = 50


def _rows() -> list[list[str]]:
    """The cells of every row, without headers: in papers, in code here, in a library, in plain words."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [re.split(r"(?<!\\)\|", line.replace(r"\mid", " "))[1:-1] for line in lines]
    return [[cell.strip() for cell in row] for row in rows if not row[0].strip().startswith("in papers")]


def _identifiers(cell: str) -> set[str]:
    """The identifiers in a cell's code, and its quoted values: `Path.noise` names two."""
    return {word for name in NAME.findall(cell) for word in re.findall(r"[A-Za-z_][\w-]*", name)}


@cache
def _words(folder: Path) -> set[str]:
    """All identifiers of a folder's Python files."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    return set(re.findall(r"[A-Za-z_]\w*", text))


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_names_of_the_course_exist(row: list[str]) -> None:
    assert len(row) == 4 and all(row), "in papers, in code here, in a library, in plain words"
    assert not _identifiers(row[1]) - _words(ROOT / "helpers")
    assert _identifiers(row[1]) or row[1] == "none" or "`" not in row[1]


def test_names_of_the_libraries_exist() -> None:
    known: set[str] = set()
    for library in ("diffusers", "transformers"):
        found = find_spec(library)
        if found is None or not found.submodule_search_locations:
            pytest.skip(f"{library} is not installed")
        folder = Path(found.submodule_search_locations[0])
        if library == "diffusers":
            known |= _words(folder)
        else:
            for part in ("models/paligemma", "models/gemma", "models/siglip", "generation"):
                known |= _words(folder / part)
            for file in ("cache_utils.py", "configuration_utils.py"):
                known |= set(re.findall(r"[A-Za-z_]\w*", (folder / file).read_text(encoding="utf-8")))
    missing = {row[0]: names for row in _rows() if (names := _identifiers(row[2]) - known)}
    assert not missing


def test_the_table_is_long_enough_and_names_each_idea_once() -> None:
    ideas = [row[0] for row in _rows()]
    assert len(ideas) >= LEAST
    assert len(set(ideas)) == len(ideas)


def test_an_invented_name_would_be_noticed() -> None:
    assert _identifiers("`NoisePath.add_nose`, `x0`") - _words(ROOT / "helpers") == {"add_nose"}
