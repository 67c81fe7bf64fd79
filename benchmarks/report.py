"""One line per claim: its name, what was measured, what was wanted, and whether that is enough."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """One claim of the course, recomputed."""

    name: str      # what was measured, in few words
    measured: str  # with its unit
    wanted: str    # the bound, such as ">= 97 %"
    ok: bool


def at_least(name: str, measured: float, wanted: float, unit: str = "", digits: int = 3) -> Row:
    """A row that is ok where measured >= wanted."""
    return Row(name, _with(measured, unit, digits), f">= {_with(wanted, unit, digits)}", measured >= wanted)


def at_most(name: str, measured: float, wanted: float, unit: str = "", digits: int = 3) -> Row:
    """A row that is ok where measured <= wanted."""
    return Row(name, _with(measured, unit, digits), f"<= {_with(wanted, unit, digits)}", measured <= wanted)


def true(name: str, measured: object, wanted: str, ok: bool) -> Row:
    """A row about something that is no number."""
    return Row(name, str(measured), wanted, bool(ok))


def lines(rows: Iterable[Row]) -> str:
    """All rows as aligned columns: name, measured, wanted, ok or SHORT."""
    texts = [(row.name, row.measured, row.wanted, "ok" if row.ok else "SHORT") for row in rows]
    widths = [max((len(text[column]) for text in texts), default=0) for column in range(3)]
    return "\n".join("  ".join([*(t.ljust(w) for t, w in zip(text, widths)), text[3]]) for text in texts)


def _with(value: float, unit: str, digits: int) -> str:
    number = f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"
    return f"{number} {unit}".rstrip()
