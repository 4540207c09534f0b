"""A width of the smoothing that follows the function from call to call."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ndgrad.coordinates import Setting, as_setting, columns, positive, show
from ndgrad.validation import positive_float

_RISE = 3.0  # beyond fluctuations: noise in the values f(x) of 16 rows alone varies r by a third


class AdaptiveSigma(torch.nn.Module):
    r"""A sigma that looks for the width at which the function responds most nearly linearly.

    Given as ``sigma=`` to an estimator with antithetic pairs, whose values beside :math:`f(x)` split into

    .. math:: o_s = \frac{f(x + \sigma\epsilon_s) - f(x - \sigma\epsilon_s)}{2}, \quad
              e_s = \frac{f(x + \sigma\epsilon_s) + f(x - \sigma\epsilon_s)}{2} - f(x), \quad
              r = \frac{\sum |e_s|^2}{\sum |o_s|^2}

    summed over the samples (of which both sides came back), rows and outputs of one call. The ratio r of even to odd
    response is 0 for a linear function. It grows as sigma^2 where a curved function is probed too widely; where probes
    are too narrow it tends to 3 for noise and to 1 for rare steps. Between the two it has a minimum.

    Rule: each call multiplies sigma by ``rate``, or divides it. The direction turns where r exceeds three times its
    lowest value since the last turn, so that sigma swings about the minimum, and at the limits. Where all values
    are equal there is no r, and sigma widens. It starts by widening, so begin narrow: the response of a bounded
    function stays odd at every large width, and only a limit turns there.

    Shapes: eps, o and e are (S, B, ...); r and ``factor`` are one number for the call.

    Cost: no evaluations. A call's own evaluations only change the *next* call's sigma, so each estimate has the
    mean that its estimator documents for the sigma it was made with. The rule is deterministic given the
    evaluations, and one width serves all rows. In eval mode sigma stays as it is.

    Take it when the size of a function's steps or noise is not known, calls are many, and each has some tens of
    pairs (rows times samples), which r needs to be told from its fluctuations. A heuristic: the most linear
    response is not in general the least mean squared error of the gradient. On a smooth function without noise
    sigma tends to its lower limit, on a linear one with noise to its upper limit.

    Args:
        sigma: the width of the first call, > 0; as in `EvolutionStrategy`, also one for each input or
            coordinate, whose ratios stay.
        limits: the least and the largest multiple of ``sigma``, 0 < least <= 1 <= largest.
        rate: the factor of one change, > 1.

    ``factor`` is the multiple of ``sigma`` that the next call takes. It is state: ``state_dict`` has it.

    Raises:
        ValueError: for an argument out of range.

    Example:
        >>> import torch, ndgrad
        >>> _ = torch.manual_seed(0)
        >>> sigma = ndgrad.AdaptiveSigma(0.01)
        >>> stairs = ndgrad.wrap(torch.round, estimator=ndgrad.EvolutionStrategy(sigma=sigma))
        >>> for _ in range(40):
        ...     stairs(torch.zeros(32, 3, requires_grad=True)).sum().backward()
        >>> 0.2 < 0.01 * sigma.factor < 2.0  # wide enough to see steps of 1
        True

    Source: the split into an odd and an even part of antithetic pairs; the rule is this library's own.

    """

    def __init__(
        self, sigma: Setting = 0.05, limits: tuple[float, float] = (0.01, 100.0), rate: float = 1.25
    ) -> None:
        super().__init__()
        self.initial = as_setting("sigma", sigma, positive)
        least, largest = (positive_float("limits", limit) for limit in limits)
        if not least <= 1 <= largest:
            raise ValueError(f"limits must have least <= 1 <= largest, as multiples of sigma, got {limits}")
        self.limits = (least, largest)
        self.rate = positive_float("rate", rate)
        if self.rate <= 1:
            raise ValueError(f"rate must be larger than 1, got {rate}")
        self.factor = 1.0
        self.direction = 1
        self.lowest: float | None = None

    def flat(self, f: Callable[[Tensor], Tensor], x: Tensor) -> float | Tensor:
        """Return the next call's width, or widths (n,) of the columns of x (B, n)."""
        return self.factor * columns(self.initial, f, x)

    def observe(self, upper: Tensor, lower: Tensor, y: Tensor) -> None:
        """Choose the next call's width, from values (S, B, m) on both sides of x, where it is y (B, m)."""
        if not self.training or y.numel() == 0:
            return
        # pairs with a side that failed are NaN in both
        odd, even = ((upper - lower) / 2).square().nansum(), ((upper + lower) / 2 - y).square().nansum()
        self._turn((even / odd).item())
        least, largest = self.limits
        factor = self.factor * self.rate**self.direction
        if not least <= factor <= largest:
            self.direction, self.lowest = -self.direction, None
        self.factor = min(max(factor, least), largest)

    def _turn(self, ratio: float) -> None:
        """Set the direction by this call's ratio of even to odd response, NaN where all values were equal."""
        if math.isnan(ratio):
            self.direction, self.lowest = 1, None
        elif self.lowest is not None and ratio > _RISE * self.lowest:
            self.direction, self.lowest = -self.direction, ratio
        else:
            self.lowest = ratio if self.lowest is None else min(ratio, self.lowest)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the next call's width depends on, as numbers."""
        return {"factor": self.factor, "direction": self.direction, "lowest": self.lowest}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`."""
        self.factor, self.direction, self.lowest = state["factor"], state["direction"], state["lowest"]

    def extra_repr(self) -> str:
        """Show the settings and the present factor."""
        return show(initial=self.initial, limits=self.limits, rate=self.rate, factor=self.factor)
