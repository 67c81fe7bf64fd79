"""Bars with their numbers beside them: one comparison, or a whole table."""

import math
from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def bars(series: Mapping[str, Mapping[str, float]], label: str, form: str = "{:.0%}") -> Figure:
    """Horizontal bars: a group for every name, in it a bar for every series, its value written beside it.

    Args:
        series: name of the series -> {name of the group: value}; the same groups in all, values not negative.
        label: what the values are.
        form: of a value.

    Raises:
        ValueError: if there is no series, or if series have other groups than the first.
    """
    groups = _names(series, "bars", "series", "groups")
    thick = 0.8 / len(series)
    largest = max(value for values in series.values() for value in values.values())
    figure, axes = plt.subplots(figsize=(7.2, 0.8 + 0.2 * len(groups) * (len(series) + 0.6)))
    for i, (name, values) in enumerate(series.items()):
        places = [place + (i - (len(series) - 1) / 2) * thick for place in range(len(groups))]
        drawn = axes.barh(places, list(values.values()), height=0.9 * thick, label=name)
        axes.bar_label(drawn, [form.format(value) for value in values.values()], padding=3, fontsize=8)
    axes.set(xlabel=label, xlim=(0, 1.1 * largest), yticks=range(len(groups)), yticklabels=groups)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), borderaxespad=0.2)
    return figure


def bar_table(
    columns: Mapping[str, Mapping[str, float]],
    form: str = "{:.3g}",
    most: float | None = None,
) -> Figure:
    """A table that is seen before it is read: a row for every name, in every column a bar with its number.

    What a training gave is drawn and not printed: another processor rounds otherwise.

    Args:
        columns: heading -> {name of the row: value}; the same rows in all, values not negative; NaN has no bar.
        form: of a value.
        most: the value of a whole bar; None: the largest of each column.

    Raises:
        ValueError: if there is no column, or if columns have other rows than the first.
    """
    rows = _names(columns, "bar_table", "column", "rows")
    figure, all_axes = plt.subplots(1, len(columns), figsize=(7.2, 0.6 + 0.19 * len(rows)), sharey=True, squeeze=False)
    for axes, (heading, values) in zip(all_axes[0], columns.items(), strict=True):
        known = [0.0 if math.isnan(value) else value for value in values.values()]
        drawn = axes.barh(range(len(rows)), known, height=0.75)
        axes.bar_label(drawn, [form.format(value) for value in values.values()], padding=2, fontsize=8)
        axes.set(title=heading, xlim=(0, 1.6 * (most or max(known, default=0) or 1)), xticks=[])
        axes.set_ylim(len(rows) - 0.4, -0.6)  # from the top
        axes.set_yticks(range(len(rows)), rows)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _names(series: Mapping[str, Mapping[str, float]], function: str, one: str, parts: str) -> list[str]:
    """What every series has a value for."""
    if not series:
        raise ValueError(f"{function} needs at least one {one}, got none")
    names = list(next(iter(series.values())))
    for name, values in series.items():
        if list(values) != names:
            raise ValueError(f"every {one} needs the {parts} {names}, {name!r} has {list(values)}")
    return names
