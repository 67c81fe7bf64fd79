"""One line per claim: its name, what was measured, what was expected, and whether that is enough."""

import ast
import io
import tokenize
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


def code_lines(source: str) -> int:
    """Lines of Python that hold code: no blank ones, comments or docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def _with(value: float, unit: str, digits: int) -> str:
    number = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
    return f"{number} {unit}".rstrip()
