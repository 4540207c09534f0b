"""Perturbed optimisers: the mean of a solver over noisy inputs, and its gradient from the same draws."""

from __future__ import annotations

import torch
from torch import Tensor

from ndgrad.autograd import attach
from ndgrad.estimator import Estimator, EvaluateIn, Pullback, RowFunction, Rows, as_tuple, working_dtype
from ndgrad.missing import behind, good_samples, leave_one_out, less_baseline, reweigh
from ndgrad.perturbations import (
    Perturbation,
    add_gaussian,
    add_gumbel,
    multiply_lognormal,
    subtract_gumbel,
)
from ndgrad.sampling import contract, evaluate_samples
from ndgrad.solvers import sign_of
from ndgrad.validation import one_of, positive_float, positive_int


class PerturbedOptimizer(Estimator):
    r"""Value and gradient of a solver's mean over noisy inputs.

    .. math:: y_\sigma(\theta) = \mathbb{E}\, y(\theta + \sigma Z), \qquad
              v^\top \frac{\partial y_\sigma}{\partial\theta}
              = \frac{1}{\sigma} \mathbb{E}\left[\langle v, y(\theta + \sigma Z)\rangle \nabla\nu(Z)\right]
              \approx \frac{1}{S\sigma} \sum_{s=1}^S
              \left(\langle v, y(\theta + \sigma Z_s)\rangle - b_s\right) \nabla\nu(Z_s)

    with the density of Z proportional to :math:`e^{-\nu}`. The value, in training and evaluation alike, is
    the mean over S draws; the backward pass uses the same draws.

    ========== ================================ ================================ ==========================
    noise      draw around theta                gradient of its log density      for
    ========== ================================ ================================ ==========================
    gaussian   theta + sigma Z                  Z / sigma                        any solver
    gumbel     theta + sigma Z (max),           (1 - exp(-Z - 0.577)) / sigma,   a one-hot argmax or argmin,
               theta - sigma Z (min)            negative for min                 whose mean is a softmax
    lognormal  theta exp(sigma Z - sigma^2 / 2) Z / (sigma theta)                costs that stay positive
    ========== ================================ ================================ ==========================

    All have mean theta: the Gumbel variable Z is centred, 0.577 its mean before.

    Cost: S evaluations per row in the forward pass, also where no gradient is needed, since the value needs
    them; none in the backward pass (``baseline="fx"``: one more per row where a gradient is needed). Draws
    and solutions stay in memory in between, S (n + m) numbers per row. Unbiased
    for the mean; against y itself the bias shrinks with sigma. The variance grows with the number of inputs
    and as 1/sigma^2: on a linear function (n + 1)/(S - 1) relative for Gaussian noise. Failed evaluations are left out
    of value and gradient; S is then the number that a row has left, at least 1, or 2 for ``"loo"``.

    Take it for shortest paths, assignments, rankings and other solvers with piecewise constant solutions,
    whose means are then soft solutions. With targets at hand `ndgrad.FenchelYoungLoss` has far less variance.
    Gaussian noise gives the gradient of `ScoreFunction` with a normal distribution.

    Args:
        num_samples: S >= 1.
        sigma: sigma > 0, width of the noise: in units of the input, or relative for ``"lognormal"``.
        noise: ``"gaussian"``, ``"gumbel"`` or ``"lognormal"``, see above.
        sense: ``"max"`` if the function maximises a score, ``"min"`` if it minimises a cost. Gumbel noise,
            which is skewed, needs it; to the others both are the same.
        baseline: what is subtracted: ``"loo"`` (mean of the other samples), ``"fx"`` (``y(theta)``), or None.
        generator: source of the noise, on the input's device; None for torch's global one.

    Raises:
        ValueError: for an argument out of range, Gumbel noise without a sense, ``"loo"`` with a single
            sample, or log-normal noise on an input of 0.
        TooManyFailuresError: if a row has too few evaluations left.

    Example:
        >>> import torch, ndgrad
        >>> from torch.nn.functional import one_hot
        >>> _ = torch.manual_seed(0)
        >>> choice = ndgrad.wrap(
        ...     lambda scores: one_hot(scores.argmax(1), 3),
        ...     estimator=ndgrad.PerturbedOptimizer(40000, sigma=0.5, noise="gumbel", sense="max"),
        ... )
        >>> scores = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
        >>> y = choice(scores)
        >>> y.detach().round(decimals=1)  # softmax(scores / 0.5) = (0.665, 0.245, 0.090)
        tensor([[0.7000, 0.2000, 0.1000]])
        >>> y[0, 0].backward()
        >>> scores.grad.round(decimals=1)  # p0 (1 - p0) / 0.5, -p0 p1 / 0.5, -p0 p2 / 0.5
        tensor([[ 0.4000, -0.3000, -0.1000]])

    Source: Berthet et al. 2020, arXiv 2002.08676, sections 2 and 3; log-normal noise: Dalle et al. 2022,
    arXiv 2207.13513.

    """

    exact_value = False
    skips_failures = True

    def __init__(
        self,
        num_samples: int = 20,
        sigma: float = 0.5,
        noise: str = "gaussian",
        sense: str | None = None,
        baseline: str | None = "loo",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = positive_float("sigma", sigma)
        self.noise = one_of("noise", noise, ("gaussian", "gumbel", "lognormal"))
        self.sense = sense
        self.baseline = one_of("baseline", baseline, ("loo", "fx", None))
        if baseline == "loo" and num_samples < 2:
            raise ValueError("baseline 'loo' needs num_samples >= 2; type baseline='fx'")
        self.generator = generator
        self._perturb = _perturbation(noise, sense)

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return the mean of ``f`` over S draws around the inputs; see `Estimator.forward`."""
        draws: list[tuple[Rows, Tensor | None, Rows]] = []

        def mean(*theta: Tensor) -> Tensor | Rows:
            samples, scores = self._draw(theta)
            values, single = evaluate_samples(f, samples)  # (S, B, ...)
            good = good_samples(values, least=2 if self.baseline == "loo" else 1)
            draws.append((values, good, scores))
            means = tuple(reweigh(y, good).mean(0) for y in values)
            return means[0] if single else means

        # always in the forward pass: the value has paid for the draws
        return attach(mean, inputs, lambda x, _: self._linearize(f, x, *draws.pop()), "forward")

    def _draw(self, theta: Rows) -> tuple[Rows, Rows]:
        """Return S samples around each input, in its dtype, and their scores, (S, B, ...)."""
        dtype = working_dtype(*theta)
        pairs = [self._perturb(self.num_samples, t.to(dtype), self.sigma, self.generator) for t in theta]
        return tuple(z.to(t.dtype) for (z, _), t in zip(pairs, theta, strict=True)), tuple(
            g for _, g in pairs
        )

    def _linearize(
        self, f: RowFunction, theta: Rows, values: Rows, good: Tensor | None, scores: Rows
    ) -> Pullback:
        """Return the pullback ``v -> sum_s (<v, y_s> - b_s) score_s / S``."""
        centred = values
        if self.baseline == "fx":
            centred = less_baseline(values, as_tuple(f(*theta)), good)

        def pullback(cotangents: Rows) -> Rows:
            w = contract(centred, cotangents)  # (S, B)
            if self.baseline == "loo":
                w = w - leave_one_out(w, good)
            w = reweigh(w, good)
            return tuple(
                (behind(w.to(g.dtype), g) * g).mean(0).to(t.dtype) for g, t in zip(scores, theta, strict=True)
            )

        return pullback

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"num_samples={self.num_samples}, sigma={self.sigma}, noise={self.noise!r}, sense={self.sense!r}, "
            f"baseline={self.baseline!r}"
        )


def _perturbation(noise: str, sense: str | None) -> Perturbation:
    if noise == "gumbel" and sense is None:
        raise ValueError(
            "Gumbel noise is skewed: it is added to a score and subtracted from a cost; type sense='max' if the "
            "function maximises a score, sense='min' if it minimises a cost"
        )
    sign = 1.0 if sense is None else sign_of(sense)
    if noise == "gumbel":
        return add_gumbel if sign > 0 else subtract_gumbel
    return add_gaussian if noise == "gaussian" else multiply_lognormal
