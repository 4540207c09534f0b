"""What a comparison will run: names and numbers checked before the first second is spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.names import select
from benchmarks.peers import PEERS, Peer
from benchmarks.peers.estimator import as_variant
from benchmarks.tasks import DEFAULT_TASKS, TASKS, Task, TaskUnavailableError
from benchmarks.tasks.task import NO_SOLVER
from benchmarks.variants import VARIANTS, BudgetTooSmallError, Variant


@dataclass(frozen=True)
class Config:
    """Compare gradient estimators at equal numbers of black-box evaluations."""

    tasks: tuple[str, ...] = ()
    """Names of tasks, separated by blanks or commas; "all" for every one, none for the quick ones."""
    estimators: tuple[str, ...] = ()
    """Names of estimators; none means all of ours."""
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
    peers: bool = False
    """Add the estimators of other libraries, where they are installed (pip install 'ndgrad[peers]')."""
    fractions: tuple[float, ...] = ()
    """Budgets as multiples of the task's n inputs, in the place of --evaluations: 0.1 1 10. The value adds one."""
    optimisation_steps: int | None = None
    """Steps of every descent, 0 for none. Default 25; with --quick 8."""


@dataclass(frozen=True)
class Effort:
    """How much is spent on every combination."""

    evaluations: tuple[int, ...] = (17, 41)
    fractions: tuple[float, ...] = ()
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
    budget: str
    peer: Peer | None = None

    def num_samples(self) -> int:
        """Count the noise draws, or raise `BudgetTooSmallError`."""
        return self.variant.num_samples(self.evaluations, self.task.num_inputs)


@dataclass(frozen=True)
class Plan:
    """The combinations to run, in order, and the effort for each."""

    tasks: list[Task]
    unavailable: dict[str, str]  # names of tasks, and why they cannot run here
    estimators: list[str]
    effort: Effort

    def combinations(self) -> Iterator[Combination]:
        """Go through tasks, budgets and estimators, the estimators fastest."""
        for task in self.tasks:
            for budget, evaluations in self.budgets(task):
                for name in self.estimators:
                    yield _combination(task, name, evaluations, budget)

    def budgets(self, task: Task) -> list[tuple[str, int]]:
        """List the budgets of one task: as asked for, and in evaluations per row."""
        multiples = [(f"{c:g} n", 1 + max(1, round(c * task.num_inputs))) for c in self.effort.fractions]
        return multiples or [(str(evaluations), evaluations) for evaluations in self.effort.evaluations]


def _combination(task: Task, name: str, evaluations: int, budget: str) -> Combination:
    if name in VARIANTS:
        return Combination(task, name, VARIANTS[name], evaluations, budget)
    return Combination(task, name, as_variant(PEERS[name], evaluations), evaluations, budget, PEERS[name])


def make_plan(config: Config) -> Plan:
    """Check the configuration and fill in its defaults.

    Raises:
        ValueError: in one line, for an unknown name or an impossible number.
    """
    standard = QUICK if config.quick else Effort()
    effort = Effort(
        evaluations=config.evaluations or standard.evaluations,
        fractions=config.fractions,
        seeds=standard.seeds if config.seeds is None else config.seeds,
        approach_steps=standard.approach_steps,
        optimisation_steps=(
            standard.optimisation_steps if config.optimisation_steps is None else config.optimisation_steps
        ),
        optimisation_seeds=standard.optimisation_seeds,
    )
    if min(effort.evaluations) < 2:
        raise ValueError(
            f"--evaluations must be at least 2 (the value and one probe), got {min(effort.evaluations)}"
        )
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"--out must name a folder, got the file {config.out}")
    if effort.seeds < 2:
        raise ValueError(f"--seeds must be at least 2 (a variance is reported), got {effort.seeds}")
    if min(config.fractions, default=1) <= 0:
        raise ValueError(f"--fractions must be positive multiples of n, got {min(config.fractions)}")
    tasks, unavailable = _tasks(select("task", config.tasks or DEFAULT_TASKS, [*TASKS, "all"]))
    plan = Plan(tasks, unavailable, _estimators(config), effort)
    reasons = [reason_to_skip(each) for each in plan.combinations()]
    if all(reasons):
        raise ValueError(f"no estimator can work with these --evaluations: the first {reasons[0]}")
    return plan


def _estimators(config: Config) -> list[str]:
    names = select("estimator", config.estimators, [*VARIANTS, *PEERS]) if config.estimators else [*VARIANTS]
    return list(dict.fromkeys([*names, *(PEERS if config.peers else ())]))


def _tasks(names: list[str]) -> tuple[list[Task], dict[str, str]]:
    """Make the tasks; the second result says which could not be made, and why."""
    tasks, unavailable = [], {}
    for name in TASKS if "all" in names else names:
        try:
            tasks.append(TASKS[name]())
        except TaskUnavailableError as error:
            unavailable[name] = str(error)
    return tasks, unavailable


def describe(config: Config, effort: Effort) -> dict[str, Any]:
    """List the settings as plain values for the records."""
    return asdict(config) | {"out": str(config.out)} | asdict(effort)


def reason_to_skip(combination: Combination) -> str | None:
    """Say why a combination cannot run, or None."""
    task, peer = combination.task, combination.peer
    if combination.evaluations > task.most_evaluations:
        return f"{combination.evaluations} evaluations of {task.num_inputs} inputs are too many for memory"
    try:
        num_samples = combination.num_samples()
    except BudgetTooSmallError as error:
        return str(error)
    if combination.variant.solver and task.sense is None:
        return NO_SOLVER
    return None if peer is None else peer.reason_to_skip(task.num_inputs, task.sense, num_samples)
