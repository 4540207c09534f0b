"""The remainder of a first-order Taylor expansion along one direction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.diagnostics.directional import Functional

_STEPS = 0.1 * 0.5 ** torch.arange(22, dtype=torch.float64)
_ABOVE_ROUNDING = 10.0  # remainders below so many rounding errors say nothing
_FITTED = 5  # smallest usable steps, to which the slope is fitted


@dataclass(frozen=True)
class Line:
    """What was seen along one direction d.

    Attributes:
        steps: h, (K,).
        remainders: ``|phi(x + h d) - phi(x) - h g.d|``, (K,).
        slope: of their logarithms, at the smallest steps where they stand out.
        derivative: ``phi'`` along d, by extrapolation.
        deviation: ``phi' - g.d``.
        bound: the largest deviation that the remainders leave room for.
        standard_error: of ``g.d``, where g is a mean of estimates.

    """

    steps: Tensor
    remainders: Tensor
    slope: float
    derivative: float
    deviation: float
    bound: float
    standard_error: float


def follow(phi: Functional, samples: Tensor, direction: Tensor) -> Line:
    """Expand phi along ``direction`` (N,) with the mean of the gradients ``samples`` (T, N)."""
    x, g = phi.x, samples.mean(0)
    base, rounding = phi.value(x)
    along = samples @ direction  # (T,)
    standard_error = float(along.std() / len(along) ** 0.5) if len(along) > 1 else 0.0
    remainders, noise = [], []
    for h in _STEPS.tolist():
        offset = phi.round(x + h * direction) - x  # as realised in the inputs' dtype
        value, error = phi.value(x + offset)
        remainders.append(value - base - float(g @ offset))
        noise.append(rounding + error + phi.rounding * float(g.abs() @ offset.abs()))
    signed = torch.tensor(remainders, dtype=torch.float64)
    floor = _ABOVE_ROUNDING * torch.tensor(noise, dtype=torch.float64)
    deviation = _extrapolated(signed, floor)
    # rounding of the gradient itself looks like a small error of it, which no step can tell from a mistake
    gradient_rounding = 0.3 * phi.rounding**0.5 * float((g * phi.scale).norm())
    usable = signed.abs() > floor.maximum(max(3 * standard_error, gradient_rounding) * _STEPS)
    return Line(
        steps=_STEPS,
        remainders=signed.abs(),
        slope=_slope(signed.abs(), usable),
        derivative=float(g @ direction) + deviation,
        deviation=deviation,
        bound=float(((signed.abs() + floor) / _STEPS).min()),
        standard_error=standard_error,
    )


def _slope(remainders: Tensor, usable: Tensor) -> float:
    """Fit a line to the logarithms at the smallest usable steps; infinite if there are none, NaN if too few.

    The steps end where the remainder stops to grow with them: there terms of higher order cancel.
    """
    if not usable.any():
        return math.inf
    last = first = int(usable.nonzero()[-1])
    while first > 0 and last - first + 1 < _FITTED and remainders[first - 1] > 1.5 * remainders[first]:
        first -= 1
    if last - first < 2:
        return math.nan
    h, r = _STEPS[first : last + 1].log(), remainders[first : last + 1].log()
    h = h - h.mean()
    return float((h @ r) / (h @ h))


def _extrapolated(signed: Tensor, floor: Tensor) -> float:
    """Return the limit of ``R(h) / h``: of quotients with errors ``c h``, two at h and h/2 cancel c."""
    quotient = signed / _STEPS
    limits = 2 * quotient[1:] - quotient[:-1]
    # the best pair: second-order terms grow with h, rounding with 1/h; neighbours that agree show the balance
    change = (limits[1:] - limits[:-1]).abs() + (floor / _ABOVE_ROUNDING / _STEPS)[2:]
    return float(limits[1:][change.argmin()])
