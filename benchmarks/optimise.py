"""What an estimator is worth in the end: the objective after a fixed number of steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

import ndgrad
from benchmarks.tasks import Task

MakeEstimator = Callable[[], ndgrad.Estimator]


def optimise(task: Task, make: MakeEstimator, seeds: list[int], steps: int) -> tuple[float, float]:
    """Score before and after, averaged over the seeds."""
    scores = [_once(task, make, seed, steps) for seed in seeds]
    start, end = torch.tensor(scores, dtype=torch.float64).mean(0).tolist()
    return start, end


def _once(task: Task, make: MakeEstimator, seed: int, steps: int) -> tuple[float, float]:
    torch.manual_seed(seed)
    estimator = make()
    if task.objective.train is not None:
        return task.objective.train(estimator, steps)
    return _descend(task, estimator, steps)


def _descend(task: Task, estimator: ndgrad.Estimator, steps: int) -> tuple[float, float]:
    """Adam on the inputs of every row, through the wrapped black box."""
    box = ndgrad.wrap(task.function, estimator=estimator, interface=task.interface)
    x = task.start.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=task.objective.learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        task.loss(box(x)).sum().backward()
        optimiser.step()
    return task.score(task.start), task.score(x)
