"""The Fenchel-Young loss: learn a solver's input from known solutions, with a convex loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ndgrad.autograd import attach
from ndgrad.estimator import Pullback, Rows, working_dtype
from ndgrad.generator_state import KeepsGenerator
from ndgrad.perturbations import add_gaussian, add_gumbel
from ndgrad.sampling import evaluate_samples, sum_to_rows
from ndgrad.solvers import require_pairs, sign_of
from ndgrad.validation import one_of, positive_float, positive_int
from ndgrad.wrap import BlackBox


class FenchelYoungLoss(KeepsGenerator):
    r"""Loss between the input of a solver and the solution that it should have led to.

    .. math:: L(\theta; y^*) = \mathbb{E} \max_y \langle\theta + \sigma Z, y\rangle - \langle\theta, y^*\rangle,
              \qquad \nabla_\theta L = y_\sigma(\theta) - y^* \approx \frac{1}{S} \sum_{s=1}^S y(\theta +
              \sigma Z_s) - y^*

    for a solver that maximises a score; for one that minimises a cost, :math:`L = \langle\theta, y^*\rangle -
    \mathbb{E}\min_y\langle\theta - \sigma Z, y\rangle` and :math:`\nabla_\theta L = y^* - y_\sigma(\theta)`.
    Convex in theta, at least 0 for a feasible target, and with gradient 0 where the mean solution is the
    target. (The constant :math:`\Omega(y^*)` of the paper, which is 0 when the target is one of the solver's
    solutions, is left out.)

    No derivative of the solver occurs, so the variance of the gradient is that of S solutions, without a
    factor 1/sigma^2.

    Cost: S evaluations per row in the forward pass, none in the backward pass. Unbiased, value and gradient.
    Take it wherever target solutions are known; `PerturbedOptimizer` where the loss is something else.

    Args:
        solver: maps rows theta (R, ...) to solutions of the same shape: a torch function, or for NumPy, single
            points and the like a module made by `ndgrad.wrap` (whose own gradient is not used).
        sense: ``"max"`` if the solver returns the y of highest score :math:`\langle\theta, y\rangle`,
            ``"min"`` if it returns that of least cost. With a wrong one the loss falls while the solutions
            become worse.
        num_samples: S >= 1.
        sigma: sigma > 0, width of the noise, in units of theta.
        noise: ``"gaussian"`` or ``"gumbel"`` (centred; for a one-hot argmax the loss is then cross-entropy at
            temperature sigma).
        generator: source of the noise, on theta's device; None for torch's global one.

    Call: ``loss(theta, target)`` with tensors (B, ...) returns the loss of each row, (B,). The target is a
    constant.

    Raises:
        TypeError: for a solver that cannot be called.
        ValueError: for an argument out of range, a wrapped solver whose value is already a mean over noise, a
            target or solutions that do not have the shape of theta.

    Example:
        >>> import torch, ndgrad
        >>> from torch.nn.functional import one_hot
        >>> _ = torch.manual_seed(0)
        >>> loss = ndgrad.FenchelYoungLoss(
        ...     lambda scores: one_hot(scores.argmax(1), 3), "max", num_samples=40000, sigma=0.5, noise="gumbel"
        ... )
        >>> scores = torch.tensor([[1.0, 0.5, 0.0]], requires_grad=True)
        >>> value = loss(scores, torch.tensor([[0.0, 1.0, 0.0]]))
        >>> value.detach().round(decimals=1)  # -0.5 log softmax(scores / 0.5)[1]
        tensor([0.7000])
        >>> value.sum().backward()
        >>> scores.grad.round(decimals=1)  # softmax(scores / 0.5) - (0, 1, 0)
        tensor([[ 0.7000, -0.8000,  0.1000]])

    Source: Berthet et al. 2020, arXiv 2002.08676, section 4; Blondel et al. 2020, JMLR 21(35).

    """

    def __init__(
        self,
        solver: Callable[[Tensor], Any],
        sense: str,
        num_samples: int = 20,
        sigma: float = 0.5,
        noise: str = "gaussian",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not callable(solver):
            raise TypeError(f"FenchelYoungLoss needs a callable solver, got {type(solver).__name__}")
        if isinstance(solver, BlackBox) and not solver.estimator.exact_value:
            raise ValueError(
                "FenchelYoungLoss adds noise to the solver itself, but the value of this one is not the solution: its "
                f"{type(solver.estimator).__name__} returns a mean over noise, or a network's; type ndgrad.wrap(fn)"
            )
        self.solver = solver
        self.sign = sign_of(sense)
        self.sense = sense
        self.num_samples = positive_int("num_samples", num_samples)
        self.sigma = positive_float("sigma", sigma)
        self.noise = one_of("noise", noise, ("gaussian", "gumbel"))
        self.generator = generator

    def forward(self, theta: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each row, (B,)."""
        if theta.shape != target.shape:
            raise ValueError(
                f"theta and target must have one shape, got {tuple(theta.shape)} and {tuple(target.shape)}"
            )
        solutions: list[Tensor] = []

        def value(scores: Tensor, target: Tensor) -> Tensor:
            samples, y = self._solve(scores)  # (S, B, ...)
            solutions.append(y.mean(0))
            gap = sum_to_rows(samples * y).mean(0) - sum_to_rows((scores * target).unsqueeze(0))[0]
            return self.sign * gap  # (B,)

        def linearize(inputs: Rows, _: Rows) -> Pullback:
            scores, target = inputs
            slope = self.sign * (solutions.pop() - target)  # (B, ...)
            constant = torch.zeros_like(target)
            return lambda v: ((v[0].reshape(-1, *[1] * (slope.ndim - 1)) * slope).to(scores.dtype), constant)

        loss: Tensor = attach(value, (theta, target.detach()), linearize, "forward")
        return loss

    def _solve(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples on the sense's side of theta and their solutions, (S, B, ...) each."""
        perturb = add_gaussian if self.noise == "gaussian" else add_gumbel
        lifted = self.sign * theta.to(working_dtype(theta))
        samples = self.sign * perturb(self.num_samples, lifted, self.sigma, self.generator)[0]
        samples = samples.to(theta.dtype)
        values, _ = evaluate_samples(self.solver, (samples.clone(),))  # a solver may change its input
        require_pairs((theta,), tuple(y[0] for y in values))
        return samples, values[0]

    def extra_repr(self) -> str:
        """Show the settings."""
        return (
            f"sense={self.sense!r}, num_samples={self.num_samples}, sigma={self.sigma}, noise={self.noise!r}"
        )
