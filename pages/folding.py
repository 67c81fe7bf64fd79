"""Folds away code that teaches nothing: the imports and the set-up start closed on a page, and a click opens them."""

import ast

import nbformat
from nbformat import NotebookNode

TAG = "hide-input"  # of MyST-NB


def fold_imports(notebook: NotebookNode) -> NotebookNode:
    """The notebook with its first cell of code folded, if that is mostly imports, and every cell of nothing else.

    Args:
        notebook: it is not changed.
    """
    folded = nbformat.from_dict(notebook)
    for number, cell in enumerate(cell for cell in folded.cells if cell.cell_type == "code"):
        if share_of_imports(cell.source) > (0.5 if number == 0 else 0.99):
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), TAG]
    return folded


def share_of_imports(code: str) -> float:
    """The share of a cell's lines, empty ones apart, that are imports; 0 where it isn't plain Python."""
    try:
        statements = ast.parse(code).body
    except SyntaxError:
        return 0.0
    imports = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    count = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in imports)
    return count / max(1, sum(bool(line.strip()) for line in code.splitlines()))
