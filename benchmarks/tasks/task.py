"""What a benchmark task is: a black box, a point, a loss, and where the true gradient comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

import ndgrad
from benchmarks.networks import OutputScale, mlp

Rows = Callable[[Any], Any]  # (R, ...) -> (R, ...), every row on its own
Sense = Literal["minimize", "maximize"]
NO_SOLVER = "needs a solver whose inputs are the costs of its outputs"  # where a task has no sense
Train = Callable[[ndgrad.Estimator, int], tuple[float, float]]  # estimator, steps -> score before and after


class TaskUnavailableError(RuntimeError):
    """The task needs something that this machine lacks; the message is the reason to print."""


@dataclass(frozen=True)
class Objective:
    """What optimising a task means and how its score reads.

    ``train`` replaces the plain descent on ``Task.loss`` where the task has a training of its own.
    """

    name: str = "loss"
    higher_is_better: bool = False
    learning_rate: float = 0.1  # of Adam
    seeds: int | None = None  # at most so many runs, where one is expensive
    train: Train | None = None


@dataclass(frozen=True)
class Task:
    """A black box with a point at which its smoothed gradient is known.

    The quantity measured is the gradient of ``<v, E f(x + sigma eps)>``, ``eps ~ N(0, I)``, at
    ``x = start`` with ``v`` the gradient of the loss at ``f(start)``: the first gradient that a descent on
    the loss would use.
    """

    name: str
    summary: str
    function: Rows
    interface: Literal["torch", "numpy"]
    start: Tensor  # (B, ...)
    sigma: float
    loss: Callable[[Tensor], Tensor]  # (B, m) -> (B,)
    closed_form: Callable[[Tensor, Tensor], Tensor] | None = None  # x, v -> smoothed gradient; None: stored
    surrogate: Callable[[], nn.Module] | None = None  # None: a perceptron with two hidden layers of 64
    objective: Objective = Objective()
    fast_function: Rows | None = None  # the same values by another algorithm, for the stored reference
    most_evaluations: int = 100_000  # per row, that fit into memory at once
    sense: Sense | None = (
        None  # of a solver whose inputs are the costs of its outputs, for libraries of solvers
    )

    @property
    def batch(self) -> int:
        return self.start.shape[0]

    @property
    def num_inputs(self) -> int:
        return self.start[0].numel()

    @property
    def num_outputs(self) -> int:
        return self.cotangent[0].numel()

    def values(self, x: Tensor) -> Tensor:
        """``f(x)`` without gradients or counting, in the dtype of ``x``."""
        return _call(self.function, self.interface, x)

    def fast_values(self, x: Tensor) -> Tensor:
        """``f(x)`` by the quickest route at hand."""
        return _call(self.fast_function or self.function, self.interface, x)

    @cached_property
    def cotangent(self) -> Tensor:
        """``v = d loss / d y`` at ``y = f(start)``."""
        return self.cotangent_at(self.values(self.start))

    def cotangent_at(self, y: Tensor) -> Tensor:
        """``d loss / d y``, (B, m) like ``y``."""
        y = y.detach().requires_grad_()
        (v,) = torch.autograd.grad(self.loss(y).sum(), y)
        return v

    def score(self, x: Tensor) -> float:
        """Return the loss at ``x``, averaged over the rows."""
        return float(self.loss(self.values(x)).mean())

    def make_surrogate(self) -> nn.Module:
        """Make an unfitted network for the bypass, from the global random state.

        Its output is scaled by the values at the start, which an optimisation knows anyway.
        """
        if self.surrogate is not None:
            return self.surrogate()
        network = mlp(self.num_inputs, self.num_outputs, width=64)
        return nn.Sequential(network, OutputScale(self.values(self.start)))


def _call(function: Rows, interface: str, x: Tensor) -> Tensor:
    with torch.no_grad():
        given = x.detach().numpy() if interface == "numpy" else x.detach()
        return torch.as_tensor(function(given)).to(x.dtype)
