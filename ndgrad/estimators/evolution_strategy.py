"""Evolution strategies: differences along random directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ndgrad.adaptive_sigma import AdaptiveSigma
from ndgrad.bounds import Bounds
from ndgrad.coordinates import Setting, as_setting, columns, positive, show
from ndgrad.estimator import FlatEstimator
from ndgrad.missing import good_samples, leave_one_out, reweigh
from ndgrad.sampling import DIRECTIONS, antithetic_values
from ndgrad.validation import one_of, positive_int


class EvolutionStrategy(FlatEstimator):
    r"""Gradient of a smoothed function, from evaluations in random directions.

    .. math:: \nabla_x \mathbb{E}_\epsilon f(x + \sigma\epsilon)
              = \frac{1}{\sigma} \mathbb{E}_\epsilon\left[f(x + \sigma\epsilon)\,\epsilon\right]
              \approx \frac{1}{S\sigma} \sum_{s=1}^S \left(f(x + \sigma\epsilon_s) - b_s\right) \epsilon_s

    with x, epsilon_s (B, n), f and the cotangent v (B, m), which is contracted per row and sample. With antithetic
    pairs, :math:`(f(x + \sigma\epsilon_s) - f(x - \sigma\epsilon_s))/2` stands in the place of
    :math:`f(x + \sigma\epsilon_s) - b_s`.

    Cost: 2 S evaluations per row and backward pass with pairs, S without. Unbiased for the smoothed function:
    exactly for Gaussian directions; directions of fixed norm smooth with a slightly different kernel (for x^3
    the gradient is :math:`3x^2 + \sigma^2 E[\epsilon_i^4]`, with 3 for a Gaussian, 3 n/(n+2) on the sphere, 1
    for signs). Against the gradient of f itself the bias is of order sigma^2. On a linear function,
    orthogonal pairs have relative variance n/S - 1 for S <= n, and none when S is a multiple of n; Gaussian
    pairs have (n + 1)/S. Sobol points smooth exactly like a Gaussian, and their variance falls faster than 1/S
    once S exceeds n some times (n = 10, S = 64: a third of Gaussian pairs'; n = 50, S = 16: a third more).

    With ``bounds`` a probe stops where it would leave them, and its direction is weighted by where it stopped
    (`ndgrad.bounds` derives how): still exact in expectation on linear functions, but n orthogonal pairs are no
    longer exact one by one. The kernel of the smoothing then has the mass of the clamped draws on the bound, and
    near it the bias is of order sigma.

    A failed evaluation takes its pair along; S is then the number of directions that a row has left, at least 1, or 2
    for ``"loo"``. The estimate stays unbiased; that of n orthogonal pairs with a gap is no longer exact on linear
    functions.

    Take it for noisy, discontinuous or piecewise constant functions of up to some hundreds of inputs; sigma
    must be as wide as the steps to be seen.

    Args:
        num_samples: S >= 1, the number of directions.
        sigma: sigma > 0, the width of the smoothing, in units of the input: a number; a tensor that broadcasts
            to the row of a single input, or of n values in the order of the flattened inputs; a tuple with one
            of these for each differentiated input; or an `AdaptiveSigma`, with pairs.
        antithetic: evaluate each direction on both sides.
        directions: ``"orthogonal"`` (blocks of n orthogonal directions of norm sqrt(n)), ``"gaussian"``,
            ``"rademacher"`` (random signs, as in SPSA), ``"sobol"`` (scrambled quasi-random points, n up to
            21201), ``"sphere"``.
        baseline: what is subtracted without pairs: ``"loo"`` (mean of the other samples; unbiased), ``"fx"``
            (the value at x, already evaluated), or None. The default ``"auto"`` is None with pairs, since pairs
            cancel any baseline; without them ``"loo"``, or ``"fx"`` for Sobol directions, where the other
            samples are no baseline since they depend on this one.
        generator: source of the noise, on the input's device; None for torch's global one.
        bounds: (low, high), which no probe leaves, each a number or numbers as for sigma; infinite where there
            is none. The input itself must lie within.

    Raises:
        ValueError: for an argument out of range, a baseline or an adaptive sigma that contradicts pairs,
            ``"loo"`` with a single sample or Sobol directions, a sigma or bounds that do not fit the inputs, or an
            input outside its bounds.
        TooManyFailuresError: if a row has too few directions left.

    Example:
        >>> import torch, ndgrad
        >>> estimator = ndgrad.EvolutionStrategy(num_samples=3, sigma=0.1)
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        >>> estimator(lambda x: x @ torch.tensor([[2.0], [0.0], [-1.0]]), x).sum().backward()
        >>> x.grad.round(decimals=4) + 0.0  # n orthogonal pairs are exact on linear functions
        tensor([[ 2.,  0., -1.]])

    Source: thesis equation 3.8; Salimans et al. 2017, arXiv 1703.03864; orthogonal directions: Choromanski et
    al. 2018, arXiv 1804.02395; scrambling: Matousek 1998, On the L2-discrepancy for anchored boxes.

    """

    skips_failures = True

    def __init__(
        self,
        num_samples: int = 20,
        sigma: Setting | AdaptiveSigma = 0.05,
        antithetic: bool = True,
        directions: str = "orthogonal",
        baseline: str | None = "auto",
        generator: torch.Generator | None = None,
        bounds: tuple[Setting, Setting] | None = None,
    ) -> None:
        super().__init__()
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = sigma if isinstance(sigma, AdaptiveSigma) else as_setting("sigma", sigma, positive)
        if isinstance(sigma, AdaptiveSigma) and not antithetic:
            raise ValueError("AdaptiveSigma compares the two sides of pairs; type antithetic=True")
        self.antithetic = antithetic
        self.directions = one_of("directions", directions, DIRECTIONS)
        self.baseline = _baseline(
            one_of("baseline", baseline, ("auto", "loo", "fx", None)), antithetic, num_samples, directions
        )
        self.generator = generator
        self.bounds = None if bounds is None else Bounds(bounds)

    def linearize_flat(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Draw directions and probe; see `FlatEstimator.linearize_flat`."""
        sigma = columns(self.sigma, f, x)  # a number, or (n,)
        eps = DIRECTIONS[self.directions](self.num_samples, x, self.generator)  # (S, B, n)
        weights, divisor = eps, self.num_samples * sigma
        if self.bounds is not None:
            box = self.bounds.box(f, x)
            f, weights, divisor = box.restrict(f), box.weights(x, sigma * eps, eps), self.num_samples
        response = self._response(f, x, y, eps, sigma)  # (S, B, m)
        good = good_samples((response,), least=2 if self.baseline == "loo" else 1)

        def pullback(v: Tensor) -> Tensor:
            w = (response * v).sum(-1)  # (S, B)
            if self.baseline == "loo":
                w = w - leave_one_out(w, good)
            w = reweigh(w, good)
            # not einsum, whose B products of (1, S) and (S, n) take ten times as long for small ones
            return (w.unsqueeze(-1) * weights).sum(0) / divisor  # (B, n)

        return pullback

    def _response(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: Tensor, sigma: float | Tensor
    ) -> Tensor:
        if self.antithetic:
            step = sigma * eps
            upper, lower = antithetic_values(f, x + step, x - step)
            if isinstance(self.sigma, AdaptiveSigma):
                self.sigma.observe(upper, lower, y)
            return (upper - lower) / 2
        z = f(torch.add(x, eps, alpha=sigma) if isinstance(sigma, float) else x + sigma * eps)
        return z - y if self.baseline == "fx" else z

    def extra_repr(self) -> str:
        """Show the settings."""
        return show(
            num_samples=self.num_samples,
            sigma=self.sigma,
            antithetic=self.antithetic,
            directions=self.directions,
            baseline=self.baseline,
            bounds=self.bounds,
        )


def _baseline(baseline: str | None, antithetic: bool, num_samples: int, directions: str) -> str | None:
    if baseline == "auto":
        baseline = None if antithetic else "fx" if directions == "sobol" else "loo"
    if antithetic and baseline is not None:
        raise ValueError(
            f"antithetic pairs cancel every baseline, but got baseline={baseline!r}; leave the baseline out, or type "
            "antithetic=False"
        )
    if baseline == "loo" and num_samples < 2:
        raise ValueError("baseline 'loo' needs num_samples >= 2; type baseline='fx', which costs nothing")
    if baseline == "loo" and directions == "sobol":
        raise ValueError(
            "baseline 'loo' needs samples that do not depend on each other, and Sobol directions do; type "
            "baseline='fx', which costs nothing"
        )
    return baseline
