"""Imports and set-up are folded on the pages; every other cell stays open."""

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pages.execute import notebooks
from pages.folding import TAG, fold_imports, share_of_imports

SET_UP = "from helpers.show.figures import (\n    grid,\n    show,\n)\n\nstyle()"


def test_lines_of_imports_are_counted() -> None:
    assert share_of_imports("import torch") == 1 and share_of_imports(SET_UP) == 4 / 5
    assert share_of_imports("import math\nassert math.pi > 3") == 1 / 2
    assert share_of_imports("") == share_of_imports("%cd course\nimport torch") == 0


def test_set_up_and_pure_imports_are_folded_and_the_notebook_itself_is_not_changed() -> None:
    cells = [new_markdown_cell("import torch"), *map(new_code_cell, [SET_UP, "x = 1", SET_UP, "import torch"])]
    notebook = new_notebook(cells=cells)
    assert [cell.metadata.get("tags") for cell in fold_imports(notebook).cells] == [None, [TAG], None, None, [TAG]]
    assert "tags" not in notebook.cells[1].metadata
    cells[1] = new_code_cell("import math\nassert math.pi > 3\nprint(math.pi)")
    assert "tags" not in fold_imports(new_notebook(cells=cells)).cells[1].metadata


def test_every_notebook_begins_with_a_folded_cell_and_folds_none_that_computes() -> None:
    for path in notebooks():
        code = [c for c in fold_imports(nbformat.read(path, as_version=4)).cells if c.cell_type == "code"]
        assert code[0].metadata.get("tags") == [TAG], path.name
        assert all("=" not in cell.source for cell in code[1:] if TAG in cell.metadata.get("tags", [])), path.name
