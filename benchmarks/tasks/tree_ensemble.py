"""A boosted ensemble of symmetric decision trees, in NumPy: what a tabular model looks like from outside.

Each tree asks the same three questions ``x_f > t`` on every path and returns one of eight numbers. Its questions look
at different inputs, so that under independent noise the answers are independent: bit ``j`` is 1 with
``p_j = Phi((x_f - t) / sigma)``, a leaf is reached with the product of its bits' probabilities, and the smoothed
gradient is that of this sum.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.tasks.task import Objective, Task

_SIGMA = 0.3
_BATCH, _INPUTS, _OUTPUTS = 6, 14, 2
_TREES, _DEPTH = 40, 3

_RNG = np.random.default_rng(14)
_FEATURES = np.stack(
    [_RNG.permutation(_INPUTS)[:_DEPTH] for _ in range(_TREES)]
)  # (T, D), distinct in a tree
_THRESHOLDS = _RNG.standard_normal((_TREES, _DEPTH))
_LEAVES = _RNG.standard_normal((_TREES, 2**_DEPTH, _OUTPUTS)) / math.sqrt(_TREES)  # (T, 2^D, m)
_BITS = np.array(list(itertools.product((0, 1), repeat=_DEPTH)))  # (2^D, D), first question first


def predict(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(R, n) -> (R, m)."""
    answers = x[:, _FEATURES] > _THRESHOLDS  # (R, T, D)
    leaf = answers @ (2 ** np.arange(_DEPTH)[::-1])  # (R, T)
    return _LEAVES[np.arange(_TREES), leaf].sum(1)


def smoothed(x: Tensor, sigma: float) -> Tensor:
    """``E f(x + sigma eps)``, (B, n) -> (B, m), differentiable."""
    t = (x[:, torch.from_numpy(_FEATURES)] - torch.from_numpy(_THRESHOLDS)) / sigma  # (B, T, D)
    p, bits = torch.special.ndtr(t)[:, :, None], torch.from_numpy(_BITS)  # (B, T, 1, D), (2^D, D)
    reached = torch.where(bits > 0, p, 1 - p).prod(-1)  # (B, T, 2^D)
    return torch.einsum("btl,tlm->bm", reached, torch.from_numpy(_LEAVES))


def smoothed_gradient(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """(B, n), (B, m) -> (B, n)."""
    with torch.enable_grad():
        point = x.detach().double().requires_grad_()
        (g,) = torch.autograd.grad(smoothed(point, sigma), point, v.double())
    return g.to(x.dtype)


def tree_ensemble_task() -> Task:
    rng = np.random.default_rng(41)
    return Task(
        name="tree_ensemble",
        summary="40 decision trees of depth 3 on 14 inputs (NumPy): raise the first output, keep the second",
        function=predict,
        interface="numpy",
        start=torch.from_numpy(rng.standard_normal((_BATCH, _INPUTS))).float(),
        sigma=_SIGMA,
        loss=lambda y: y[:, 1].square() / 2 - y[:, 0],
        closed_form=lambda x, v: smoothed_gradient(x, v, _SIGMA),
        objective=Objective(learning_rate=0.05),
    )
