"""Sorting by score: a page of results in NumPy, worth its discounted gain.

The box sorts items by their scores and returns their relevances in that order; the loss is minus the discounted
cumulative gain (Järvelin and Kekäläinen 2002), ``sum_k rel_k / log2(k + 1)`` over places ``k = 1, 2, ...``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.tasks.task import Objective, Task

_BATCH, _ITEMS = 5, 12
_RELEVANCE = np.random.default_rng(12).integers(0, 4, _ITEMS).astype(float)  # grades 0 to 3


def relevance_in_order(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(R, n) -> (R, n): the grades of the items, the one with the highest score first."""
    return _RELEVANCE[np.argsort(-scores, axis=-1, kind="stable")]


def sorting_task() -> Task:
    rng = np.random.default_rng(121)
    discount = 1 / torch.log2(torch.arange(_ITEMS) + 2.0)  # (n,)
    return Task(
        name="sorting",
        summary="12 items sorted by score (NumPy); the loss is minus the discounted gain of their grades",
        function=relevance_in_order,
        interface="numpy",
        start=torch.from_numpy(rng.standard_normal((_BATCH, _ITEMS))).float(),
        sigma=0.25,
        loss=lambda y: -(y * discount.to(y.dtype)).sum(-1),
        objective=Objective(name="- discounted gain"),
    )
