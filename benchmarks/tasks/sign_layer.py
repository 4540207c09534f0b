"""``f(x) = sign(x W + b)``: a layer of hard units whose derivative is zero almost everywhere.

Unit ``j`` sees ``a_j + sigma |w_j| xi`` with ``a = x W + b`` and ``xi ~ N(0, 1)``; its mean is
``2 Phi(a_j / s_j) - 1`` with ``s_j = sigma |w_j|``, and the smoothed gradient is
``sum_j v_j 2 phi(a_j / s_j) / s_j w_j``.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks.task import Task

_SIGMA = 0.3
_SHAPE = (12, 5)  # n, m
_BATCH = 6


def smoothed_gradient(x: Tensor, v: Tensor, weight: Tensor, bias: Tensor, sigma: float) -> Tensor:
    """(B, n), (B, m), (n, m), (m,) -> (B, n)."""
    scale = sigma * weight.norm(dim=0)  # (m,)
    t = (x @ weight + bias) / scale  # (B, m)
    density = torch.exp(-t.square() / 2) / math.sqrt(2 * math.pi)
    slope: Tensor = v * 2 * density / scale  # (B, m)
    return slope @ weight.T


def sign_layer_task() -> Task:
    rng = np.random.default_rng(12)
    n, m = _SHAPE
    weight = torch.from_numpy(rng.standard_normal(_SHAPE) / math.sqrt(n)).float()
    bias = torch.from_numpy(0.2 * rng.standard_normal(m)).float()
    start, hidden = torch.from_numpy(rng.standard_normal((2, _BATCH, n))).float()

    def function(x: Tensor) -> Tensor:
        return torch.sign(x @ weight + bias)

    target = function(hidden)
    return Task(
        name="sign_layer",
        summary="signs of 5 linear functions of 12 inputs; the loss asks for the signs of another point",
        function=function,
        interface="torch",
        start=start,
        sigma=_SIGMA,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        closed_form=lambda x, v: smoothed_gradient(x, v, weight, bias, _SIGMA),
    )
