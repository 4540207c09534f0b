"""The results as tables in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.records import Record, Skipped
from benchmarks.tasks import Task
from benchmarks.wording import COLUMNS, HOW_TO_READ, cells, tables, title

_WIDTH = 136  # of the widest table: a narrower one would cut the names


def print_results(records: list[Record], skipped: list[Skipped], tasks: list[Task]) -> None:
    """Print one table per task and budget, what was skipped and why, and how to read it all."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, _WIDTH))
    summaries = {task.name: task.summary for task in tasks}
    for group in tables(records):
        console.print()
        console.print(title(group), style="bold")
        console.print(f"  {summaries[group[0].task]}", style="dim")
        console.print(_table(group))
    console.print()
    for (task, reason), names in _by_reason(skipped).items():
        console.print(f"skipped: {task}: {', '.join(names)}: {reason}", style="dim")
    console.print(f"\n{HOW_TO_READ}")


def _by_reason(skipped: list[Skipped]) -> dict[tuple[str, str], list[str]]:
    """Collect the estimators that were skipped on one task for one reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in skipped:
        groups.setdefault((entry.task, entry.reason), []).append(entry.estimator)
    return groups


def _table(group: list[Record]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, unit in COLUMNS:
        table.add_column(f"{name}\n[dim]{unit}[/]", justify="left" if name == "estimator" else "right")
    best = min(group, key=lambda record: record.relative_error)
    for record in group:
        table.add_row(*cells(record), style="green" if record is best else None)
    return table
