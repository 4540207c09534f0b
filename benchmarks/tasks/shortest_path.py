"""Cheapest path across a grid: networkx as the black box, a set of cells as the output.

Inputs are log-costs of entering the cells; the output marks the cells of the cheapest path from the
first to the last corner, as in learning costs from demonstrated paths (Pogancic et al., ICLR 2020).
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.tasks.task import Task

_SIDE = 4
_CELLS = _SIDE * _SIDE
_BATCH = 4


def _grid() -> nx.DiGraph:
    square = nx.convert_node_labels_to_integers(nx.grid_2d_graph(_SIDE, _SIDE), ordering="sorted")
    return square.to_directed()


def path_cells(log_costs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, n) -> (R, n), 1 on the cells of the cheapest path."""
    grid = _grid()
    marks = np.zeros(log_costs.shape)
    for row, costs in enumerate(np.exp(log_costs).tolist()):
        path = nx.dijkstra_path(grid, 0, _CELLS - 1, weight=lambda _, cell, __, costs=costs: costs[cell])
        marks[row, path] = 1
    return marks


def path_cells_by_enumeration(log_costs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute the same by the cost of each of the 184 simple paths; quick for many rows."""
    paths = simple_paths()  # (P, n)
    cheapest = (np.exp(log_costs) @ paths.T).argmin(-1)  # (R,)
    return np.take(paths, cheapest, axis=0)


def simple_paths() -> npt.NDArray[np.float64]:
    """(P, n): the cells of every path between the corners that visits no cell twice."""
    paths = list(nx.all_simple_paths(_grid(), 0, _CELLS - 1))
    marks = np.zeros((len(paths), _CELLS))
    for row, path in enumerate(paths):
        marks[row, path] = 1
    return marks


def shortest_path_task() -> Task:
    rng = np.random.default_rng(16)
    start, hidden = 0.5 * rng.standard_normal((2, _BATCH, _CELLS))
    target = torch.from_numpy(path_cells(hidden)).float()
    return Task(
        name="shortest_path",
        summary="cheapest path across a 4x4 grid (networkx); the loss asks for a demonstrated path",
        function=path_cells,
        interface="numpy",
        start=torch.from_numpy(start).float(),
        sigma=0.25,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        fast_function=path_cells_by_enumeration,
    )
