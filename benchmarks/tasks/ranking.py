"""Ranks of the entries of a vector: integers, constant almost everywhere, plain NumPy.

``rank_k = sum_j [x_j < x_k]``. Under smoothing ``[x_j < x_k]`` becomes ``Phi((x_k - x_j) / s)`` with
``s = sqrt(2) sigma``, so that the gradient of ``<v, E rank>`` is
``sum_j (v_k - v_j) phi((x_k - x_j) / s) / s``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.tasks.task import Task

_SIGMA = 0.25
_BATCH, _ENTRIES = 5, 9


def ranks(x: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(R, n) -> (R, n), 0 for the smallest entry."""
    return np.argsort(np.argsort(x, axis=-1), axis=-1)


def smoothed_gradient(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """(B, n), (B, n) -> (B, n)."""
    scale = math.sqrt(2) * sigma
    t = (x[:, :, None] - x[:, None, :]) / scale  # (B, n, n)
    density = torch.exp(-t.square() / 2) / (math.sqrt(2 * math.pi) * scale)
    return ((v[:, :, None] - v[:, None, :]) * density).sum(-1)


def ranking_task() -> Task:
    rng = np.random.default_rng(9)
    start, hidden = rng.standard_normal((2, _BATCH, _ENTRIES))
    target = torch.from_numpy(ranks(hidden))
    return Task(
        name="ranking",
        summary="ranks of 9 numbers (NumPy, integers); the loss asks for the order of another point",
        function=ranks,
        interface="numpy",
        start=torch.from_numpy(start).float(),
        sigma=_SIGMA,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        closed_form=lambda x, v: smoothed_gradient(x, v, _SIGMA),
        sense="maximize",  # the ranks are the permutation w of 0 .. n-1 with the largest <x, w>
    )
