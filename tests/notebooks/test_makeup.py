"""Notebooks stay readable: short cells, prose in measure, and never long without something to see or a check."""

from pathlib import Path

import nbformat
import pytest

from pages.execute import NOTEBOOKS, notebooks
from pages.prose import Makeup, computed, makeup

LESSONS = [path for path in notebooks() if path.parent == NOTEBOOKS]
SOON = 4  # code cells after a formula, of which one checks it
HEAD = f"{'':28}{'cells':>6}{'lines':>7}{'median':>8}{'9 of 10':>9}{'longest':>9}{'words/line':>12}{'silent':>8}"


@pytest.fixture(scope="module")
def measured(pytestconfig: pytest.Config) -> dict[str, Makeup]:
    table = {path.stem: makeup(path) for path in LESSONS}
    lines = [
        f"{name:28}{m.cells:6}{m.lines:7}{m.median:8.1f}{m.tenth:9.1f}{m.longest:9}{m.words_per_line:12.1f}{m.silent:8}"
        for name, m in table.items()
    ]
    print("\n".join(["", HEAD, *lines]))  # pytest -s shows it; a failure shows it always
    return table


@pytest.mark.parametrize("name", [path.stem for path in LESSONS])
def test_cells_are_short_and_prose_is_in_measure(name: str, measured: dict[str, Makeup]) -> None:
    proportions = measured[name]
    assert 4 <= proportions.median <= 7, "half of the cells have 4 to 7 lines or fewer"
    assert proportions.tenth <= 25 and proportions.longest <= 40, (
        "one cell in ten may have more than 25 lines, none more than 40"
    )
    assert proportions.words_per_line >= 5, "words of prose per line of code: problem, idea and result need room"
    assert proportions.silent <= 2, "of three code cells one at least shows something or checks it"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_formula_is_checked_by_one_of_the_next_cells(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    for place, cell in enumerate(cells):
        if cell.cell_type == "markdown" and "$$" in cell.source:
            following = [cell.source for cell in cells[place:] if cell.cell_type == "code"][:SOON]
            assert any("assert" in source for source in following), f"nothing checks {cell.source[-200:]}"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_notebook_has_a_slider(path: Path) -> None:
    assert "image_slider(" in computed(path)
