"""Figures of a comparison: one panel per task, estimators down the side."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.peers import PEERS
from benchmarks.records import Record
from benchmarks.variants import VARIANTS

_COLUMNS = 3
_MARKERS = "osD^v"  # one per budget
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito, safe for colour-blind readers
Panel = Callable[[Axes, list[Record], dict[str, int]], None]


def draw(records: list[Record]) -> dict[str, bytes]:
    """Draw every figure; the result maps names to PNG files."""
    budgets = list(dict.fromkeys(record.budget for record in records))
    by_budget = [
        _handle(_MARKERS[i % len(_MARKERS)], _COLOURS[i % len(_COLOURS)], f"{budget} evaluations per row")
        for i, budget in enumerate(budgets)
    ]
    parts = [_handle("o", _COLOURS[0], "squared bias"), _handle("s", _COLOURS[1], "variance")]
    start = [Line2D([], [], color="0.4", linestyle="--", label="at the start")]
    figures = {
        "relative_error": _figure(
            records, _error_panel(budgets), "relative error |g - reference| / |reference|", by_budget
        ),
        "bias_variance": _figure(
            _at(records, budgets[-1]),
            _parts_panel,
            f"share of |reference|², {budgets[-1]} evaluations per row",
            parts,
        ),
        "seconds": _figure(
            records, _seconds_panel(budgets), "milliseconds per forward and backward", by_budget
        ),
        "objective": _figure(
            records, _objective_panel(budgets), "objective after optimising", by_budget + start
        ),
    }
    return {name: _png(figure) for name, figure in figures.items()}


def _figure(records: list[Record], panel: Panel, label: str, legend: list[Line2D]) -> Figure:
    tasks = list(dict.fromkeys(record.task for record in records))
    estimators = sorted({record.estimator for record in records}, key=[*VARIANTS, *PEERS].index)
    heights = {name: -i for i, name in enumerate(estimators)}  # the first on top
    columns = min(_COLUMNS, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    size = (2.6 + 3.1 * columns, 1.1 + rows * (0.75 + 0.23 * len(estimators)))
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for axis, task in zip(axes, tasks, strict=False):
        mine = [record for record in records if record.task == task]
        panel(axis, mine, heights)
        _mark_skipped(axis, {record.estimator for record in mine}, heights)
        axis.set_title(task, fontsize=10)
        axis.set_yticks(list(heights.values()), [name.replace("_", " ") for name in heights], fontsize=8)
        axis.set_ylim(min(heights.values()) - 0.6, 0.6)
        axis.tick_params(axis="both", which="both", labelsize=8)
        axis.grid(alpha=0.3)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    figure.supxlabel(label, fontsize=10)
    figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), frameon=False, fontsize=9)
    return figure


def _error_panel(budgets: list[str]) -> Panel:
    def panel(axis: Axes, records: list[Record], heights: dict[str, int]) -> None:
        _dots(axis, records, heights, budgets, lambda r: r.relative_error)
        axis.axvline(1, color="0.4", linewidth=0.8)
        _logarithmic(axis, [1, *(r.relative_error for r in records)])

    return panel


def _seconds_panel(budgets: list[str]) -> Panel:
    def panel(axis: Axes, records: list[Record], heights: dict[str, int]) -> None:
        _dots(axis, records, heights, budgets, lambda r: 1000 * r.seconds)
        _logarithmic(axis, [1000 * r.seconds for r in records])

    return panel


def _objective_panel(budgets: list[str]) -> Panel:
    def panel(axis: Axes, records: list[Record], heights: dict[str, int]) -> None:
        _dots(axis, records, heights, budgets, lambda r: r.objective_end)
        axis.axvline(records[0].objective_start, color="0.4", linestyle="--", linewidth=0.8)
        better = "higher is better" if records[0].higher_is_better else "lower is better"
        axis.set_xlabel(f"{records[0].objective} ({better})", fontsize=8)

    return panel


def _parts_panel(axis: Axes, records: list[Record], heights: dict[str, int]) -> None:
    """Squared bias and variance; a squared bias lost in its noise (not positive) is left out."""
    for record in records:
        y = heights[record.estimator]
        axis.plot(record.variance, y - 0.12, "s", color=_COLOURS[1], markersize=5, clip_on=False)
        if record.squared_bias > 0:
            axis.plot(record.squared_bias, y + 0.12, "o", color=_COLOURS[0], markersize=5)
    axis.set_xscale("symlog", linthresh=1e-4)
    axis.set_xlim(left=0)


def _logarithmic(axis: Axes, values: list[float]) -> None:
    """Scale the axis so that labelled ticks are in sight, as plain numbers that do not collide."""
    low, high = min(value for value in values if value > 0) / 1.4, max(values) * 1.4
    decades = math.log10(high / low)
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _mark_skipped(axis: Axes, run: set[str], heights: dict[str, int]) -> None:
    for name in heights.keys() - run:
        place = (0.02, heights[name])  # x as a share of the panel's width
        axis.annotate("skipped", place, xycoords=("axes fraction", "data"), va="center", size=7)


def _dots(
    axis: Axes,
    records: list[Record],
    heights: dict[str, int],
    budgets: list[str],
    value: Callable[[Record], float],
) -> None:
    for record in records:
        i = budgets.index(record.budget)
        shift = 0.15 * ((len(budgets) - 1) / 2 - i)
        marker, colour = _MARKERS[i % len(_MARKERS)], _COLOURS[i % len(_COLOURS)]
        axis.plot(value(record), heights[record.estimator] + shift, marker, color=colour, markersize=5)


def _at(records: list[Record], budget: str) -> list[Record]:
    return [record for record in records if record.budget == budget]


def _handle(marker: str, colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, linestyle="", label=label)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
