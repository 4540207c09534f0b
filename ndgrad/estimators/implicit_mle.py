"""Implicit maximum likelihood: perturbed solutions against those of a target distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ndgrad.autograd import attach
from ndgrad.estimator import Estimator, EvaluateIn, RowFunction, Rows, working_dtype
from ndgrad.missing import behind, good_samples, reweigh
from ndgrad.perturbations import gumbel, sum_of_gamma
from ndgrad.sampling import evaluate_samples
from ndgrad.solvers import require_backward, require_pairs, sign_of
from ndgrad.validation import positive_float, positive_int


class ImplicitMLE(Estimator):
    r"""Difference of two means of perturbed solutions: at the input, and at the input moved along the cotangent.

    A heuristic. The value is the mean over S perturb-and-MAP draws, in training and evaluation alike. With
    the cotangent v, the gradient is that of the likelihood of a target distribution with parameters
    :math:`\theta - \lambda v`, for a solver that maximises a score

    .. math:: \mu(\theta) = \mathbb{E}\, y(\theta + \sigma\epsilon), \qquad
              \frac{\mu(\theta) - \mu(\theta - \lambda v)}{\lambda} \approx \frac{1}{S\lambda} \sum_{s=1}^S
              \left(y(\theta + \sigma\epsilon_s) - y(\theta - \lambda v + \sigma\epsilon_s)\right),

    and for one that minimises a cost :math:`(\mu(\theta + \lambda v) - \mu(\theta))/\lambda` with
    :math:`\mu(\theta) = \mathbb{E}\, y(\theta - \sigma\epsilon)`. Both terms share their noise. The paper
    leaves the division by lambda to the learning rate; with it the gradient tends to :math:`J v` as lambda
    shrinks, J the Jacobian of the mean, which for solutions of linear problems is symmetric, so that it is
    the chain rule's.

    Shapes: theta, y and v are (B, n); the draws (S, B, n).

    Cost: S evaluations per row in the forward pass, also where no gradient is needed, and S more per backward
    pass. Draws and solutions stay in memory in between, S (n + m) numbers per row. Unbiased for the
    difference quotient; its bias against the derivative of the mean grows with lambda, its variance as
    1/lambda for small lambda. Not linear in the cotangent, whose size times lambda decides how far away the
    second mean is; with ``lambd="adaptive"`` only its direction does. Failed evaluations are left out, of the gradient
    together with their partner in the other mean; S is then the number that a row has left, at least 1.

    Take it for exact solvers of linear problems (k-subsets, paths, spanning trees) with a loss on the
    solution; not for general functions.

    Args:
        sense: ``"max"`` if the function returns the y of highest score :math:`\langle\theta, y\rangle`,
            ``"min"`` if it returns that of least cost. A wrong one looks for solutions of *higher* loss, and
            mirrors the noise.
        lambd: lambda > 0, the step along the cotangent; or ``"adaptive"``: :math:`\lambda = \alpha
            \|\theta\|/\|v\|` for each row, with one alpha >= 0 for all, 1 at first, that grows or shrinks by
            0.001 with every backward pass in train mode until one entry per draw differs between both terms
            on average. Alpha and that average go with ``state_dict``. A row of zeros has no gradient then.
        num_samples: S >= 1.
        sigma: sigma > 0, the temperature of the noise, in units of the input.
        kappa: None for Gumbel noise; k >= 1 for sum-of-gamma noise, of which k coordinates add up to a Gumbel
            variable: for solutions with k ones.
        generator: source of the noise, on the input's device; None for torch's global one.

    Noise is centred, which for solutions with a constant number of ones changes nothing.

    Raises:
        ValueError: for an argument out of range, outputs that do not have the inputs' shapes, or
            ``evaluate_in="forward"``, before the cotangent is known.
        TooManyFailuresError: if a row has no evaluation left.

    Example:
        >>> import torch, ndgrad
        >>> from torch.nn.functional import one_hot
        >>> _ = torch.manual_seed(0)
        >>> choice = ndgrad.wrap(
        ...     lambda scores: one_hot(scores.argmax(1), 2),
        ...     estimator=ndgrad.ImplicitMLE("max", lambd=1.5, num_samples=40000, sigma=0.5),
        ... )
        >>> scores = torch.tensor([[0.4, 0.0]], requires_grad=True)
        >>> y = choice(scores)
        >>> y.detach().round(decimals=2)  # softmax(scores / 0.5)
        tensor([[0.6900, 0.3100]])
        >>> (y * torch.tensor([[0.2, 0.0]])).sum().backward()
        >>> scores.grad.round(decimals=2)  # (softmax((0.4, 0) / 0.5) - softmax((0.1, 0) / 0.5)) / 1.5
        tensor([[ 0.0900, -0.0900]])

    Source: Niepert et al. 2021, arXiv 2106.01798, section 3 and algorithm 1; adaptive lambda: Minervini et al.
    2023, arXiv 2209.04862.

    """

    consistent = False
    exact_value = False
    linear = False
    paired = True
    skips_failures = True

    def __init__(
        self,
        sense: str,
        lambd: float | str = 10.0,
        num_samples: int = 1,
        sigma: float = 1.0,
        kappa: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sign = sign_of(sense)
        self.sense = sense
        self.lambd = lambd if lambd == "adaptive" else positive_float("lambd", lambd)
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = positive_float("sigma", sigma)
        self.kappa = None if kappa is None else positive_int("kappa", kappa)
        self.generator = generator
        self.alpha = 1.0
        self.changes = 1.0  # running mean of the entries per draw that differ between both terms

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return the mean of ``f`` over S perturbed inputs; see `Estimator.forward`."""
        require_backward(evaluate_in)
        draws: list[tuple[Rows, Rows]] = []

        def mean(*theta: Tensor) -> Tensor | Rows:
            noise = tuple(self._noise(t) for t in theta)  # (S, B, ...)
            values, single = evaluate_samples(f, _add(theta, noise))  # (S, B, ...)
            require_pairs(theta, tuple(y[0] for y in values))
            draws[:] = [(noise, values)]
            good = good_samples(values)
            means = tuple(reweigh(y, good).mean(0) for y in values)
            return means[0] if single else means

        return attach(mean, inputs, lambda x, _: lambda v: self._difference(f, x, v, *draws[0]), linear=False)

    def _noise(self, theta: Tensor) -> Tensor:
        theta = theta.to(working_dtype(theta))
        if self.kappa is None:
            noise = gumbel(self.num_samples, theta, self.generator)
        else:
            noise = sum_of_gamma(self.num_samples, theta, self.kappa, self.generator)
        return self.sign * self.sigma * noise  # (S, B, ...)

    def _difference(self, f: RowFunction, theta: Rows, v: Rows, noise: Rows, values: Rows) -> Rows:
        """Solve for the target distribution with the same noise; return the difference of means by lambda."""
        lambd = self._step(theta, v)  # (B,)
        shifts = tuple(e - self.sign * behind(lambd, c) * c for e, c in zip(noise, v, strict=True))
        targets, _ = evaluate_samples(f, _add(theta, shifts))  # (S, B, ...)
        differences = tuple(y - z for y, z in zip(values, targets, strict=True))
        good = good_samples(differences)
        differences = tuple(reweigh(d, good) for d in differences)
        if self.lambd == "adaptive" and self.training:
            self._adapt(differences, good)
        slope = torch.where(lambd > 0, self.sign / lambd, 0.0)
        return tuple(
            (behind(slope, d[0]) * d.mean(0)).to(t.dtype) for d, t in zip(differences, theta, strict=True)
        )

    def _step(self, theta: Rows, v: Rows) -> Tensor:
        """Return lambda of each row, (B,); an adaptive one is 0 where the input or the cotangent is."""
        size = _row_norms(v)
        if isinstance(self.lambd, float):
            return torch.full_like(size, self.lambd)
        return torch.where(size > 0, self.alpha * _row_norms(theta) / size, 0.0)

    def _adapt(self, differences: Rows, good: Tensor | None) -> None:
        """Lengthen the step while fewer than one entry per draw differs, else shorten it."""
        S, B = differences[0].shape[:2]
        draws = S * B if good is None else int(good.sum())
        if draws == 0:
            return
        changed = sum(int(d.count_nonzero()) for d in differences) / draws
        self.changes = 0.9 * self.changes + 0.1 * changed
        self.alpha = max(self.alpha + (0.001 if self.changes < 1 else -0.001), 0.0)

    def get_extra_state(self) -> dict[str, float]:
        """Return what an adaptive lambda has learned."""
        return {"alpha": self.alpha, "changes": self.changes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore `get_extra_state`."""
        self.alpha, self.changes = state["alpha"], state["changes"]

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"sense={self.sense!r}, lambd={self.lambd!r}, num_samples={self.num_samples}, sigma={self.sigma}, "
            f"kappa={self.kappa}"
        )


def _add(theta: Rows, shifts: Rows) -> Rows:
    """Return samples (S, B, ...) of the inputs, in their dtypes."""
    return tuple((t + e).to(t.dtype) for t, e in zip(theta, shifts, strict=True))


def _row_norms(tensors: Rows) -> Tensor:
    """Return the Euclidean norm of each row of all tensors together, (B,)."""
    dtype = working_dtype(*tensors)
    squares = [t.to(dtype).square().reshape(t.shape[0], t.shape[1:].numel()).sum(1) for t in tensors]
    return torch.stack(squares).sum(0).sqrt()
