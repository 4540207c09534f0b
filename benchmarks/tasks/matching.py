"""Bipartite matching: SciPy's assignment as the black box, costs in, a permutation matrix out."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

from benchmarks.tasks.task import Task

_SIDE = 6
_BATCH = 4


def assignment(costs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, n) -> (R, n), n = 36: 1 where a worker is given a job, in rows of workers."""
    marks = np.zeros((len(costs), _SIDE, _SIDE))
    for row, matrix in enumerate(costs.reshape(-1, _SIDE, _SIDE)):
        marks[(row, *linear_sum_assignment(matrix))] = 1
    return marks.reshape(len(costs), -1)


def assignment_by_enumeration(costs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the same by the cost of each of the 720 permutations; quick for many rows."""
    candidates = _permutation_matrices()  # (P, n)
    return np.take(candidates, (costs.astype(float) @ candidates.T).argmin(-1), axis=0)


@cache
def _permutation_matrices() -> npt.NDArray[np.float64]:
    return np.stack([np.eye(_SIDE)[list(p)].ravel() for p in itertools.permutations(range(_SIDE))])


def matching_task() -> Task:
    rng = np.random.default_rng(36)
    start, hidden = rng.standard_normal((2, _BATCH, _SIDE**2))
    target = torch.from_numpy(assignment(hidden)).float()
    return Task(
        name="matching",
        summary="cheapest matching of 6 workers and 6 jobs (SciPy); the loss asks for a demonstrated one",
        function=assignment,
        interface="numpy",
        start=torch.from_numpy(start).float(),
        sigma=0.3,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        fast_function=assignment_by_enumeration,
        sense="minimize",
    )
