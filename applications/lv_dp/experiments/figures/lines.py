"""Dice against a number or a choice, one line for each row, with the thesis' numbers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from applications.lv_dp.experiments.figures.style import COLOURS, MARKERS, SMALL, label, panels, say_empty
from applications.lv_dp.experiments.summaries import Entry

Column = int | float | str
Thesis = Mapping[str, Mapping[int, float]]  # by row and column
DICE = "Dice inside the star's square (held-out)"


@dataclass(frozen=True)
class Axis:
    """The horizontal axis and the title.

    Attributes:
        label: of the axis.
        title: of the figure.
        scale: linear, log, or evenly spaced: steps of an order, or choices without one, which no line joins.
    """

    label: str
    title: str
    scale: Literal["linear", "log", "steps", "choices"] = "linear"

    @property
    def is_even(self) -> bool:
        """Whether columns stand at even distances."""
        return self.scale in ("steps", "choices")


def draw_lines(entries: Sequence[Entry], axis: Axis, thesis: Thesis | None = None) -> Figure:
    """Draw means, bars of one standard deviation over the seeds, and dashed lines for the thesis."""
    figure, (panel,) = panels(1, 1, (7.2, 4.4), axis.title)
    columns = list(dict.fromkeys(entry.column for entry in entries))
    places: dict[Column, float] = {c: _place(c, i, axis) for i, c in enumerate(columns)}
    rows = list(dict.fromkeys(entry.row for entry in entries))
    for i, row in enumerate(rows):
        _draw_row(panel, [entry for entry in entries if entry.row == row], places, i, axis)
        _draw_thesis(panel, (thesis or {}).get(row, {}), i)
    if thesis:
        panel.plot([], [], "--", color="0.4", linewidth=1, label="thesis (ACDC), same colours")
    label(panel, axis.label, DICE, rows[0] if len(rows) == 1 else "")
    _ticks(panel, axis, places, thesis or {})
    if not any(entry.values for entry in entries):
        say_empty(panel)
    if len(rows) > 1:
        figure.legend(loc="outside right center", fontsize=SMALL, frameon=False)
    return figure


def _place(column: Column, index: int, axis: Axis) -> float:
    return float(index) if axis.is_even else float(column)


def _draw_row(
    panel: Axes, entries: Sequence[Entry], places: Mapping[Column, float], i: int, axis: Axis
) -> None:
    measured = [(places[e.column], e.mean, e.deviation or 0.0) for e in entries if e.mean is not None]
    x, y, bars = zip(*measured, strict=True) if measured else ((), (), ())
    joined = "" if axis.scale == "choices" else "-"
    form, colour = MARKERS[i % len(MARKERS)] + joined, COLOURS[i % len(COLOURS)]
    panel.errorbar(
        x, y, bars, fmt=form, color=colour, label=entries[0].row, capsize=3, markersize=5, linewidth=1.5
    )


def _draw_thesis(panel: Axes, numbers: Mapping[int, float], i: int) -> None:
    panel.plot(
        list(numbers), list(numbers.values()), "--", color=COLOURS[i % len(COLOURS)], alpha=0.5, linewidth=1
    )


def _ticks(panel: Axes, axis: Axis, places: Mapping[Column, float], thesis: Thesis) -> None:
    if axis.is_even:
        panel.set_xticks(list(places.values()), [str(column) for column in places])
        panel.set_xlim(-0.5, len(places) - 0.5)
    elif axis.scale == "log":
        panel.set_xscale("log")
        ticks = sorted({int(p) for p in places.values()} | {c for row in thesis.values() for c in row})
        panel.set_xticks(ticks, [str(tick) for tick in ticks], rotation=45)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_minor_formatter(NullFormatter())
