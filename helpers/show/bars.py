"""Bar charts with the values written beside the bars: one comparison, or a whole table."""

import math
from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def bars(series: Mapping[str, Mapping[str, float]], label: str, value_format: str = "{:.0%}") -> Figure:
    """Draw horizontal bars: a group for every name with a bar for every series, and its value beside it.

    Args:
        series: name of the series -> {name of the group: value}; the same groups in all, values not negative.
        label: of the value axis.
        value_format: of the values written beside the bars.

    Raises:
        ValueError: if there is no series, or if series have other groups than the first.
    """
    groups = _names(series, "bars", "series", "groups")
    thick = 0.8 / len(series)
    largest = max(max(values.values()) for values in series.values())
    figure, axes = plt.subplots(figsize=(7.2, 0.8 + 0.2 * len(groups) * (len(series) + 0.6)))
    for i, (name, values) in enumerate(series.items()):
        positions = [group + (i - (len(series) - 1) / 2) * thick for group in range(len(groups))]
        container = axes.barh(positions, list(values.values()), height=0.9 * thick, label=name)
        axes.bar_label(container, [value_format.format(value) for value in values.values()], padding=3, fontsize=8)
    axes.set(xlabel=label, xlim=(0, 1.1 * largest), yticks=range(len(groups)), yticklabels=groups)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    if len(series) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), borderaxespad=0.2)
    return figure


def bar_table(
    columns: Mapping[str, Mapping[str, float]],
    value_format: str = "{:.3g}",
    full_scale: float | None = None,
) -> Figure:
    """Draw a table of bars: a row for every name, and in every column a bar with its value.

    Results of training are drawn rather than printed, because their last digits depend on the processor.

    Args:
        columns: heading -> {name of the row: value}; the same rows in all, values not negative; NaN has no bar and is
            called "none".
        value_format: of the values written beside the bars.
        full_scale: the value of a bar of full length; None: the largest of each column.

    Raises:
        ValueError: if there is no column, or if columns have other rows than the first.
    """
    rows = _names(columns, "bar_table", "column", "rows")
    figure, all_axes = plt.subplots(1, len(columns), figsize=(7.2, 0.6 + 0.19 * len(rows)), sharey=True, squeeze=False)
    for axes, (heading, values) in zip(all_axes[0], columns.items(), strict=True):
        known = [0.0 if math.isnan(value) else value for value in values.values()]
        container = axes.barh(range(len(rows)), known, height=0.75)
        texts = ["none" if math.isnan(value) else value_format.format(value) for value in values.values()]
        axes.bar_label(container, texts, padding=2, fontsize=8)
        axes.set(title=heading, xlim=(0, 1.6 * (full_scale or max(known, default=0) or 1)), xticks=[])
        axes.set_ylim(len(rows) - 0.4, -0.6)  # from the top
        axes.set_yticks(range(len(rows)), rows)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _names(series: Mapping[str, Mapping[str, float]], function: str, noun: str, parts: str) -> list[str]:
    """The names for which every series has a value."""
    if not series:
        raise ValueError(f"{function} needs at least one {noun}, got none")
    names = list(next(iter(series.values())))
    for name, values in series.items():
        if list(values) != names:
            raise ValueError(f"every {noun} needs the {parts} {names}, {name!r} has {list(values)}")
    return names
