"""Surrogate networks of the bypass."""

from __future__ import annotations

from torch import nn


def mlp(num_inputs: int, num_outputs: int, width: int = 128) -> nn.Sequential:
    """Make a perceptron ``(R, n) -> (R, m)`` with two hidden layers of ``width`` SiLU units.

    A smooth activation: the bypass uses the network's derivative, not only its value.
    """
    return nn.Sequential(
        nn.Linear(num_inputs, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, num_outputs),
    )
