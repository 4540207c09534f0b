"""What an experiment is: its cells, the numbers drawn from their results, and a figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from applications.lv_dp.experiments.cells import Cell, Result, Store
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import Entry


@dataclass(frozen=True)
class Results:
    """The results of an experiment's cells, as far as they were measured."""

    options: ReproduceConfig
    store: Store
    measured: dict[str, Result]  # by the key of the cell

    def of(self, cell: Cell) -> Result | None:
        """Return a cell's result, or None if it was not measured."""
        return self.measured.get(cell.key)


def nothing_more(results: Results) -> dict[str, Any]:
    """Add nothing to the JSON file."""
    return {}


@dataclass(frozen=True)
class Experiment:
    """One table or figure.

    Attributes:
        name: on the command line, and of the files.
        summary: one line.
        cells: the work, most important first; equal cells of several experiments are computed once.
        entries: the numbers of the table.
        figure: what NAME.png shows; it must also draw results of which some or all are missing.
        published: what the thesis reports, beside ours in the JSON file.
        more: what else goes into the JSON file, by name.
        aliases: further names.
    """

    name: str
    summary: str
    cells: Callable[[ReproduceConfig], list[Cell]]
    entries: Callable[[Results], list[Entry]]
    figure: Callable[[Results], Figure]
    published: dict[str, Any] | str | None = None
    more: Callable[[Results], dict[str, Any]] = nothing_more
    aliases: tuple[str, ...] = field(default=())
