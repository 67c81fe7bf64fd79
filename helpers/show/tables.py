"""Tables of numbers and text: aligned columns in a terminal, HTML in a notebook, the same text on every machine."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of text that a notebook shows as a table, a terminal as aligned columns."""

    header: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.header, *self.cells)]
        lines = [_aligned(row, widths) for row in (self.header, *self.cells)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = "".join(_tag("th", text, ' scope="col"') for text in self.header)
        body = "".join(_html_row(row) for row in self.cells)
        return f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def table(rows: Mapping[str, Any] | Sequence[Mapping[str, Any]], digits: int = 3, heading: str = "") -> Table:
    """Make a table of numbers and text; floats get `digits` significant digits.

    Args:
        rows: name -> value, name -> {column: value}, or a sequence of {column: value}.
        digits: significant digits of floats: two or three for what training gives (the rest varies by machine).
        heading: above the names of the rows.

    Raises:
        ValueError: if there are no rows, or if a row has other columns than the first.
    """
    if isinstance(rows, Mapping):
        records = [_named_record(heading, name, row) for name, row in rows.items()]
    else:
        records = [dict(row) for row in rows]
    if not records:
        raise ValueError("table needs at least one row, got none")
    header = tuple(records[0])
    for record in records:
        if tuple(record) != header:
            raise ValueError(f"every row needs the columns {header}, got {tuple(record)}")
    return Table(header, tuple(tuple(_text(record[name], digits) for name in header) for record in records))


def _named_record(heading: str, name: str, row: Any) -> dict[str, Any]:
    columns = row if isinstance(row, Mapping) else {"value": row}
    return {heading: name, **columns}


def _html_row(row: Sequence[str]) -> str:
    name, *values = row
    return "<tr>" + _tag("th", name, ' scope="row"') + "".join(_tag("td", text) for text in values) + "</tr>"


def _text(value: Any, digits: int) -> str:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return f"{value:.{digits}g}" if 1e-4 <= abs(value) < 10**6 or value == 0 else f"{value:.{digits - 1}e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = row
    return "  ".join([name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(numbers, widths[1:]))]).rstrip()


def _tag(tag: str, text: str, attributes: str = "") -> str:
    return f"<{tag}{attributes}>{html.escape(text)}</{tag}>"
