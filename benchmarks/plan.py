"""What a comparison will run: names and numbers checked before the first second is spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.names import select
from benchmarks.tasks import TASKS, Task
from benchmarks.variants import VARIANTS, BudgetTooSmallError, Variant


@dataclass(frozen=True)
class Config:
    """Compare gradient estimators at equal numbers of black-box evaluations."""

    tasks: tuple[str, ...] = ()
    """Names of tasks, separated by blanks or commas; none means all."""
    estimators: tuple[str, ...] = ()
    """Names of estimators; none means all."""
    evaluations: tuple[int, ...] = ()
    """Budgets: evaluations per row and backward, the value's own included. Default 17 41; with --quick 17."""
    seeds: int | None = None
    """Independent estimates of every gradient, at least 2. Default 5; with --quick 2."""
    out: Path = Path("results/compare")
    """Folder for results.json, results.csv, skipped.json, the plots and report.html."""
    threads: int = 1
    """Threads of torch; the operations are small, and one thread gives the same numbers everywhere."""
    quick: bool = False
    """A look in under half a minute: one budget, fewer seeds, short optimisations."""


@dataclass(frozen=True)
class Effort:
    """How much is spent on every combination."""

    evaluations: tuple[int, ...] = (17, 41)
    seeds: int = 5
    approach_steps: int = 12  # calls that a learning estimator sees before the gradient is measured
    optimisation_steps: int = 25
    optimisation_seeds: int = 2


QUICK = Effort(evaluations=(17,), seeds=2, approach_steps=5, optimisation_steps=8, optimisation_seeds=1)


@dataclass(frozen=True)
class Combination:
    """One estimator on one task at one budget."""

    task: Task
    estimator: str
    variant: Variant
    evaluations: int

    def num_samples(self) -> int:
        """Count the noise draws, or raise `BudgetTooSmallError`."""
        return self.variant.num_samples(self.evaluations, self.task.num_inputs)


@dataclass(frozen=True)
class Plan:
    """The combinations to run, in order, and the effort for each."""

    tasks: list[Task]
    estimators: list[str]
    effort: Effort

    def combinations(self) -> Iterator[Combination]:
        """Go through tasks, budgets and estimators, the estimators fastest."""
        for task in self.tasks:
            for evaluations in self.effort.evaluations:
                for name in self.estimators:
                    yield Combination(task, name, VARIANTS[name], evaluations)


def make_plan(config: Config) -> Plan:
    """Check the configuration and fill in its defaults.

    Raises:
        ValueError: in one line, for an unknown name or an impossible number.
    """
    standard = QUICK if config.quick else Effort()
    effort = Effort(
        evaluations=config.evaluations or standard.evaluations,
        seeds=standard.seeds if config.seeds is None else config.seeds,
        approach_steps=standard.approach_steps,
        optimisation_steps=standard.optimisation_steps,
        optimisation_seeds=standard.optimisation_seeds,
    )
    if min(effort.evaluations) < 2:
        raise ValueError(
            f"--evaluations must be at least 2 (the value and one probe), got {min(effort.evaluations)}"
        )
    if effort.seeds < 2:
        raise ValueError(f"--seeds must be at least 2 (a variance is reported), got {effort.seeds}")
    estimators = select("estimator", config.estimators, VARIANTS)
    tasks = [TASKS[name]() for name in select("task", config.tasks, TASKS)]
    plan = Plan(tasks, estimators, effort)
    reasons = [reason_to_skip(each) for each in plan.combinations()]
    if all(reasons):
        raise ValueError(f"no estimator can work with these --evaluations: the first {reasons[0]}")
    return plan


def describe(config: Config, effort: Effort) -> dict[str, Any]:
    """List the settings as plain values for the records."""
    return asdict(config) | {"out": str(config.out)} | asdict(effort)


def reason_to_skip(combination: Combination) -> str | None:
    """Say why a combination cannot run, or None."""
    try:
        combination.num_samples()
    except BudgetTooSmallError as error:
        return str(error)
    return None
