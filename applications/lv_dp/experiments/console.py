"""The command line's side of an experiment: progress while it computes, and its table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from applications.lv_dp.experiments import registry, reproduce
from applications.lv_dp.experiments.cells import Cell, Watch
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import NOT_MEASURED

HELP = "Compute a table or figure of the thesis. NAME is one of\n\n" + registry.overview()


def run(config: ReproduceConfig, console: Console, command: str) -> None:
    """Run an experiment with progress bars, and print its table and what is missing."""
    registry.find(config.name)  # before the bars are drawn, as an unknown name is one line
    config.check()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        contents = reproduce.main(config, _report(progress), command)
    console.print(table(contents))
    missing = sum(cell["status"] == NOT_MEASURED for cell in contents["cells"])
    if missing:
        console.print(f"{missing} of {len(contents['cells'])} cells not measured; the same command goes on")
    console.print(f"written to {config.out / config.name}.json and .png", soft_wrap=True)


def _report(progress: Progress) -> reproduce.Report:
    overall = progress.add_task("cells", total=None)
    current = progress.add_task("loading", total=None)

    def planned(cells: int, finished: int) -> None:
        progress.update(overall, total=cells, completed=finished)
        progress.update(current, description="")

    def started(cell: Cell) -> Watch:
        progress.update(current, description=cell.name)
        return lambda done, total: progress.update(current, completed=done, total=total)

    return reproduce.Report(planned, started, lambda cell: progress.advance(overall))


def table(contents: dict[str, Any]) -> Table:
    """Return the entries as a table: rows by columns, mean and deviation, the thesis' number in brackets."""
    entries = contents["table"]
    columns = list(dict.fromkeys(entry["column"] for entry in entries))
    drawn = Table("", *map(str, columns), title=f"{contents['experiment']}: {contents['summary']}")
    for row in dict.fromkeys(entry["row"] for entry in entries):
        texts = {entry["column"]: _text(entry) for entry in entries if entry["row"] == row}
        drawn.add_row(row, *(texts.get(column, "") for column in columns))
    return drawn


def _text(entry: dict[str, Any]) -> str:
    if entry["mean"] is None:
        text = NOT_MEASURED
    else:
        text = f"{entry['mean']:.4g}"
        text += f" ± {entry['deviation']:.2g}" if entry["deviation"] is not None else ""
    return text + (f" ({entry['published']:.4g})" if entry["published"] is not None else "")
