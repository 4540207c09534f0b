"""Gradients to compare with: differences of f itself, or a smoothed gradient from many draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.diagnostics.estimates import Difference, difference
from ndgrad.diagnostics.isolation import seeded
from ndgrad.diagnostics.landscape import Landscape, rounding_unit, steps
from ndgrad.diagnostics.problem import Problem, side_by_side
from ndgrad.estimators import EvolutionStrategy, FiniteDifference

_BATCHES = 10  # independent parts of a smoothed reference, which give its standard error
_UNSETTLED = 0.1  # of the gradient: what changes so much with the step, or by rounding, is no reference


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


def difference_reference(problem: Problem, landscape: Landscape) -> Reference | None:
    """Central differences, their error from doubling the step and from rounding; None where they say too little.

    Of the steps h and 2 h, the errors of order h^2 are in the ratio 1:4.
    """
    slopes, h = landscape.slopes, _columns(problem, steps(problem))  # (B, n), (n,)
    assert slopes is not None
    doubled = tuple(2 * step for step in steps(problem))
    change = problem.gradient(FiniteDifference(eps=doubled)) - slopes
    rounding = _rounding_of_differences(problem, h)
    doubt = float((change * h).norm() + (rounding * h).norm())  # times h: inputs of any units count the same
    if not doubt <= _UNSETTLED * float((slopes * h).norm()):
        return None
    return Reference("f, by central differences", slopes, (change / 3).square() + rounding.square())


def _rounding_of_differences(problem: Problem, h: Tensor) -> Tensor:
    """``sqrt 2 (eps/2) |v f| / 2 h``: standard deviation if each output errs by half a unit for itself, (B, n)."""
    values = problem.values(problem.inputs)
    terms = side_by_side([y * v for y, v in zip(values, problem.cotangent, strict=True)])
    error = rounding_unit(problem) / 2 * terms.double().cpu().norm(dim=1, keepdim=True)  # (B, 1)
    return 2**0.5 * error / (2 * h)


def _columns(problem: Problem, numbers: tuple[float, ...]) -> Tensor:
    """Repeat the number of each input for its entries in a row, (n,)."""
    parts = zip(numbers, problem.inputs, strict=True)
    return torch.cat([torch.full((x.shape[1:].numel(),), a, dtype=torch.float64) for a, x in parts])


def smoothing_change(parts: Tensor, halved: Tensor) -> Difference:
    """Say how far the smoothed gradient moves when sigma is halved, by parts with common directions (R, B, n)."""
    change = halved - parts
    return difference(parts.mean(0), halved.mean(0), change.var(0) / len(change))
