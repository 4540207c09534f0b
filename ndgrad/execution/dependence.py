"""Whether evaluations fail at random, or depending on where the function was probed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.errors import DependentFailureWarning
from ndgrad.estimator import join_rows

_Z_MAX = 5.0
_LEAST_FAILURES = 20


@dataclass
class Dependence:
    """Compares the displacements of failed probes with those of all probes, over all calls so far.

    Displacements are standardised per coordinate over the R probes of a call. Were the k that failed chosen at random,
    the sum of theirs would have mean 0 and variance V = k (R - k)/(R - 1) in each coordinate, and so would the sum of
    their standardised squared lengths. Both are added up over calls, their variances too. The squared length of the
    first is V times a chi-squared variable with n degrees of freedom, taken to a normal one by its cube root (Wilson
    & Hilferty 1931).
    """

    failures: int = 0
    warned: bool = False
    _direction: Tensor | None = None  # (n,) sum over failed probes
    _variance: float = 0.0
    _radius: float = 0.0
    _radius_variance: float = 0.0

    def observe(self, inputs: tuple[Tensor, ...], probes: tuple[Tensor, ...], lost: list[int]) -> None:
        """Take in which of the probes (R, ...) around inputs (B, ...) were lost; warn, once, if it is not chance."""
        if [x.shape[1:] for x in inputs] != [z.shape[1:] for z in probes]:
            return  # draws from a distribution, without a displacement
        x, z = (join_rows(rows, torch.float64).cpu() for rows in (inputs, probes))
        R = len(z)
        d = z - x.repeat(R // len(x), 1)  # (R, n)
        d = d - d.mean(0)
        d = d / d.square().mean(0).sqrt().where((d != 0).any(0), torch.ones(()))
        squared = d.square().sum(1)  # (R,)
        squared = squared - squared.mean()
        spread = squared.square().mean().sqrt()
        k = len(lost)
        variance = k * (R - k) / max(R - 1, 1)
        if self._direction is None or self._direction.shape != d.shape[1:]:
            self._direction, self._variance = torch.zeros_like(d[0]), 0.0
        self._direction += d[lost].sum(0)
        self._variance += variance
        if spread > 1e-9:  # not all of one length
            self._radius += float(squared[lost].sum() / spread)
            self._radius_variance += variance
        self.failures += k
        self._warn()

    @property
    def z_direction(self) -> float:
        """How far the mean direction of failed probes is from chance, in standard deviations."""
        if self._direction is None or not self._variance:
            return 0.0
        n = len(self._direction)
        cube_root = float((self._direction.square().sum() / (self._variance * n)) ** (1 / 3))
        return (cube_root - (1 - 2 / (9 * n))) / math.sqrt(2 / (9 * n))

    @property
    def z_radius(self) -> float:
        """How far the mean squared length of failed probes is from chance, in standard deviations."""
        return self._radius / math.sqrt(self._radius_variance) if self._radius_variance else 0.0

    def _warn(self) -> None:
        if self.warned or self.failures < _LEAST_FAILURES:
            return
        if self.z_direction > _Z_MAX:
            found = f"on one side of the inputs ({self.z_direction:.1f} standard deviations from chance)"
        elif abs(self.z_radius) > _Z_MAX:
            side = "far from" if self.z_radius > 0 else "close to"
            found = f"{side} the inputs ({abs(self.z_radius):.1f} standard deviations from chance)"
        else:
            return
        self.warned = True
        warnings.warn(
            f"evaluations fail more often {found}: an estimate without them is biased. Keep probes in the function's "
            "domain (bounds=, a smaller sigma), or let it return a penalty there instead of failing",
            DependentFailureWarning,
            stacklevel=2,
        )
