"""A function in the place of a fitted network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

STILL = functools.partial(torch.optim.SGD, lr=0.0)  # a fit that leaves the network alone


class Given(nn.Module):
    """A function as a network, with a parameter that changes nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, *z: Tensor) -> Tensor:
        return self.function(*z) * self.one.detach() + 0 * self.one
