"""Horizontal bars, one panel for each column."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from applications.lv_dp.experiments.figures.style import COLOURS, SMALL, label, panels
from applications.lv_dp.experiments.summaries import NOT_MEASURED, Entry


def draw_bars(entries: Sequence[Entry], columns: Sequence[str], title: str) -> Figure:
    """Draw the means in seconds from the first row down, the numbers beside the bars."""
    rows = list(dict.fromkeys(entry.row for entry in entries))
    figure, axes = panels(1, len(columns), (4.4 * len(columns), 1.3 + 0.36 * len(rows)), title, sharey=True)
    for axis, column in zip(axes, columns, strict=True):
        mine = {entry.row: entry for entry in entries if entry.column == column}
        _bars(axis, [mine[row] for row in rows])
        label(axis, "seconds", "", column)
        axis.set_yticks(range(len(rows)), rows, fontsize=SMALL)
    axes[0].invert_yaxis()
    return figure


def _bars(axis: Axes, entries: Sequence[Entry]) -> None:
    heights = [entry.mean or 0.0 for entry in entries]
    axis.barh(range(len(entries)), heights, color=COLOURS[0], height=0.6)
    axis.set_xlim(0, 1.25 * max(heights) or 1.0)
    for y, entry in enumerate(entries):
        text = NOT_MEASURED if entry.mean is None else f"{entry.mean:.3g} s"
        axis.annotate(
            text, (entry.mean or 0.0, y), (3, 0), textcoords="offset points", va="center", size=SMALL
        )
