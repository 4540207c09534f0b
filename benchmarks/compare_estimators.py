"""Compare gradient estimators at equal numbers of black-box evaluations, against references of their own.

    python -m benchmarks.compare_estimators --tasks ranking rounded_tanh --evaluations 17 41 --seeds 10
    python -m benchmarks.compare_estimators --tasks all --fractions 0.1 1 10 --peers

Prints a table, and writes results.json, results.csv, skipped.json, plots and a self-contained report.html
to --out.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

import ndgrad
from benchmarks.console import print_results
from benchmarks.measure import gradient, measure
from benchmarks.optimise import optimise
from benchmarks.peers.estimator import OverspentError
from benchmarks.peers.nevergrad import without_gradients
from benchmarks.plan import Combination, Config, Effort, Plan, describe, make_plan, reason_to_skip
from benchmarks.plots import draw
from benchmarks.provenance import device, threads, versions, write_atomically
from benchmarks.records import EndToEnd, Record, Skipped, write_results
from benchmarks.report import html
from benchmarks.stored_references import reference


def main(config: Config) -> list[Record]:
    """Run the comparison, print it and write its files; returns the records."""
    plan = make_plan(config)
    torch.set_num_threads(config.threads)
    begin = time.perf_counter()
    records, skipped = _run(plan, describe(config, plan.effort))
    end_to_end = without_gradients(plan) if config.peers else []
    print_results(records, skipped, plan.tasks, end_to_end)
    _write(config.out, records, skipped, end_to_end, plan)
    Console().print(
        f"{time.perf_counter() - begin:.0f} s; report: {config.out / 'report.html'}",
        highlight=False,
        soft_wrap=True,
    )
    return records


def _warm_up() -> None:
    """Pay for what torch sets up with its first gradient, which would count for the first estimator."""
    box = ndgrad.wrap(torch.square, estimator=ndgrad.EvolutionStrategy(2))
    gradient(box, torch.zeros(1, 2), torch.ones(1, 2))


def _run(plan: Plan, configuration: dict[str, Any]) -> tuple[list[Record], list[Skipped]]:
    records: list[Record] = []
    skipped = [Skipped(name, "", 0, reason) for name, reason in plan.unavailable.items()]
    combinations = list(plan.combinations())
    _warm_up()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        bar = progress.add_task("", total=len(combinations))
        for each in combinations:
            progress.update(bar, description=f"{each.task.name}: {each.estimator}")
            found = _record_or_reason(each, plan.effort, configuration)
            if isinstance(found, Record):
                records.append(found)
            else:
                skipped.append(Skipped(each.task.name, each.estimator, each.evaluations, found))
            progress.advance(bar)
    return records, skipped


def _record_or_reason(each: Combination, effort: Effort, configuration: dict[str, Any]) -> Record | str:
    """Run one combination. What goes wrong inside another library is a reason, and ends nothing."""
    reason = reason_to_skip(each)
    if reason is not None:
        return reason
    try:
        return _record(each, effort, configuration)
    except Exception as error:
        if each.peer is None:
            raise
        return str(error) if isinstance(error, OverspentError) else f"failed: {type(error).__name__}: {error}"


def _record(each: Combination, effort: Effort, configuration: dict[str, Any]) -> Record:
    task, samples, truth = each.task, each.num_samples(), reference(each.task)
    seeds = list(range(effort.seeds))
    factor = 1.0 if each.peer is None else each.peer.factor(task.sigma, samples)
    accuracy = measure(task, each.variant, samples, truth, seeds, effort.approach_steps, factor)
    if each.peer is not None:  # whose value in the forward pass is not charged
        accuracy = replace(accuracy, evaluations_used=accuracy.evaluations_used - 1)
    if accuracy.evaluations_used > each.evaluations:
        raise RuntimeError(
            f"{each.estimator} used {accuracy.evaluations_used} of {each.evaluations} evaluations"
        )
    runs = min(effort.optimisation_seeds, task.objective.seeds or effort.optimisation_seeds)
    start, end = optimise(
        task, lambda: each.variant.build(task, samples), seeds[:runs], effort.optimisation_steps
    )
    return Record(
        task=task.name,
        estimator=each.estimator,
        library="ndgrad" if each.peer is None else each.peer.library,
        budget=each.budget,
        evaluations=each.evaluations,
        num_samples=samples,
        **asdict(accuracy),
        conversion=each.peer.conversion.formula if each.peer and each.peer.conversion else "",
        learns=each.variant.learns,
        kind=each.peer.kind if each.peer else "",
        note=each.peer.note if each.peer else "",
        reference_relative_error=truth.relative_error,
        objective=task.objective.name,
        higher_is_better=task.objective.higher_is_better,
        objective_start=start,
        objective_end=end,
        optimisation_steps=effort.optimisation_steps,
        batch=task.batch,
        num_inputs=task.num_inputs,
        num_outputs=task.num_outputs,
        sigma=task.sigma,
        seeds=seeds,
        configuration=configuration,
        versions=versions(*([] if each.peer is None else [each.peer.library])),
        device=device(),
        threads=threads(),
    )


def _write(
    out: Path, records: list[Record], skipped: list[Skipped], end_to_end: list[EndToEnd], plan: Plan
) -> None:
    write_results(out, records, skipped, end_to_end)
    figures = draw(records)
    for name, png in figures.items():
        write_atomically(out / f"{name}.png", png)
    write_atomically(out / "report.html", html(records, skipped, plan.tasks, figures))


def cli() -> None:
    """Read the command line; a wrong name or number is one line and exit status 2."""
    config = tyro.cli(Config, description=__doc__)
    try:
        make_plan(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    main(config)


if __name__ == "__main__":
    cli()
