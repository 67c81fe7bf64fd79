"""Notebooks stay readable: short cells, prose in measure, and never long without something to see or a check."""

import pytest

from pages.execute import NOTEBOOKS, notebooks
from pages.prose import Makeup, makeup

LESSONS = [path for path in notebooks() if path.parent == NOTEBOOKS]
HEAD = f"{'':28}{'cells':>6}{'lines':>7}{'median':>8}{'9 of 10':>9}{'longest':>9}{'words/line':>12}{'silent':>8}"


@pytest.fixture(scope="module")
def measured(pytestconfig: pytest.Config) -> dict[str, Makeup]:
    table = {path.stem: makeup(path) for path in LESSONS}
    lines = [f"{name:28}{m.cells:6}{m.lines:7}{m.median:8.1f}{m.tenth:9.1f}{m.longest:9}{m.words:12.1f}{m.silent:8}"
             for name, m in table.items()]  # fmt: skip
    print("\n".join(["", HEAD, *lines]))  # pytest -s shows it; a failure shows it always
    return table


@pytest.mark.parametrize("name", [path.stem for path in LESSONS])
def test_cells_are_short_and_prose_is_in_measure(name: str, measured: dict[str, Makeup]) -> None:
    found = measured[name]
    assert 4 <= found.median <= 7, "half of the cells have 4 to 7 lines or fewer"
    assert found.tenth <= 25 and found.longest <= 40, "one cell in ten may have more than 25 lines, none more than 40"
    assert 5 <= found.words <= 9, "words of prose per line of code"
    assert found.silent <= 2, "of three code cells one at least shows something or checks it"
