r"""Bounds that probes do not leave.

A probe that would leave stops at the bound, coordinate by coordinate, and the estimate is made from where it stopped.
With the step ``d = sigma eps``, ``clamp`` into the box, and half the distance between the two probes of a pair

.. math:: u_i = \tfrac12\left(\mathrm{clamp}(x_i + d_i) - \mathrm{clamp}(x_i - d_i)\right),

the direction ``eps_i / sigma_i`` of an estimate is replaced by the weight ``w_i = eps_i^2 / u_i``, which is the same
thing where nothing is clamped. The estimate stays exact in expectation on ``f(z) = f(x) + J (z - x)``:

- with pairs it is ``sum_j J_j u_j w_i``. Every law of directions is unchanged when the sign of one coordinate is
  flipped; flipping that of ``eps_j`` flips ``u_j`` and leaves ``w_i`` alone for ``j != i``, so those products have mean
  0; and ``E u_i w_i = E eps_i^2 = 1``.
- without pairs it is ``sum_j J_j a_j w_i`` with ``a_j = clamp(x_j + d_j) - x_j``. Flipping ``eps_i`` flips ``w_i`` and
  leaves ``a_j`` alone, so again those products vanish. The difference of ``a_i`` between the two signs is ``2 |u_i|``,
  so that ``E a_i w_i = E u_i w_i = 1``. And ``E w = 0``, so that the value at x may be subtracted, or the mean of
  other samples, which do not change when all signs of this one do.

Since ``|u_i| >= min(|d_i|, (high_i - low_i) / 2) / 2``, the weights do not blow up at a bound: there, a pair is a
one-sided difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.coordinates import PerInput, Setting, as_setting, columns, not_nan, show
from ndgrad.estimator import join_rows, split_rows


@dataclass(frozen=True)
class Box:
    """Bounds beside the columns of x (B, n): ``low`` and ``high`` (n,)."""

    low: Tensor
    high: Tensor

    def clamp(self, z: Tensor) -> Tensor:
        """Move the points (..., n) that are outside to the bound."""
        return torch.clamp(z, self.low, self.high)

    def restrict(self, f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return ``f`` at the clamped points."""
        return lambda z: f(self.clamp(z))

    def weights(self, x: Tensor, step: Tensor, eps: Tensor) -> Tensor:
        """Return what stands in the place of ``eps / sigma`` when probes at ``x ± step`` are clamped, (S, B, n)."""
        half = (self.clamp(x + step) - self.clamp(x - step)) / 2
        return torch.where(half == 0, 0.0, eps.square() / half)

    def roomier_side(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the direction, 1 or -1, of the farther bound of each coordinate, and its distance, both (B, n)."""
        above, below = self.high - x, x - self.low
        return torch.where(above >= below, 1.0, -1.0).to(x.dtype), torch.maximum(above, below)


def as_received(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return points (R, n) rounded to the dtypes of the inputs that ``f``, a `FlatFunction`, cuts them into."""
    inputs = getattr(f, "inputs", None)
    return z if inputs is None else join_rows(split_rows(z, inputs), z.dtype)


class Bounds(torch.nn.Module):
    """The setting ``bounds=(low, high)``, each a `Setting`, infinite where there is no bound."""

    def __init__(self, bounds: tuple[Setting, Setting]) -> None:
        super().__init__()
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise ValueError(
                f"bounds must be a pair (low, high), with inf where there is none, got {bounds!r}"
            )
        self.low = as_setting("bounds[0]", bounds[0], not_nan)
        self.high = as_setting("bounds[1]", bounds[1], not_nan)
        if isinstance(self.low, float) and isinstance(self.high, float):
            _require(self.low < self.high, self.low, self.high)

    def box(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Box:
        """Return the bounds of the columns of x (B, n), which must be inside, in the dtypes of the inputs of ``f``."""
        low, high = (self._row(side, f, x) for side in (self.low, self.high))
        inside = (low <= x) & (x <= high) & (low < high)  # (B, n)
        if not inside.all():
            _require(bool((low < high).all()), low, high)
            row, column = (~inside).nonzero()[0].tolist()
            raise ValueError(
                f"the input must lie within its bounds, but coordinate {column} of row {row} is "
                f"{x[row, column].item():.6g}, outside [{low.expand_as(x)[row, column].item():.6g}, "
                f"{high.expand_as(x)[row, column].item():.6g}]; clamp it (x.clamp(low, high)) before the call"
            )
        return Box(low, high)

    def _row(self, side: float | PerInput, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return one side, (n,), rounded as an input is that was clamped to it."""
        values = torch.as_tensor(columns(side, f, x), dtype=x.dtype, device=x.device)
        return as_received(f, values.expand(1, x.shape[1]))[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow to another device, but keep the dtype: rounding may move a bound outwards."""

        def keep_dtype(values: Tensor) -> Tensor:
            moved = fn(values)
            return moved if moved.dtype == values.dtype else values.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    def extra_repr(self) -> str:
        """Show both sides."""
        return show(low=self.low, high=self.high)


def _require(ordered: bool, low: float | Tensor, high: float | Tensor) -> None:
    if not ordered:
        raise ValueError(f"bounds must have low < high in every coordinate, got low={low}, high={high}")
