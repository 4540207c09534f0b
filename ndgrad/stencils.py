r"""Difference quotients of any order, and their extrapolation to step 0.

A quotient of step ``j h`` differs from the derivative by a power series: in ``j^2`` for
``(f(x + j h) - f(x - j h)) / (2 j h)``, in ``j`` for ``(f(x + j h) - f(x)) / (j h)``. The polynomial through K
quotients, evaluated at 0, has lost its first K - 1 terms: K pairs give a formula of order 2 K, K one-sided quotients
one of order K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor

from ndgrad.bounds import Box

Inputs: TypeAlias = slice | Tensor
"""Some of the n inputs, as an index."""


def extrapolation_weights(nodes: Sequence[int]) -> list[float]:
    """Return w with ``sum_k w_k q(nodes[k]) = q(0)`` for all polynomials q of degree < K: Lagrange's basis at 0."""
    return [float(prod(Fraction(other, other - k) for other in nodes if other != k)) for k in nodes]


@dataclass(frozen=True)
class Stencil:
    """Where to probe along each coordinate of x (B, n), and how to combine the values.

    Attributes:
        order: the power of the step in the bias, and the number of points beside x.
        central: whether points come in pairs around x.
        side: per row and coordinate (B, n), 0 for pairs, 1 for points above x, -1 for points below; None where no
            bounds are in the way, and all are as ``central`` says.
        box: the bounds that go with ``side``.

    """

    order: int
    central: bool
    side: Tensor | None = None
    box: Box | None = None

    def within(self, box: Box, x: Tensor, step: Tensor) -> Stencil:
        """Return a stencil of the same order with points on the roomier side where this one leaves the box."""
        reach = (self.order // 2 if self.central else self.order) * step  # (B, n)
        fits = x + reach <= box.high
        if self.central:
            fits &= x - reach >= box.low
        side = torch.where(fits, 0.0 if self.central else 1.0, box.roomier_side(x)[0])
        return Stencil(self.order, self.central, side, box)

    def shorten(self, x: Tensor, steps: list[Tensor]) -> list[Tensor]:
        """Return steps (B, n) in the same ratios, shorter where all points on one side would not fit into the box."""
        if self.box is None or self.side is None:
            return steps
        room = self.box.roomier_side(x)[1] / (self.order * steps[0])
        factor = torch.where(self.side == 0, 1.0, room.clamp(max=1.0))
        return [factor * step for step in steps]

    def points(self, x: Tensor, step: Tensor) -> list[Tensor]:
        """Return x with all its coordinates moved, (B, n), for each of the ``order`` points."""
        points = [x + offset * step for offset in self._offsets()]
        return points if self.box is None else [self.box.clamp(z) for z in points]

    def derivative(
        self, inputs: Inputs, x: Tensor, y: Tensor, points: list[Tensor], values: list[Tensor]
    ) -> Tensor:
        """Combine the values (k, B, m) of points in which one of k inputs is moved, to columns of the Jacobian."""
        x, *points = (z.T[inputs].unsqueeze(-1) for z in (x, *points))  # (k, B, 1)
        if self.side is None:
            return _pairs(points, values) if self.central else _one_side(x, y, points, values)
        one_side = _one_side(x, y, points, values)
        if not self.central:
            return one_side
        return torch.where(self._paired(inputs), _pairs(points, values), one_side)

    def stride(self, inputs: Inputs) -> int | Tensor:
        """Return the distance of the powers of the step in the bias: 2 with pairs, 1 without; (k, B, 1)."""
        if self.side is None:
            return 2 if self.central else 1
        return torch.where(self._paired(inputs), 2, 1)

    def _paired(self, inputs: Inputs) -> Tensor:
        assert self.side is not None
        return (self.side.T[inputs] == 0).unsqueeze(-1)  # (k, B, 1)

    def _offsets(self) -> list[int | Tensor]:
        above = range(1, self.order + 1)
        pairs = [sign * j for j in range(1, self.order // 2 + 1) for sign in (1, -1)]  # 1, -1, 2, -2, ...
        if self.side is None:
            return list(pairs if self.central else above)
        if not self.central:
            return [self.side * j for j in above]
        side = self.side
        return [torch.where(side == 0, pair, side * j) for pair, j in zip(pairs, above, strict=True)]


def _pairs(points: list[Tensor], values: list[Tensor]) -> Tensor:
    quotients = [
        (values[k] - values[k + 1]) / (points[k] - points[k + 1]) for k in range(0, len(points), 2)
    ]  # by the step as realised in floating point
    return _extrapolate(quotients, [j**2 for j in range(1, len(quotients) + 1)])


def _one_side(x: Tensor, y: Tensor, points: list[Tensor], values: list[Tensor]) -> Tensor:
    quotients = [(value - y) / (point - x) for point, value in zip(points, values, strict=True)]
    return _extrapolate(quotients, range(1, len(quotients) + 1))


def _extrapolate(quotients: list[Tensor], nodes: Sequence[int]) -> Tensor:
    if len(quotients) == 1:
        return quotients[0]
    terms = [w * q for w, q in zip(extrapolation_weights(nodes), quotients, strict=True)]
    return torch.stack(terms).sum(0)
