"""Nevergrad: optimisation without gradients, with as many evaluations as a descent on estimated ones.

It has no gradient to compare; every row of the batch is a problem of its own, with its own CMA-ES.
(``NGOpt``, which chooses an optimiser by itself, fails in version 1.0.12 with NumPy 2.4 where it chooses a metamodel.)
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.peer import installed
from benchmarks.records import EndToEnd
from benchmarks.tasks import Task

if TYPE_CHECKING:
    from benchmarks.plan import Plan


def without_gradients(plan: Plan) -> list[EndToEnd]:
    """Run it on every task and budget that is a plain descent; nothing where it is not installed."""
    if not installed("nevergrad") or not plan.effort.optimisation_steps:
        return []
    return list(_results(plan))


def _results(plan: Plan) -> Iterator[EndToEnd]:
    seeds = list(range(plan.effort.optimisation_seeds))
    tasks = [task for task in plan.tasks if task.objective.train is None]
    for task in tasks:
        for _, evaluations in plan.budgets(task):
            total = evaluations * plan.effort.optimisation_steps
            if total * task.num_inputs > 10**7:  # minutes per row
                continue
            end = mean(minimise(task, total, seed) for seed in seeds)
            yield EndToEnd(task.name, "nevergrad_cma", total, task.score(task.start), end, seeds)


def minimise(task: Task, evaluations: int, seed: int) -> float:
    """Return the score after ``evaluations`` per row, counted by asking for one point per row at a time."""
    rows = [_optimiser(x, task.sigma, evaluations, seed) for x in task.start.double().numpy()]
    torch.manual_seed(seed)
    for _ in range(evaluations):
        asked = [row.ask() for row in rows]
        losses = task.loss(task.values(_points(asked, task.start)))  # (B,)
        for row, point, loss in zip(rows, asked, losses.tolist(), strict=True):
            row.tell(point, loss)
    return task.score(_points([row.recommend() for row in rows], task.start))


def _points(candidates: list[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack([each.value for each in candidates])).to(like.dtype)


def _optimiser(x: np.ndarray, sigma: float, evaluations: int, seed: int) -> Any:
    import nevergrad

    parameters = nevergrad.p.Array(init=x).set_mutation(sigma=sigma)
    parameters.random_state.seed(seed)
    return nevergrad.optimizers.CMA(parametrization=parameters, budget=evaluations)
