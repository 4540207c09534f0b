"""A small network trained through solvers: shortest path (NetworkX), assignment (SciPy), ranking (argsort).

The loss is how much worse the solution is than the best one under the true costs, relative to the untrained network.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

import ndgrad
from ndgrad import (
    BlackboxInterpolation,
    Estimator,
    FenchelYoungLoss,
    ImplicitMLE,
    PerturbedOptimizer,
    StraightThrough,
)

B, FEATURES = 16, 5
GRID = nx.grid_2d_graph(4, 4, create_using=nx.DiGraph)


def shortest_path(costs: np.ndarray) -> np.ndarray:
    """Return the cells (4, 4) of the cheapest path from corner to corner."""
    costs = np.maximum(costs, 1e-3)  # Dijkstra's algorithm needs positive costs, noise may make negative ones
    path = nx.dijkstra_path(GRID, (0, 0), (3, 3), weight=lambda a, b, _: costs[b])
    cells = np.zeros((4, 4))
    cells[tuple(zip(*path, strict=True))] = 1.0
    return cells


def assignment(costs: np.ndarray) -> np.ndarray:
    """Return the cheapest permutation matrix."""
    chosen = np.zeros_like(costs)
    chosen[linear_sum_assignment(costs)] = 1.0
    return chosen


def ranks(scores: Tensor) -> Tensor:
    """Return the rank of each score, 0 for the lowest: the permutation y of 0..n-1 with the highest <scores, y>."""
    return scores.argsort(1).argsort(1)


class Task:
    """A solver, its sense, and features from which the true inputs of the solver are predicted."""

    def __init__(
        self, solver: Callable[..., object], sense: str, shape: tuple[int, ...], single: bool
    ) -> None:
        generator = torch.Generator().manual_seed(4)
        self.shape, self.sense = shape, sense
        self.features = torch.randn(B, FEATURES, generator=generator)
        weights = torch.randn(FEATURES, torch.Size(shape).numel(), generator=generator)
        self.truth = nn.functional.softplus(self.features @ weights).unflatten(1, shape) + 0.1
        self.wrap = lambda estimator: ndgrad.wrap(
            solver, estimator=estimator, batched=not single, vectorize=single
        )
        self.solve = self.wrap("finite_difference")  # never differentiated
        self.best = self.solve(self.truth)

    def network(self) -> nn.Module:
        torch.manual_seed(6)
        layers = (
            nn.Linear(FEATURES, torch.Size(self.shape).numel()),
            nn.Softplus(),
            nn.Unflatten(1, self.shape),
        )
        return nn.Sequential(*layers)

    def regret(self, solution: Tensor) -> Tensor:
        sign = 1.0 if self.sense == "min" else -1.0
        return sign * (self.truth * (solution - self.best)).sum() / B


TASKS = {
    "path": lambda: Task(shortest_path, "min", (4, 4), single=True),
    "assignment": lambda: Task(assignment, "min", (4, 4), single=True),
    "ranking": lambda: Task(ranks, "max", (6,), single=False),
}

ESTIMATORS: dict[str, Callable[[str], Estimator]] = {
    "gaussian": lambda sense: PerturbedOptimizer(20, 0.3),
    "lognormal": lambda sense: PerturbedOptimizer(10, 0.4, noise="lognormal"),
    "interpolation": lambda sense: BlackboxInterpolation(sense, lambd=10.0),
    "implicit": lambda sense: ImplicitMLE(sense, lambd=10.0, num_samples=3, sigma=0.2),
    "adaptive": lambda sense: ImplicitMLE(sense, "adaptive", num_samples=3, sigma=0.2),
}


def relative_regret(task: Task, network: nn.Module, loss: Callable[[Tensor], Tensor], steps: int) -> float:
    """Train and return the regret of the solver itself, relative to that before."""

    def measure() -> float:
        with torch.no_grad():
            return task.regret(task.solve(network(task.features))).item()

    before = measure()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(task.features)).backward()
        optimizer.step()
    return measure() / before


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("task", TASKS)
def test_regret_falls(task: str, name: str) -> None:
    setting = TASKS[task]()
    layer = setting.wrap(ESTIMATORS[name](setting.sense))
    assert relative_regret(setting, setting.network(), lambda theta: setting.regret(layer(theta)), 50) < 0.25


@pytest.mark.parametrize("task", TASKS)
def test_regret_falls_from_target_solutions(task: str) -> None:
    setting = TASKS[task]()
    loss = FenchelYoungLoss(setting.solve, setting.sense, num_samples=5, sigma=0.3)
    fraction = relative_regret(setting, setting.network(), lambda theta: loss(theta, setting.best).mean(), 50)
    assert fraction < 0.25


def test_regret_falls_straight_through_a_soft_rank() -> None:
    """The gradient of pairwise comparisons, each a sigmoid, with the value of the exact ranks."""
    setting = TASKS["ranking"]()
    layer = setting.wrap(
        StraightThrough(lambda s: torch.sigmoid((s.unsqueeze(2) - s.unsqueeze(1)) / 0.3).sum(2) - 0.5)
    )
    assert relative_regret(setting, setting.network(), lambda theta: setting.regret(layer(theta)), 50) < 0.25


@pytest.mark.parametrize("name", ["interpolation", "implicit"])
def test_the_sense_decides_whether_training_gets_there(name: str) -> None:
    """With the wrong sense the solver is asked for worse solutions to move away from."""
    setting = TASKS["assignment"]()
    fractions = {}
    for sense in ("min", "max"):
        layer = setting.wrap(ESTIMATORS[name](sense))
        fractions[sense] = relative_regret(
            setting, setting.network(), lambda theta, layer=layer: setting.regret(layer(theta)), 50
        )
    assert fractions["min"] < 0.5 * fractions["max"]
