"""Repeated independent estimates of one gradient, and what they say without knowing the true one."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.diagnostics.isolation import reseed, seeded
from ndgrad.diagnostics.problem import Problem
from ndgrad.estimator import Estimator


@dataclass(frozen=True)
class Estimates:
    """Gradients (T, B, n), each with random numbers of its own; norms run over the whole batch."""

    samples: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean estimate, (B, n)."""
        return self.samples.mean(0)

    @property
    def variance_per_row(self) -> Tensor:
        """Trace of the covariance of one estimate, (B,)."""
        return self.samples.var(0).sum(-1)

    @property
    def signal_per_row(self) -> Tensor:
        """Squared norm of the expected gradient, unbiased, so possibly negative, (B,)."""
        return self.mean.square().sum(-1) - self.variance_per_row / len(self.samples)

    @property
    def snr(self) -> float:
        """``|E g| / sqrt(E |g - E g|^2)``; 0 where the mean does not stand out of its own noise."""
        signal, variance = self.signal_per_row.sum().clamp(min=0), self.variance_per_row.sum()
        return math.sqrt(signal / variance) if variance > 0 else (math.inf if signal > 0 else 0.0)

    @property
    def squared_error_of_mean(self) -> float:
        """Squared standard error of the mean estimate, over the whole batch."""
        return float(self.variance_per_row.sum()) / len(self.samples)


@dataclass(frozen=True)
class Difference:
    """The distance of two mean gradients, ``error`` being what their noise alone would make it.

    ``size`` is the norm of the second gradient. The noise is subtracted: ``distance^2 = |a - b|^2 - error^2``.
    """

    distance: float
    error: float
    size: float
    significant: bool

    @property
    def relative(self) -> float:
        """Distance over size."""
        return self.distance / self.size if self.size else (math.inf if self.distance else 0.0)

    @property
    def relative_error(self) -> float:
        """What noise alone would make of ``relative``."""
        return self.error / self.size if self.size else 0.0


def difference(a: Tensor, b: Tensor, variance: Tensor) -> Difference:
    """Compare means a and b, whose difference has this variance in each entry, (B, n) each.

    Without a difference, ``|a - b|^2`` has mean ``sum var`` and, as rows are independent but the entries of one row
    need not be, a variance of at most ``2 sum_b (sum_i var_bi)^2``; four standard deviations above are significant.
    """
    square, noise = float((a - b).square().sum()), float(variance.sum())
    limit = noise + 4 * math.sqrt(2 * float(variance.sum(1).square().sum()))
    rounding = 1e-10 * float(a.square().sum() + b.square().sum())
    return Difference(
        math.sqrt(max(square - noise, 0.0)), math.sqrt(noise), float(b.norm()), square > limit + rounding
    )


def repeat(problem: Problem, estimator: Estimator, repeats: int, seed: int) -> tuple[Estimates, list[Any]]:
    """Estimate the gradient ``repeats`` times, always from the estimator's present state.

    Returns:
        The estimates, and the fit quality of each where the estimator fits a network.

    """
    gradients, qualities = [], []
    for draw in range(repeats):
        own = copy.deepcopy(estimator)
        reseed(own, seed + draw)
        with seeded(seed + draw):
            gradients.append(problem.gradient(own))
        qualities.append(getattr(own, "quality", None))
    return Estimates(torch.stack(gradients)), [quality for quality in qualities if quality is not None]


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine over the whole batch; 0 if either is 0."""
    norms = float(a.norm() * b.norm())
    return float((a * b).sum()) / norms if norms else 0.0
