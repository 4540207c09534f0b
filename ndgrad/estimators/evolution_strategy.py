"""Evolution strategies: differences along random directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ndgrad.estimator import FlatEstimator
from ndgrad.sampling import DIRECTIONS, leave_one_out
from ndgrad.validation import one_of, positive_float, positive_int


class EvolutionStrategy(FlatEstimator):
    r"""Gradient of a smoothed function, from evaluations in random directions.

    .. math:: \nabla_x \mathbb{E}_\epsilon f(x + \sigma\epsilon)
              = \frac{1}{\sigma} \mathbb{E}_\epsilon\left[f(x + \sigma\epsilon)\,\epsilon\right]
              \approx \frac{1}{S\sigma} \sum_{s=1}^S \left(f(x + \sigma\epsilon_s) - b_s\right) \epsilon_s

    with the cotangent v contracted per row and sample. With antithetic pairs, :math:`(f(x + \sigma\epsilon_s)
    - f(x - \sigma\epsilon_s))/2` stands in the place of :math:`f(x + \sigma\epsilon_s) - b_s`.

    Cost: 2 S evaluations per row and backward pass with pairs, S without. Unbiased for the smoothed function:
    exactly for Gaussian directions; directions of fixed norm smooth with a slightly different kernel (for x^3
    the gradient is :math:`3x^2 + \sigma^2 E[\epsilon_i^4]`, with 3 for a Gaussian, 3 n/(n+2) on the sphere, 1
    for signs). Against the gradient of f itself the bias is of order sigma^2. On a linear function,
    orthogonal pairs have relative variance n/S - 1 for S <= n, and none when S is a multiple of n; Gaussian
    pairs have (n + 1)/S.

    Take it for noisy, discontinuous or piecewise constant functions of up to some hundreds of inputs; sigma
    must be as wide as the steps to be seen.

    Args:
        num_samples: S >= 1, the number of directions.
        sigma: sigma > 0, the width of the smoothing, in units of the input.
        antithetic: evaluate each direction on both sides.
        directions: ``"orthogonal"`` (blocks of n orthogonal directions of norm sqrt(n)), ``"gaussian"``,
            ``"rademacher"`` (random signs, as in SPSA), ``"sphere"``.
        baseline: what is subtracted without pairs: ``"loo"`` (mean of the other samples; unbiased), ``"fx"``
            (the value at x, already evaluated), or None. The default ``"auto"`` is ``"loo"`` without pairs
            and None with them, since pairs cancel any baseline.
        generator: source of the noise, on the input's device; None for torch's global one.

    Raises:
        ValueError: for an argument out of range, a baseline together with pairs, or ``"loo"`` with a single
            sample.

    Example:
        >>> import torch, ndgrad
        >>> estimator = ndgrad.EvolutionStrategy(num_samples=3, sigma=0.1)
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        >>> estimator(lambda x: x @ torch.tensor([[2.0], [0.0], [-1.0]]), x).sum().backward()
        >>> x.grad.round(decimals=4) + 0.0  # n orthogonal pairs are exact on linear functions
        tensor([[ 2.,  0., -1.]])

    Source: thesis equation 3.8; Salimans et al. 2017, arXiv 1703.03864; orthogonal directions: Choromanski et
    al. 2018, arXiv 1804.02395.

    """

    def __init__(
        self,
        num_samples: int = 20,
        sigma: float = 0.05,
        antithetic: bool = True,
        directions: str = "orthogonal",
        baseline: str | None = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = positive_float("sigma", sigma)
        self.antithetic = antithetic
        self.directions = one_of("directions", directions, DIRECTIONS)
        self.baseline = _baseline(
            one_of("baseline", baseline, ("auto", "loo", "fx", None)), antithetic, num_samples
        )
        self.generator = generator

    def linearize_flat(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Draw directions and probe; see `FlatEstimator.linearize_flat`."""
        eps = DIRECTIONS[self.directions](self.num_samples, x, self.generator)  # (S, B, n)
        response = self._response(f, x, y, eps)  # (S, B, m)

        def pullback(v: Tensor) -> Tensor:
            w = (response * v).sum(-1)  # (S, B)
            if self.baseline == "loo":
                w = w - leave_one_out(w)
            # not einsum, whose B products of (1, S) and (S, n) take ten times as long for small ones
            return (w.unsqueeze(-1) * eps).sum(0) / (self.num_samples * self.sigma)  # (B, n)

        return pullback

    def _response(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: Tensor) -> Tensor:
        if self.antithetic:
            step = self.sigma * eps
            upper, lower = f(torch.cat([x + step, x - step])).chunk(2)
            return (upper - lower) / 2
        z = f(torch.add(x, eps, alpha=self.sigma))
        return z - y if self.baseline == "fx" else z

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"num_samples={self.num_samples}, sigma={self.sigma}, antithetic={self.antithetic}, "
            f"directions={self.directions!r}, baseline={self.baseline!r}"
        )


def _baseline(baseline: str | None, antithetic: bool, num_samples: int) -> str | None:
    if baseline == "auto":
        baseline = None if antithetic else "loo"
    if antithetic and baseline is not None:
        raise ValueError(
            f"antithetic pairs cancel every baseline, but got baseline={baseline!r}; leave the baseline out, or type "
            "antithetic=False"
        )
    if baseline == "loo" and num_samples < 2:
        raise ValueError("baseline 'loo' needs num_samples >= 2; type baseline='fx', which costs nothing")
    return baseline
