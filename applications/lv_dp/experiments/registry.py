"""Every experiment by its name."""

from __future__ import annotations

from applications.lv_dp.errors import UsageError
from applications.lv_dp.experiments import (
    ablations,
    approximation,
    curves,
    grid,
    learning_curves,
    qualitative,
    robustness,
    speed,
)
from applications.lv_dp.experiments.experiment import Experiment

FAMILIES = (approximation, qualitative, learning_curves, grid, robustness, curves, speed, ablations)

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in sorted(
        (experiment for family in FAMILIES for experiment in family.EXPERIMENTS), key=lambda e: e.name
    )
}
ALIASES = {alias: experiment for experiment in EXPERIMENTS.values() for alias in experiment.aliases}


def find(name: str) -> Experiment:
    """Return the experiment of a name or alias.

    Raises:
        UsageError: there is none; the message lists the names.
    """
    found = EXPERIMENTS.get(name) or ALIASES.get(name)
    if found is None:
        raise UsageError(f"reproduce: there is no {name!r}; NAME is one of {', '.join(EXPERIMENTS)}")
    return found


def overview() -> str:
    """Return one line for each experiment, its aliases included."""
    return "\n\n".join(
        f"{' = '.join((experiment.name, *experiment.aliases))}: {experiment.summary}"
        for experiment in EXPERIMENTS.values()
    )
