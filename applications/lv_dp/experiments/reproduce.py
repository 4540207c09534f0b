"""Compute an experiment's cells, as far as time allows, and write its table and figure."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from applications.lv_dp import checkpoint
from applications.lv_dp.experiments import registry, runner
from applications.lv_dp.experiments.cells import Cell, Store
from applications.lv_dp.experiments.experiment import Experiment, Results
from applications.lv_dp.experiments.options import ReproduceConfig
from applications.lv_dp.experiments.summaries import NOT_MEASURED
from applications.lv_dp.provenance import provenance


def unplanned(cells: int, finished: int) -> None:
    """Report nothing of the plan."""


@dataclass(frozen=True)
class Report:
    """How the progress is followed; by default it is not.

    Attributes:
        planned: told how many cells there are and how many of them are finished.
        started: see `runner.compute`.
        done: see `runner.compute`.
    """

    planned: Callable[[int, int], None] = unplanned
    started: runner.Started = runner.unreported
    done: runner.Done = runner.unannounced


def main(config: ReproduceConfig, report: Report | None = None, command: str = "") -> dict[str, Any]:
    """Run an experiment and return what NAME.json holds.

    Raises:
        UsageError: there is no such experiment, or a number or the data cannot be used.
    """
    experiment = registry.find(config.name)
    config.check()
    began = time.time()
    store, cells = Store(config.out / "cells"), runner.unique(experiment.cells(config))
    plan = runner.Plan(config.jobs, _stop(began, config.minutes), config.threads)
    follow = report or Report()
    follow.planned(len(cells), sum(store.read(cell) is not None for cell in cells))
    runner.compute(cells, store, plan, follow.started, follow.done)
    measured = {cell.key: result for cell in cells if (result := store.read(cell)) is not None}
    results = Results(config, store, measured)
    contents = to_json(experiment, results, cells, command)
    checkpoint.write_json(config.out / f"{config.name}.json", contents)
    save(experiment.figure(results), config.out / f"{config.name}.png")
    return contents


def _stop(began: float, minutes: float | None) -> float:
    return float("inf") if minutes is None else began + 60 * minutes


def to_json(experiment: Experiment, results: Results, cells: list[Cell], command: str) -> dict[str, Any]:
    """Return the contents of NAME.json."""
    options = dataclasses.asdict(results.options) | {"out": str(results.options.out)}
    return {
        "experiment": experiment.name,
        "summary": experiment.summary,
        **provenance(results.options.device),
        "command": command,
        "options": options | {"seeds": list(results.options.all_seeds)},
        "table": [entry.to_json() for entry in experiment.entries(results)],
        "published": experiment.published,
        **experiment.more(results),
        "cells": [_cell(results, cell) for cell in cells],
    }


def _cell(results: Results, cell: Cell) -> dict[str, Any]:
    result = results.of(cell)
    return {
        "folder": f"cells/{cell.key}",
        "status": NOT_MEASURED if result is None else "measured",
        "identity": cell.full_identity,
        "result": result,
    }


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, as a whole."""
    checkpoint.replace(path, lambda partial: figure.savefig(partial, format="png", dpi=150))
