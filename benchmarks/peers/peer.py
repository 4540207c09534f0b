"""What a peer is: another library's gradient estimator behind one function, and how it spends a budget.

An adapter turns a `Problem` into the library's own number, written as that library's documentation tells its
users to. Where the number is not the gradient asked for, a `Conversion` says by which factor and why; the
comparison shows both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from benchmarks.tasks.task import NO_SOLVER, Sense

RowValue: TypeAlias = Callable[[Tensor], Tensor]  # points (..., n) of one row -> <v, f(z)>, (...)


@dataclass(frozen=True)
class Problem:
    """One gradient to estimate: that of ``<v, E f(x + sigma eps)>``, row by row.

    ``f`` is the black box with flat rows. It counts, and refuses to be called more often than allowed.
    """

    f: Callable[[Tensor], Tensor]  # (R, n) -> (R, m)
    x: Tensor  # (B, n)
    v: Tensor  # (B, m)
    sigma: float
    num_samples: int
    seed: int
    sense: Sense | None = None  # of a solver, see `Task.sense`

    @property
    def num_inputs(self) -> int:
        return self.x.shape[1]

    @property
    def step(self) -> float:
        """Return the step of central differences that is best for the smoothed gradient, ``sqrt(3) sigma``.

        With t the third derivative, smoothing adds ``sigma^2 t / 2`` to the first, a central difference ``h^2 t / 6``.
        """
        return math.sqrt(3) * self.sigma

    def values(self, z: Tensor) -> Tensor:
        """``<v_b, f(z_b)>`` for every row: (..., B, n) -> (..., B)."""
        y = self.f(z.detach().to(self.x.dtype).flatten(0, -2))  # (R, m)
        return (y.unflatten(0, z.shape[:-1]) * self.v).sum(-1)

    def by_row(self, estimate: Callable[[RowValue, Tensor], Tensor]) -> Tensor:
        """Estimate one row after the other, for libraries that know scalar functions of one point only."""
        return torch.stack([estimate(self._row_value(b), x.clone()) for b, x in enumerate(self.x)])

    def _row_value(self, b: int) -> RowValue:
        def value(z: Tensor) -> Tensor:
            y = self.f(z.detach().to(self.x.dtype).reshape(-1, z.shape[-1]))  # (R, m)
            return (y @ self.v[b]).reshape(z.shape[:-1])

        return value


Estimate: TypeAlias = Callable[[Problem], Tensor]  # the library's own number, (B, n)


@dataclass(frozen=True)
class Conversion:
    """``gradient = factor(problem) * raw``, and the words for it."""

    formula: str
    factor: Callable[[float, int], float]  # sigma, num_samples


@dataclass(frozen=True)
class Peer:
    """One estimator of another library.

    ``make()`` imports the library and returns a fresh estimate; it is called once per run. ``value`` counts the
    evaluations that the library spends beside its probes. ``kind`` tells random directions from difference
    quotients along the axes and from gradients of solvers.
    """

    library: str  # as on the package index
    module: str  # as imported
    make: Callable[[], Estimate]
    kind: Literal["sampling", "differences", "solver"]
    note: str  # the setting, and what was done for batches
    probes_per_sample: int = 1
    probes_per_input: int = 0
    minimum_samples: int = 1
    value: int = 0
    learns: bool = False
    conversion: Conversion | None = None
    reason_against: Callable[[int, int], str | None] = lambda num_inputs, num_samples: None

    def reason_to_skip(self, num_inputs: int, sense: Sense | None, num_samples: int) -> str | None:
        """Say why this peer cannot run here, or None."""
        if not installed(self.module):
            return f"{self.library} is not installed; type pip install 'ndgrad[peers]'"
        if self.kind == "solver" and sense is None:
            return NO_SOLVER
        return self.reason_against(num_inputs, num_samples)

    def factor(self, sigma: float, num_samples: int) -> float:
        """By what the library's number is multiplied to be the gradient asked for."""
        return 1.0 if self.conversion is None else self.conversion.factor(sigma, num_samples)


def installed(module: str) -> bool:
    """Tell whether ``module`` could be imported, without importing more than its parents."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
