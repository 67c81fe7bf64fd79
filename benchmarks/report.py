"""One line per claim: its name, what was measured, what was expected, and whether that is enough."""

import ast
from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One claim of the course, recomputed."""

    name: str  # what was measured, in few words
    measured: str  # with its unit
    expected: str  # the bound, such as ">= 97 %"
    ok: bool


def at_least(name: str, measured: float, expected: float, unit: str = "", digits: int = 3) -> Row:
    """A row that is ok where measured >= wanted."""
    return Row(name, _with(measured, unit, digits), f">= {_with(expected, unit, digits)}", measured >= expected)


def at_most(name: str, measured: float, expected: float, unit: str = "", digits: int = 3) -> Row:
    """A row that is ok where measured <= wanted."""
    return Row(name, _with(measured, unit, digits), f"<= {_with(expected, unit, digits)}", measured <= expected)


def claim(name: str, measured: object, expected: str, ok: bool) -> Row:
    """A row about something that is no number; the caller says whether it holds."""
    return Row(name, str(measured), expected, bool(ok))


def as_table(rows: Iterable[Row]) -> str:
    """All rows as aligned columns: name, measured, wanted, ok or SHORT."""
    texts = [(row.name, row.measured, row.expected, "ok" if row.ok else "SHORT") for row in rows]
    widths = [max((len(text[column]) for text in texts), default=0) for column in range(3)]
    return "\n".join("  ".join([*(t.ljust(w) for t, w in zip(text, widths)), text[3]]) for text in texts)


def count_statements(source: str) -> int:
    """Statements of Python code, docstrings left out: a limit on lines would make lines dense."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return sum(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in nodes)


def _with(value: float, unit: str, digits: int) -> str:
    number = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
    return f"{number} {unit}".rstrip()
