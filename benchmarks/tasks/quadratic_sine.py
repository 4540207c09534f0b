"""``f(x) = |x|^2 + sum sin(3 x) / 2 + 5``: smooth, and known in closed form under smoothing.

For ``eps ~ N(0, I)``, ``E |x + sigma eps|^2 = |x|^2 + n sigma^2`` and
``E sin(3 x + 3 sigma eps) = sin(3 x) exp(-9 sigma^2 / 2)``, so that the smoothed gradient is
``2 x + 1.5 cos(3 x) exp(-9 sigma^2 / 2)``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.tasks.task import Objective, Task


def quadratic_sine(x: Tensor) -> Tensor:
    """(R, n) -> (R, 1)."""
    return x.square().sum(-1, keepdim=True) + torch.sin(3 * x).sum(-1, keepdim=True) / 2 + 5


def smoothed_gradient(x: Tensor, v: Tensor, sigma: float) -> Tensor:
    """Gradient of ``<v, E f(x + sigma eps)>``: (B, n) and (B, 1) -> (B, n)."""
    damping = math.exp(-9 * sigma**2 / 2)
    return v * (2 * x + 1.5 * damping * torch.cos(3 * x))


def quadratic_sine_task() -> Task:
    return _task("quadratic_sine", "smooth function of 10 inputs", num_inputs=10, sigma=0.05, noise=0.0)


def quadratic_sine_100_task() -> Task:
    return _task("quadratic_sine_100", "the same in 100 inputs", num_inputs=100, sigma=0.05, noise=0.0)


def quadratic_sine_2_task() -> Task:
    return _task("quadratic_sine_2", "the same in 2 inputs", num_inputs=2, sigma=0.05, noise=0.0)


def quadratic_sine_1000_task() -> Task:
    return _task(
        "quadratic_sine_1000", "the same in 1000 inputs", num_inputs=1000, sigma=0.05, noise=0.0, batch=2
    )


def quadratic_sine_10000_task() -> Task:
    task = _task("quadratic_sine_10000", "the same in 10 000 inputs", 10_000, sigma=0.05, noise=0.0, batch=2)
    return replace(task, most_evaluations=2000)


def quadratic_sine_rows_task() -> Task:
    return _task(
        "quadratic_sine_rows", "64 independent rows of 20 inputs", 20, sigma=0.05, noise=0.0, batch=64
    )


def noisy_quadratic_sine_task() -> Task:
    summary = "20 inputs, and normal noise of deviation 0.2 on every value"
    return _task("noisy_quadratic_sine", summary, num_inputs=20, sigma=0.3, noise=0.2)


def _task(name: str, summary: str, num_inputs: int, sigma: float, noise: float, batch: int = 6) -> Task:
    rng = np.random.default_rng(num_inputs)

    def function(x: Tensor) -> Tensor:
        y = quadratic_sine(x)
        return y + noise * torch.randn_like(y) if noise else y

    return Task(
        name=name,
        summary=summary,
        function=function,
        interface="torch",
        start=torch.from_numpy(rng.uniform(-1.5, 1.5, (batch, num_inputs))).float(),  # (B, n)
        sigma=sigma,
        loss=lambda y: y.squeeze(-1),
        closed_form=lambda x, v: smoothed_gradient(x, v, sigma),
        objective=Objective(name="f(x)", learning_rate=0.05),
    )
