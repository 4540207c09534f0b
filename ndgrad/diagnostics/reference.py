"""Gradients to compare with: differences of f itself, or a smoothed gradient from many draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.diagnostics.estimates import Difference, difference
from ndgrad.diagnostics.isolation import seeded
from ndgrad.diagnostics.landscape import Landscape
from ndgrad.diagnostics.problem import Problem
from ndgrad.estimators import EvolutionStrategy, FiniteDifference

_BATCHES = 10  # independent parts of a smoothed reference, which give its standard error


@dataclass(frozen=True)
class Reference:
    """A gradient (B, n), what it is in words, and its variance in each entry (B, n)."""

    name: str
    gradient: Tensor
    variance: Tensor


def smoothed(problem: Problem, sigma: float, directions: str, evaluations: int, seed: int) -> Tensor:
    """Estimate the gradient of the smoothed objective in independent parts, (R, B, n).

    The same seed draws the same directions for every sigma, so that two of them can be compared part by part.
    """
    S = max(evaluations // (2 * _BATCHES), 1)
    parts = []
    for batch in range(_BATCHES):
        with seeded(seed + batch):
            parts.append(problem.gradient(EvolutionStrategy(S, sigma, directions=directions)))
    return torch.stack(parts)


def smoothed_reference(parts: Tensor, sigma: float) -> Reference:
    """Pool the parts (R, B, n)."""
    return Reference(f"f smoothed over sigma = {sigma:.3g}", parts.mean(0), parts.var(0) / len(parts))


def difference_reference(problem: Problem, landscape: Landscape) -> Reference:
    """Central differences; their error is estimated by doubling the step."""
    assert landscape.slopes is not None
    error = (_with_doubled_step(problem) - landscape.slopes) / 3
    return Reference("f, by central differences", landscape.slopes, error.square())


def _with_doubled_step(problem: Problem) -> Tensor:
    """Central differences with about twice the default step."""
    x = torch.cat([t.double().flatten() for t in problem.inputs])
    scale = float(x.abs().clamp(min=1).square().mean().sqrt())
    eps = torch.finfo(problem.inputs[0].dtype).eps ** (1 / 3)
    return problem.gradient(FiniteDifference(eps=2 * eps * scale))


def smoothing_change(parts: Tensor, halved: Tensor) -> Difference:
    """Say how far the smoothed gradient moves when sigma is halved, by parts with common directions (R, B, n)."""
    change = halved - parts
    return difference(parts.mean(0), halved.mean(0), change.var(0) / len(change))
