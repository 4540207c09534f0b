"""Least squares: the linear function that fits differences along random directions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ndgrad.adaptive_sigma import AdaptiveSigma
from ndgrad.coordinates import Setting, as_setting, columns, positive, show
from ndgrad.estimator import FlatEstimator
from ndgrad.missing import good_samples
from ndgrad.sampling import DIRECTIONS, antithetic_values
from ndgrad.validation import one_of, positive_int


class LeastSquares(FlatEstimator):
    r"""Slope of the linear function that fits antithetic differences best.

    .. math:: \hat g = c \, \frac{1}{\sigma} E^+ w, \quad
              w_s = \left\langle v, \frac{f(x + \sigma\epsilon_s) - f(x - \sigma\epsilon_s)}{2} \right\rangle,
              \quad c = \max(1, n/S)

    with the cotangent v, the directions :math:`\epsilon_s` as the rows of E (S, n) and its pseudo-inverse
    :math:`E^+`. For S >= n that is :math:`\arg\min_g \sum_s (w_s - \sigma \langle g, \epsilon_s \rangle)^2`:
    differences are centred, so that no intercept is fitted. For S < n it is the solution of least norm, the
    projection of the gradient on the span of the directions, a uniformly distributed subspace. Its mean is S/n
    of the gradient, and c = n/S makes up for that.

    Cost: 2 S evaluations per row and backward pass, and a QR decomposition of S x n numbers per row. On a linear
    function the estimate is exact for S >= n; for S < n it is unbiased, with relative variance n/S - 1. On
    smooth functions the bias is of order sigma^2. Independent noise of variance tau^2 in every evaluation of
    ``<v, f>`` adds, to the trace of the covariance,

    ================  ==========================================  =========================================
    directions        S >= n, k = S div n, r = S mod n            S < n
    ================  ==========================================  =========================================
    ``"orthogonal"``  a ((n - r) / k + r / (k + 1)) / n           a n / S
    ``"gaussian"``    a n / (S - n - 1), infinite for S <= n + 1  a n^2 / (S (n - S - 1)), infinite for S >= n - 1
    ================  ==========================================  =========================================

    with :math:`a = \tau^2 / (2\sigma^2)`.

    A failed evaluation takes its pair along; S is then the number of directions that a row has left, at least 1. Of
    orthogonal ones n may then come from several blocks and be closer to dependent, which amplifies noise like Gaussian
    ones do.

    Take it for smooth functions of few inputs and 2 n evaluations or more. With orthogonal directions it is the
    same as `EvolutionStrategy` for S <= n and for multiples of n, and otherwise without the variance of
    the last, partial block; with Gaussian ones it has none of their variance of (n + 1)/S, but amplifies noise
    and curvature where S is close to n. Not for step functions, on which it differs from the smoothed gradient.

    Args:
        num_samples: S >= 1, the number of directions, two evaluations each.
        sigma: sigma > 0, the length of the steps, in units of the input: a number, a tensor for the coordinates, a
            tuple for the inputs, or an `AdaptiveSigma`, as in `EvolutionStrategy`.
        directions: ``"orthogonal"`` (blocks of n orthogonal directions of norm sqrt(n)) or ``"gaussian"``. Others
            have no uniformly distributed span.
        generator: source of the noise, on the input's device; None for torch's global one.

    Raises:
        ValueError: for an argument out of range, or a sigma that does not fit the inputs.
        TooManyFailuresError: if a row has no direction left.

    Example:
        >>> import torch, ndgrad
        >>> estimator = ndgrad.LeastSquares(num_samples=4, sigma=0.1, directions="gaussian")
        >>> x = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
        >>> weight = torch.tensor([[2.0], [0.5], [-1.0]], dtype=torch.float64)
        >>> estimator(lambda x: x @ weight, x).sum().backward()
        >>> x.grad  # S >= n: exact on linear functions
        tensor([[ 2.0000,  0.5000, -1.0000]], dtype=torch.float64)

    Source: simplex and regression gradients, Conn, Scheinberg & Vicente 2009, Introduction to Derivative-Free
    Optimization, chapter 2; the moments of inverse Wishart matrices that the variances follow from are
    in Mardia, Kent & Bibby 1979, Multivariate Analysis, section 3.8.

    """

    skips_failures = True

    def __init__(
        self,
        num_samples: int = 20,
        sigma: Setting | AdaptiveSigma = 0.05,
        directions: str = "orthogonal",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = sigma if isinstance(sigma, AdaptiveSigma) else as_setting("sigma", sigma, positive)
        self.directions = one_of("directions", directions, ("orthogonal", "gaussian"))
        self.generator = generator

    def linearize_flat(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Draw directions, probe, and decompose; see `FlatEstimator.linearize_flat`."""
        sigma = columns(self.sigma, f, x)  # a number, or (n,)
        eps = DIRECTIONS[self.directions](self.num_samples, x, self.generator)  # (S, B, n)
        upper, lower = antithetic_values(f, x + sigma * eps, x - sigma * eps)  # (S, B, m)
        if isinstance(self.sigma, AdaptiveSigma):
            self.sigma.observe(upper, lower, y)
        response = (upper - lower) / 2
        solve = _solver(eps.transpose(0, 1), good_samples((response,)))

        def pullback(v: Tensor) -> Tensor:
            w = (response * v).sum(-1)  # (S, B)
            return solve(w.T) / sigma  # (B, n)

        return pullback

    def extra_repr(self) -> str:
        """Show the settings."""
        return show(num_samples=self.num_samples, sigma=self.sigma, directions=self.directions)


def _solver(E: Tensor, good: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return ``w -> c E^+ w``, (B, S) to (B, n), each row with its directions among ``good`` (S, B)."""
    complete = _pseudo_inverse(E)
    if good is None:
        return complete
    kept, counts = good.T, good.sum(0)  # (B, S), (B,)
    parts = []  # of as many directions each
    for count in counts[counts < len(good)].unique():
        rows = (counts == count).nonzero().squeeze(1)
        chosen = E[rows][kept[rows]].unflatten(0, (len(rows), -1))  # (rows, count, n)
        parts.append((rows, _pseudo_inverse(chosen)))

    def solve(w: Tensor) -> Tensor:
        slopes = complete(torch.where(kept, w, 0.0))
        for rows, partial in parts:
            slopes[rows] = partial(w[rows][kept[rows]].unflatten(0, (len(rows), -1)))
        return slopes

    return solve


def _pseudo_inverse(E: Tensor) -> Callable[[Tensor], Tensor]:
    """Return ``w -> c E^+ w``, (B, S) to (B, n), for E (B, S, n) of full rank."""
    _, S, n = E.shape
    tall = n <= S
    c = max(1.0, n / max(S, 1))
    # QR, not the Gram matrix: its condition number would be squared
    Q, R = torch.linalg.qr(E if tall else E.mT)  # (B, S, n), (B, n, n); wide: (B, n, S), (B, S, S)

    def solve(w: Tensor) -> Tensor:
        column = w.unsqueeze(-1)  # (B, S, 1)
        if tall:
            return c * torch.linalg.solve_triangular(R, Q.mT @ column, upper=True).squeeze(-1)
        return c * (Q @ torch.linalg.solve_triangular(R.mT, column, upper=False)).squeeze(-1)

    return solve
