"""What the function looks like around the input: does it move, in steps, the same way twice?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ndgrad.diagnostics.problem import Problem, scale_of
from ndgrad.estimators import FiniteDifference
from ndgrad.sampling import gaussian

DRAWS = 64
_LINES, _INTERVALS, _HALVINGS = 3, 64, 12
_AGAIN = 4  # times two calls: values that a function repeats at one input


@dataclass(frozen=True)
class Landscape:
    """The objective ``<v, f>`` around x, per row or over the batch.

    Attributes:
        sigma: the width of the neighbourhood that was looked at.
        spread: standard deviation of the objective over Gaussian draws of width sigma, root mean square of the rows.
        noise: its standard deviation at one and the same input.
        still_rows: share of the rows in which all draws give one value.
        moving_sigma: if that is more than half: the least of sigma, 2 sigma, 4 sigma, ... at which it is not; None if
            there is none.
        slopes: gradient by central differences with the smallest sensible steps, ``eps_machine^(1/3)`` times the
            deviation of each input's entries, (B, n); None if not affordable.
        jumps: whether the objective is discontinuous along random lines.

    """

    sigma: float
    spread: float
    noise: float
    still_rows: float
    moving_sigma: float | None
    slopes: Tensor | None
    jumps: bool

    @property
    def noisy(self) -> bool:
        """Whether the function gave different values at the same input."""
        return self.noise > 0

    @property
    def flat(self) -> float:
        """Share of the difference quotients that are exactly 0, NaN where there are none."""
        return float("nan") if self.slopes is None else float((self.slopes == 0).double().mean())

    @property
    def piecewise_constant(self) -> bool:
        """Whether nine in ten difference quotients vanish although the values move over sigma."""
        return self.flat > 0.9 and self.spread > 0 and not self.noisy

    @property
    def discontinuous(self) -> bool:
        """Whether small changes of the input were seen to make jumps of the output."""
        return self.jumps or self.piecewise_constant


def survey(problem: Problem, sigma: float, affordable: int) -> Landscape:
    """Look around x; difference quotients only if their 2 n evaluations per row are ``affordable``."""
    noise = _noise(problem)
    w = problem.responses(_draws(problem, sigma, DRAWS))  # (S, B)
    still = _still(w, noise)
    slopes = None
    if 2 * problem.num_inputs <= affordable:
        slopes = problem.gradient(FiniteDifference(eps=steps(problem)))
    return Landscape(
        sigma=sigma,
        spread=float(w.var(0).mean().sqrt()),
        noise=noise,
        still_rows=still,
        moving_sigma=_moving_sigma(problem, sigma, noise) if still > 0.5 else None,
        slopes=slopes,
        jumps=noise == 0 and _jumps(problem, sigma),
    )


def steps(problem: Problem) -> tuple[float, ...]:
    """Return a step for each input that balances truncation and rounding if f changes over the input's own scale.

    ``eps^(1/3)`` times the deviation of its entries, but ``eps^(2/3)`` of the largest at least, beside which it must
    not vanish.
    """
    eps = rounding_unit(problem)
    return tuple(
        max(eps ** (1 / 3) * scale_of((x,)), eps ** (2 / 3) * float(x.abs().max())) for x in problem.inputs
    )


def rounding_unit(problem: Problem) -> float:
    """Return the relative rounding error of the least accurate input or output."""
    return max(torch.finfo(t.dtype).eps for t in (*problem.inputs, *problem.cotangent))


def _draws(problem: Problem, sigma: float, count: int) -> Tensor:
    like = torch.zeros(problem.num_rows, problem.num_inputs, dtype=problem.inputs[0].dtype)
    return sigma * gaussian(count, like, None)  # (S, B, n)


def _noise(problem: Problem) -> float:
    """Return the standard deviation of repeated values; 0 if they differ by no more than rounding."""
    still = torch.zeros(_AGAIN, problem.num_rows, problem.num_inputs)
    w = torch.cat([problem.responses(still) for _ in range(2)])  # (8, B)
    return float(w.var(0).mean().sqrt()) if (w.amax(0) - w.amin(0)).max() > _rounding(problem, w) else 0.0


def _rounding(problem: Problem, w: Tensor) -> float:
    """Differences of this size are rounding, which depends on the place of a row in its batch."""
    return 30 * torch.finfo(problem.cotangent[0].dtype).eps * float(w.abs().max())


def _still(w: Tensor, noise: float) -> float:
    return 0.0 if noise else float((w.amax(0) == w.amin(0)).double().mean())


def _moving_sigma(problem: Problem, sigma: float, noise: float) -> float | None:
    for _ in range(20):
        sigma *= 2
        if _still(problem.responses(_draws(problem, sigma, DRAWS // 4)), noise) <= 0.5:
            return sigma
    return None


def _jumps(problem: Problem, sigma: float) -> bool:
    """Whether halving the steepest part of a line again and again leaves most of its rise in place.

    Three lines run through each row of x along a draw, to twice its length on both sides. In twelve halvings a
    continuous function loses the rise, by 4096 where it has a slope; a jump keeps its own height.
    """
    return any(_jumps_along(problem, _draws(problem, sigma, 1)) for _ in range(_LINES))


def _jumps_along(problem: Problem, line: Tensor) -> bool:
    t = torch.linspace(-2, 2, _INTERVALS + 1, dtype=torch.float64)
    w = problem.responses(t.reshape(-1, 1, 1) * line)  # (65, B)
    steepest = (w[1:] - w[:-1]).abs().argmax(0, keepdim=True)  # (1, B)
    low, high = t[steepest], t[steepest + 1]
    below, above = w.gather(0, steepest), w.gather(0, steepest + 1)  # (1, B)
    rise = (above - below).abs()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        between = problem.responses(middle.unsqueeze(-1) * line)
        left = (between - below).abs() > (above - between).abs()
        low, high = torch.where(left, low, middle), torch.where(left, middle, high)
        below, above = torch.where(left, below, between), torch.where(left, between, above)
    left_over = (above - below).abs()
    return bool((left_over > (0.1 * rise).clamp(min=_rounding(problem, w))).any())
