"""``f(x) = round(4 tanh(A x + sin(2 C x) / 2)) / 4``: a non-linear network read out in nine steps."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.networks import mlp
from benchmarks.tasks.task import Objective, Task

_BATCH, _INPUTS, _OUTPUTS = 16, 30, 8


def rounded_tanh_task() -> Task:
    rng = np.random.default_rng(30)
    a, c = torch.from_numpy(
        rng.standard_normal((2, _OUTPUTS, _INPUTS)) / math.sqrt(_INPUTS)
    ).float()  # (m, n)
    start, hidden = torch.from_numpy(rng.standard_normal((2, _BATCH, _INPUTS))).float()

    def function(x: Tensor) -> Tensor:
        return torch.round(4 * torch.tanh(x @ a.T + torch.sin(2 * x @ c.T) / 2)) / 4

    target = function(hidden)
    return Task(
        name="rounded_tanh",
        summary="8 outputs in steps of 1/4 from 30 inputs; the loss asks for another point's outputs",
        function=function,
        interface="torch",
        start=start,
        sigma=0.3,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        surrogate=lambda: mlp(_INPUTS, _OUTPUTS, width=128),
        objective=Objective(learning_rate=0.05),
    )
