"""What every backend agrees on beside the arithmetic: which costs cannot be ranked."""

from __future__ import annotations

import torch
from torch import Tensor


def lowest_cost(costs: Tensor) -> float:
    """Least cost whose sum over N lines cannot overflow to ``-inf``; an ``inf - inf`` ranks nothing."""
    return -torch.finfo(costs.dtype).max / (2 * costs.shape[1])


def reject_low_costs(costs: Tensor) -> None:
    """Raise ValueError if an entry of ``costs`` (B, N, M) is ``-inf`` or lies below ``lowest_cost``."""
    lowest = lowest_cost(costs)
    if bool((costs < lowest).any()):
        raise ValueError(
            f"unary holds -inf or costs below {lowest:.1e}, whose sums cannot be ranked; "
            "use a large finite reward such as -1e6"
        )
