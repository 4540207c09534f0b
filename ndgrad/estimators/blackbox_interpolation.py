"""Black-box differentiation: solve once more where the loss points."""

from __future__ import annotations

from torch import Tensor

from ndgrad.autograd import attach
from ndgrad.estimator import Estimator, EvaluateIn, RowFunction, Rows, as_tuple, working_dtype
from ndgrad.solvers import require_backward, require_pairs, sign_of
from ndgrad.validation import positive_float


class BlackboxInterpolation(Estimator):
    r"""Difference of two solutions: at the input, and at the input moved along the cotangent.

    A heuristic. With the cotangent v, the linearised loss :math:`\langle v, y(\theta)\rangle` is a step
    function of theta; differentiated exactly is its continuous, piecewise affine interpolation, for a solver
    that minimises a cost

    .. math:: f_\lambda(\theta) = \frac{1}{\lambda}\left(\min_y \langle\theta + \lambda v, y\rangle
              - \min_y \langle\theta, y\rangle\right), \qquad
              \nabla f_\lambda = \frac{1}{\lambda} \left(y(\theta + \lambda v) - y(\theta)\right),

    and for one that maximises a score :math:`\nabla f_\lambda = (y(\theta) - y(\theta - \lambda v))/\lambda`:
    either way the second solution has the lower linearised loss. For a function with a derivative this is a
    difference quotient of y along v, hence :math:`J v`, where the chain rule wants :math:`J^\top v`: the same
    for solutions of linear problems, whose Jacobian is symmetric, and wrong for other functions.

    Shapes: theta, y and v are (B, ...), of one shape.

    Cost: one evaluation per row and backward pass. No variance. Not linear in the cotangent: the size of v
    times lambda decides how far the interpolation reaches, so lambda must grow as the loss is scaled down (a
    mean over a batch of B divides v by B; ``torch.amp.GradScaler`` multiplies it). Zero where the second
    solution is the first.

    Take it for exact solvers (shortest path, assignment, ranking) that are expensive; not for general
    functions, nor where the value must be smooth.

    Args:
        sense: ``"min"`` if the function returns the y of least cost :math:`\langle\theta, y\rangle`,
            ``"max"`` if it returns that of highest score. A wrong one looks for the solution of *higher* loss.
        lambd: lambda > 0, the step along the cotangent: large enough for ``lambda v`` to change solutions.

    Raises:
        ValueError: for an argument out of range, outputs that do not have the inputs' shapes, or
            ``evaluate_in="forward"``, before the cotangent is known.

    Example:
        >>> import torch, ndgrad
        >>> from torch.nn.functional import one_hot
        >>> cheapest = ndgrad.wrap(
        ...     lambda costs: one_hot(costs.argmin(1), 3),
        ...     estimator=ndgrad.BlackboxInterpolation("min", lambd=4.0),
        ... )
        >>> costs = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        >>> y = cheapest(costs)
        >>> (y * torch.tensor([[0.5, 0.0, 0.2]])).sum().backward()  # solves at costs (3.0, 2.0, 3.8)
        >>> costs.grad + 0.0  # a descent step makes the second cheaper and the first dearer
        tensor([[-0.2500,  0.2500,  0.0000]])

    Source: Vlastelica et al. 2020, arXiv 1912.02175, section 3 and algorithm 1.

    """

    consistent = False
    linear = False
    paired = True

    def __init__(self, sense: str, lambd: float = 10.0) -> None:
        super().__init__()
        self.sign = sign_of(sense)
        self.sense = sense
        self.lambd = positive_float("lambd", lambd)

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return ``f(x)``; see `Estimator.forward`."""
        require_backward(evaluate_in)

        def solve(*theta: Tensor) -> Tensor | Rows:
            y: Tensor | Rows = f(*theta)
            require_pairs(theta, as_tuple(y))
            return y

        return attach(solve, inputs, lambda x, y: lambda v: self._interpolate(f, x, y, v), linear=False)

    def _interpolate(self, f: RowFunction, theta: Rows, y: Rows, v: Rows) -> Rows:
        """Solve again on the side of lower loss and return the slope between both solutions."""
        dtype = working_dtype(*theta)
        moved = (t - self.sign * self.lambd * c.to(dtype) for t, c in zip(theta, v, strict=True))
        better = as_tuple(f(*(z.to(t.dtype) for z, t in zip(moved, theta, strict=True))))
        slope = self.sign / self.lambd
        return tuple((slope * (a - b)).to(t.dtype) for a, b, t in zip(y, better, theta, strict=True))

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"sense={self.sense!r}, lambd={self.lambd}"
