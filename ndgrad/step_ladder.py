"""A step found by trying several: extrapolation with an estimate of its error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.estimator import Rows
from ndgrad.stencils import Inputs, Stencil

RATIO = 4  # of a step to the next shorter one
NUM_STEPS = 6


@dataclass(frozen=True)
class StepQuality:
    """What an automatic step of this call came to, for each row and input.

    Attributes:
        step: the shortest step that entered the estimate, (B, n).
        error: estimate of the error of the input's column of the Jacobian, its Euclidean norm over the outputs,
            (B, n). Meant as an upper bound for smooth functions; it knows nothing of what lies between the probes.

    """

    step: Tensor
    error: Tensor


@dataclass(frozen=True)
class Precision:
    """The relative rounding of each input, or of the outputs where that is coarser.

    Attributes:
        eps: ``eps_machine`` of the coarser dtype, for each input.
        sizes: how many of the n columns each input has.

    """

    eps: tuple[float, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, inputs: Rows, outputs: Rows) -> Precision:
        """Read the dtypes of inputs (B, ...) and outputs (B, ...); integers are exact."""
        coarsest = max((torch.finfo(y.dtype).eps for y in outputs if y.is_floating_point()), default=0.0)
        eps = (max(torch.finfo(x.dtype).eps, coarsest) for x in inputs)
        return cls(tuple(eps), tuple(x.shape[1:].numel() for x in inputs))

    def power(self, exponent: float, like: Tensor) -> Tensor:
        """Return ``eps_machine^exponent`` of each column, (n,), on the device and in the dtype of ``like``."""
        parts = zip(self.eps, self.sizes, strict=True)
        return torch.cat([like.new_full((size,), eps**exponent) for eps, size in parts])


def ladder(x: Tensor, precision: Precision | None = None) -> list[Tensor]:
    """Return steps (B, n), widest first: ``eps_machine^(1/8) max(1, |x|)``, and each a quarter of the one before.

    They end near the best step of a central difference of a function with values and scale of order 1, and begin where
    a function with rounding errors ten thousand times larger is still resolved. In half precision, steps below
    ``4 eps_machine max(1, |x|)``, which would nearly vanish, are left out. ``precision`` is that of x by default.
    """
    precision = precision or Precision.of((x,), ())
    widest = precision.power(1 / 8, x) * x.abs().clamp(min=1.0)
    coarsest = max(precision.eps)
    return [
        widest / RATIO**level
        for level in range(NUM_STEPS)
        if coarsest ** (1 / 8) / RATIO**level > 4 * coarsest
    ]


class StepTable:
    """Extrapolation of derivatives at several steps, with the best entry taken for each input and row.

    Args:
        steps: steps (B, n), widest first; with a single one there is nothing to choose.
        stencil: what the derivatives were made with.
        x: the inputs (B, n).
        y: the values at x (B, m).
        precision: that of the points and values; of x and y by default.

    """

    def __init__(
        self, steps: list[Tensor], stencil: Stencil, x: Tensor, y: Tensor, precision: Precision | None = None
    ) -> None:
        self.steps, self.stencil, self.x, self.y = steps, stencil, x, y
        self.eps = (precision or Precision.of((x,), (y,))).power(1, x)  # (n,)
        self.error = torch.full_like(steps[0], torch.inf)  # (B, n)
        self.shortest = torch.zeros_like(steps[0], dtype=torch.long)  # (B, n)

    def extrapolate(self, inputs: Inputs, levels: list[Tensor]) -> Tensor:
        """Return the best entry of the Neville table of the derivatives (k, B, m) at each step, for k inputs.

        The error of an entry is the larger distance to the two that it was made from (Ridders 1982), plus rounding.
        """
        if len(levels) == 1:
            return levels[0]
        best, coarser = levels[-1], levels[:0]
        error, shortest = self.error.T[inputs], self.shortest.T[inputs]  # (k, B)
        stride = self.stencil.stride(inputs)
        for level, value in enumerate(levels):
            row = [value]
            for column, neighbour in enumerate(coarser):
                power = self.stencil.order + column * stride
                row.append(row[-1] + (row[-1] - neighbour) / (RATIO**power - 1))
                distance = torch.maximum((row[-1] - row[-2]).norm(dim=-1), (row[-1] - neighbour).norm(dim=-1))
                candidate = distance + self._rounding(inputs, level, value)
                better = candidate < error
                best = torch.where(better.unsqueeze(-1), row[-1], best)
                error = torch.where(better, candidate, error)
                shortest = torch.where(better, level, shortest)
            coarser = row
        self.error.T[inputs], self.shortest.T[inputs] = error, shortest
        return best

    def quality(self) -> StepQuality:
        """Return the steps and errors of all inputs that were extrapolated."""
        return StepQuality(torch.stack(self.steps).gather(0, self.shortest.unsqueeze(0))[0], self.error)

    def _rounding(self, inputs: Inputs, level: int, column: Tensor) -> Tensor:
        """Error of a difference of ``f(z (1 + eps_machine)) (1 + eps_machine)``, (k, B)."""
        values = self.y.norm(dim=1) + self.x.abs().T[inputs] * column.norm(dim=-1)
        return self.eps[inputs].unsqueeze(-1) * values / self.steps[level].T[inputs]
