"""The results as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from benchmarks.records import EndToEnd, Record, Skipped
from benchmarks.tasks import Task
from benchmarks.verdict import verdict
from benchmarks.wording import HOW_TO_READ, columns, conversions, number, tables, title

_WIDTH = 152  # of the widest table: a narrower one would cut the names


def print_results(
    records: list[Record], skipped: list[Skipped], tasks: list[Task], end_to_end: Sequence[EndToEnd] = ()
) -> None:
    """Print one table per task and budget, what was skipped and why, and how to read it all."""
    # without markup, in which pip install 'ndgrad[peers]' would lose its end
    console = Console(highlight=False, markup=False)
    console = Console(highlight=False, markup=False, width=max(console.width, _WIDTH))
    summaries = {task.name: task.summary for task in tasks}
    for group in tables(records):
        console.print()
        console.print(title(group), style="bold")
        console.print(f"  {summaries[group[0].task]}", style="dim")
        console.print(_table(group))
        found = verdict(group)
        if found is not None:
            console.print(f"  {found.sentence()}", style="red" if found.better else "bold")
    console.print()
    for estimator, formula in conversions(records).items():
        console.print(f"converted: {estimator}: {formula}")
    for entry in end_to_end:
        scores = f"{number(entry.objective_start)} -> {number(entry.objective_end)}"
        console.print(f"{entry.task}: {entry.optimiser}, {entry.evaluations} evaluations per row: {scores}")
    for (task, reason), names in _by_reason(skipped).items():
        console.print(f"skipped: {task}: {', '.join(names)}: {reason}", style="dim")
    console.print(f"\n{HOW_TO_READ}")


def _by_reason(skipped: list[Skipped]) -> dict[tuple[str, str], list[str]]:
    """Collect the estimators that were skipped on one task for one reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in skipped:
        names = groups.setdefault((entry.task, entry.reason), [])
        if entry.estimator not in names:  # at another budget
            names.append(entry.estimator)
    return groups


def _table(group: list[Record]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown = columns(group)
    for column in shown:
        justify: JustifyMethod = "left" if column.name == "estimator" else "right"
        table.add_column(Text.assemble(column.name, "\n", (column.unit, "dim")), justify=justify)
    best = min(group, key=lambda record: record.relative_error)
    for record in group:
        table.add_row(*(column.cell(record) for column in shown), style="green" if record is best else None)
    return table
