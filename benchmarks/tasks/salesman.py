"""A travelling salesman's heuristic with its distances bent: which bending makes it find short tours?

The box goes from city to city, always to the one that looks nearest, where distances look ``exp(x)`` times what they
are. It returns the true length of the tour: constant in ``x`` almost everywhere, and far from convex.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.tasks.task import Objective, Task

_CITIES = 9
_BATCH = 4
_PAIRS = np.triu_indices(_CITIES, 1)
_PLACES = np.random.default_rng(99).uniform(size=(_CITIES, 2))
_DISTANCES = np.linalg.norm(_PLACES[:, None] - _PLACES, axis=-1)  # (C, C)


def tour_length(bending: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, n) -> (R, 1), n = 36 pairs of cities."""
    R = len(bending)
    rows = np.arange(R)
    seen = np.zeros((R, _CITIES, _CITIES))
    seen[:, _PAIRS[0], _PAIRS[1]] = _DISTANCES[_PAIRS] * np.exp(bending)
    seen = seen + seen.transpose(0, 2, 1)
    open_cities, here, length = np.ones((R, _CITIES), bool), np.zeros(R, int), np.zeros(R)
    for _ in range(_CITIES - 1):
        open_cities[rows, here] = False
        there = np.where(open_cities, seen[rows, here], np.inf).argmin(-1)  # (R,)
        length += _DISTANCES[here, there]
        here = there
    return (length + _DISTANCES[here, 0])[:, None]


def salesman_task() -> Task:
    rng = np.random.default_rng(9)
    return Task(
        name="salesman",
        summary="length of the nearest-neighbour tour of 9 cities (NumPy), 36 distances bent",
        function=tour_length,
        interface="numpy",
        start=torch.from_numpy(0.5 * rng.standard_normal((_BATCH, _PAIRS[0].size))).float(),
        sigma=0.3,
        loss=lambda y: y.squeeze(-1),
        objective=Objective(name="tour length", learning_rate=0.05),
    )
