"""A line of queues in NumPy: how many customers wait too long, and what the speed costs.

Lindley's recursion for stations in series: customer ``k`` leaves station ``j`` at
``D[k, j] = max(D[k, j-1], D[k-1, j]) + S[k, j]``, with ``D[k, -1]`` the arrival. Arrivals and unit service
times are fixed draws (common random numbers), so that the box is deterministic; the share of customers
whose wait exceeds a limit moves in steps of one customer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.tasks.task import Objective, Task

_STATIONS = 5
_CUSTOMERS = 40
_LIMIT = 1.0  # mean interarrival times
_BATCH = 7

_RNG = np.random.default_rng(5)
_ARRIVALS = _RNG.exponential(size=_CUSTOMERS).cumsum()  # (K,)
_UNIT_SERVICE = _RNG.gamma(2.0, 0.5, size=(_CUSTOMERS, _STATIONS))  # (K, n), mean 1


def late_shares_and_price(log_speed: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(R, n) -> (R, n + 1): share of customers who wait too long at each station, and the mean speed."""
    speed = np.exp(log_speed)
    left = np.zeros_like(speed)  # (R, n) when the customer before left each station
    late = np.zeros_like(speed)
    for arrival, unit in zip(_ARRIVALS, _UNIT_SERVICE, strict=True):
        here = np.full(len(speed), arrival)  # (R,)
        for j in range(_STATIONS):
            begin = np.maximum(here, left[:, j])
            late[:, j] += begin - here > _LIMIT
            here = left[:, j] = begin + unit[j] / speed[:, j]
    return np.concatenate([late / _CUSTOMERS, speed.mean(-1, keepdims=True)], axis=-1)


def _cost(y: Tensor) -> Tensor:
    return 3 * y[:, :-1].sum(-1) + y[:, -1].square() / 2  # (B,)


def tandem_queue_task() -> Task:
    rng = np.random.default_rng(55)
    return Task(
        name="tandem_queue",
        summary="5 queues in series (NumPy): share of late customers and mean speed, from 5 log-speeds",
        function=late_shares_and_price,
        interface="numpy",
        start=torch.from_numpy(0.25 + 0.3 * rng.standard_normal((_BATCH, _STATIONS))).float(),
        sigma=0.15,
        loss=_cost,
        objective=Objective(name="cost", learning_rate=0.05),
    )
