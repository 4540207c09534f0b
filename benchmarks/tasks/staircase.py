"""A sum of stairs in n inputs, ``f(x) = sum_i c_i round(2 x_i) / 2``: constant almost everywhere.

Step ``k`` of a stair lies at ``t_k = (k + 1/2) / 2`` and has height 1/2. Smoothed, it climbs with the normal density,
so that the gradient of ``E f(x + sigma eps)`` is ``c_i sum_k phi((x_i - t_k) / sigma) / (2 sigma)``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks.task import Task

_SIGMA = 0.2
_STEPS = (torch.arange(-40, 40) + 0.5) / 2  # t_k; all that |x| < 19 can see


def smoothed_slope(x: Tensor, sigma: float) -> Tensor:
    """Return the derivative of the smoothed stair at every entry, like ``x``."""
    t = (x[..., None] - _STEPS.to(x.dtype)) / sigma
    return torch.exp(-t.square() / 2).sum(-1) / (2 * sigma * math.sqrt(2 * math.pi))


def staircase_2_task() -> Task:
    return _task("staircase_2", num_inputs=2, batch=8)


def staircase_30_task() -> Task:
    return _task("staircase_30", num_inputs=30, batch=5)


def staircase_300_task() -> Task:
    return _task("staircase_300", num_inputs=300, batch=3)


def staircase_10000_task() -> Task:
    return replace(_task("staircase_10000", num_inputs=10_000, batch=2), most_evaluations=2000)


def _task(name: str, num_inputs: int, batch: int) -> Task:
    rng = np.random.default_rng(num_inputs)
    weight = torch.from_numpy(rng.uniform(0.5, 1.5, num_inputs) / math.sqrt(num_inputs)).float()  # (n,)
    start, hidden = torch.from_numpy(rng.standard_normal((2, batch, num_inputs))).float()

    def function(x: Tensor) -> Tensor:
        return (torch.round(2 * x) / 2) @ weight[:, None]  # (R, 1)

    target = function(hidden)
    return Task(
        name=name,
        summary=f"weighted sum of {num_inputs} stairs with steps of 1/2; the loss asks for another point's sum",
        function=function,
        interface="torch",
        start=start,
        sigma=_SIGMA,
        loss=lambda y: (y - target).square().sum(-1) / 2,
        closed_form=lambda x, v: v * weight * smoothed_slope(x, _SIGMA),
    )
