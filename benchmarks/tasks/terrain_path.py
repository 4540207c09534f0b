"""Cheapest path over terrain: a 12x12 grid with a cost on each vertex, SciPy's Dijkstra as the black box.

Steps go to all eight neighbours, and entering a vertex costs what stands on it, as in the Warcraft maps of Pogancic et
al. (ICLR 2020). Costs below a small positive number count as that number: Dijkstra takes no negative ones.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from benchmarks.tasks.task import Task

_SIDE = 12
_CELLS = _SIDE**2
_BATCH = 3
_LEAST = 1e-3  # the least cost of a vertex
_MOVES = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


def path_cells(costs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, n) -> (R, n), n = 144: 1 on the vertices of the cheapest path between two opposite corners."""
    tails, heads = _edges()
    marks = np.zeros(costs.shape)
    for row, cost in enumerate(np.maximum(costs.astype(float), _LEAST)):
        graph = csr_array((cost[heads], (tails, heads)), shape=(_CELLS, _CELLS))
        _, before = dijkstra(graph, indices=0, return_predecessors=True)
        cell = _CELLS - 1
        while cell >= 0:  # the predecessor of the first is negative
            marks[row, cell] = 1
            cell = before[cell]
    return marks


def path_cells_by_sweeps(costs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the same by Bellman and Ford's sweeps over all rows at once."""
    cost = np.maximum(costs.astype(float), _LEAST).reshape(-1, _SIDE, _SIDE)  # (R, H, W)
    R = len(cost)
    value = np.full((R, _SIDE + 2, _SIDE + 2), np.inf)  # with a border that no path enters
    value[:, 1, 1] = 0
    inner = value[:, 1:-1, 1:-1]
    while True:
        better = np.minimum(inner, _neighbours(value).min(0) + cost)
        if np.array_equal(better, inner):
            return _walk_back(_neighbours(value).argmin(0), R)
        inner[:] = better


def _neighbours(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(R, H+2, W+2) -> (8, R, H, W): the values around every vertex."""
    return np.stack([value[:, 1 + i : 1 + i + _SIDE, 1 + j : 1 + j + _SIDE] for i, j in _MOVES])


def _walk_back(come_from: npt.NDArray[np.intp], R: int) -> npt.NDArray[np.float64]:
    """Follow the moves (R, H, W) from the last corner to the first, all rows in step."""
    moves, rows = np.array(_MOVES), np.arange(R)
    place = np.full((R, 2), _SIDE - 1)
    marks = np.zeros((R, _SIDE, _SIDE))
    marks[:, 0, 0] = 1
    while place.any():
        marks[rows, place[:, 0], place[:, 1]] = 1
        step = moves[come_from[rows, place[:, 0], place[:, 1]]]  # (R, 2)
        place = np.where(place.any(1, keepdims=True), place + step, place)  # the first corner is the end
    return marks.reshape(R, _CELLS)


@cache
def _edges() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Tails and heads of all moves."""
    cells = [(i, j) for i in range(_SIDE) for j in range(_SIDE)]
    pairs = [
        (i * _SIDE + j, (i + di) * _SIDE + j + dj)
        for i, j in cells
        for di, dj in _MOVES
        if 0 <= i + di < _SIDE and 0 <= j + dj < _SIDE
    ]
    tails, heads = np.array(pairs).T
    return tails, heads


def terrain_path_task() -> Task:
    rng = np.random.default_rng(144)
    start, hidden = rng.uniform(0.5, 2.5, (2, _BATCH, _CELLS))
    target = torch.from_numpy(path_cells(hidden)).float()
    return Task(
        name="terrain_path",
        summary="cheapest path over 12x12 vertices (SciPy); the loss asks for a demonstrated path",
        function=path_cells,
        interface="numpy",
        start=torch.from_numpy(start).float(),
        sigma=0.3,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        fast_function=path_cells_by_sweeps,
        sense="minimize",
    )
