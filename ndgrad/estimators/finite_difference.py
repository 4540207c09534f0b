"""Finite differences along the coordinate axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ndgrad.bounds import Bounds, as_received
from ndgrad.coloring import Block, Coloring, single_inputs
from ndgrad.coordinates import PerInput, Setting, as_setting, columns, positive, show
from ndgrad.estimator import (
    FlatFunction,
    Pullback,
    RowFunction,
    Rows,
    VJPEstimator,
    join_rows,
    split_rows,
    working_dtype,
)
from ndgrad.stencils import Stencil
from ndgrad.step_ladder import Precision, StepQuality, StepTable, ladder
from ndgrad.validation import one_of, positive_int

_MAX_BLOCK = 2**24  # numbers in one block of probes, so that n^2 B of them never exist at once


class FiniteDifference(VJPEstimator):
    r"""Difference quotients along every coordinate.

    .. math:: \partial_i f(x) \approx \frac{f(x + h_i e_i) - f(x - h_i e_i)}{2 h_i} \text{ (central, order 2)},
              \quad \frac{f(x + h_i e_i) - f(x)}{h_i} \text{ (forward, order 1)}

    Higher orders extrapolate the quotients of steps h, 2 h, 3 h, ... to 0: in :math:`h^2` for p/2 central
    ones of order p, in h for p forward ones.

    Shapes: x (B, n) and h (n,) or a number; f (B, m), which all n quotients share.

    Cost: p n evaluations per row and backward pass for order p, so 2 n (central) or n (forward) by default; with
    ``sparsity``, p for each group of inputs that share no output; up to six times as many with ``eps="auto"``.
    Deterministic: no variance. The bias is of order :math:`h^p`, :math:`h^2 f'''/6` (central) or
    :math:`h f''/2` (forward) by default, plus rounding of about ``eps_machine |f| / h``.

    Take it for smooth functions with few inputs, or with many of which each output depends on few; on a step
    function it returns 0 almost everywhere, and noise in ``f`` is divided by ``h``. Higher orders pay for functions
    that are smooth at a long scale; the automatic step for functions of unknown scale or rounding error.

    Args:
        method: ``"central"`` or ``"forward"``.
        eps: the step h > 0, in units of the input: a number; a tensor that broadcasts to the row of a single input,
            or of n values in the order of the flattened inputs; or a tuple with one of these for each differentiated
            input. None chooses ``eps_machine^(1/(p+1))`` times ``max(1, |x_i|)``, for the dtype of the input or of the
            outputs, whichever is coarser. ``"auto"`` tries six steps (in half precision fewer) from
            ``eps_machine^(1/8) max(1, |x_i|)`` down by factors of 4, and takes for each row and input the entry of
            their extrapolation table with the least estimated error.
        order: the order p; even for central differences. None for 2 (central) or 1 (forward).
        bounds: (low, high), which no probe leaves, each a number or numbers as for eps; infinite where there is
            none. Where a formula would leave them, one of the same order and cost is used that has all its points on
            the roomier side, with a shorter step where even that has no room. The input itself must lie within.
        sparsity: bool tensor (n, m), True where output k depends on input i, as they lie flattened side by side.
            A missing True is refused where it shows: where an output changes with a group of inputs none of
            which it should depend on. Where it should depend on another input of the group, the derivative is wrong.

    ``quality`` holds a `StepQuality` after each call with ``eps="auto"``, else None.

    Raises:
        ValueError: for another method, an order that does not exist, a step that is not positive or vanishes
            beside an input, an input outside its bounds, or settings that do not fit the inputs and outputs.

    Example:
        >>> import torch, ndgrad
        >>> cube = ndgrad.wrap(lambda x: x**3, estimator=ndgrad.FiniteDifference(eps=0.1))
        >>> x = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
        >>> cube(x).sum().backward()
        >>> x.grad  # 3 x^2 + h^2
        tensor([[12.0100]], dtype=torch.float64)
        >>> neighbours = torch.eye(50).diff(dim=1) != 0  # output k depends on inputs k and k + 1
        >>> chain = ndgrad.wrap(
        ...     lambda x: x.diff(dim=1), estimator=ndgrad.FiniteDifference(sparsity=neighbours)
        ... )
        >>> chain(torch.zeros(1, 50, requires_grad=True)).sum().backward()
        >>> chain.num_evaluations  # the value, and 2 for each of 2 groups
        5

    Source: thesis section 2.1.2; step sizes from Nocedal & Wright, Numerical Optimization, section 8.1; automatic
    step: Ridders 1982, Accurate computation of F'(x) and F'(x) F''(x); groups: Curtis, Powell & Reid 1974, On the
    estimation of sparse Jacobian matrices.

    """

    def __init__(
        self,
        method: str = "central",
        eps: Setting | str | None = None,
        order: int | None = None,
        bounds: tuple[Setting, Setting] | None = None,
        sparsity: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.method = one_of("method", method, ("central", "forward"))
        self.eps = _step(eps)
        self.order = _order(order, method)
        self.bounds = None if bounds is None else Bounds(bounds)
        self.coloring = None if sparsity is None else Coloring(sparsity)
        self.quality: StepQuality | None = None

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Estimate all n columns of the Jacobian; see `VJPEstimator.linearize`."""
        dtype = working_dtype(*inputs, *outputs)
        x, y = join_rows(inputs, dtype), join_rows(outputs, dtype)  # (B, n), (B, m)
        flat, precision = FlatFunction(f, inputs, dtype), Precision.of(inputs, outputs)
        stencil, steps = self._plan(flat, x, precision)
        # where f is really evaluated, per step and point (B, n): quotients are by the step that this leaves
        points = [[as_received(flat, z) for z in stencil.points(x, step)] for step in steps]
        self._require_steps(inputs, points[-1])
        jacobian = y.new_empty(x.shape[1], *y.shape)  # (n, B, m)
        table = StepTable(steps, stencil, x, y, precision)
        for block in self._blocks(x, y):
            levels = [
                stencil.derivative(block.inputs, x, y, moved, [block.columns(flat, x, y, z) for z in moved])
                for moved in points
            ]  # (k, B, m) per step
            jacobian[block.inputs] = table.extrapolate(block.inputs, levels)
        self.quality = table.quality() if self.eps == "auto" else None
        return lambda v: split_rows(torch.einsum("nbm,bm->bn", jacobian, join_rows(v, dtype)), inputs)

    def _plan(
        self, f: Callable[[Tensor], Tensor], x: Tensor, precision: Precision
    ) -> tuple[Stencil, list[Tensor]]:
        """Return the points of each coordinate, and the steps (B, n), widest first."""
        steps = self._steps(f, x, precision)
        stencil = Stencil(self.order, self.method == "central")
        if self.bounds is not None:
            stencil = stencil.within(self.bounds.box(f, x), x, steps[0])
        return stencil, stencil.shorten(x, steps)

    def _steps(self, f: Callable[[Tensor], Tensor], x: Tensor, precision: Precision) -> list[Tensor]:
        if self.eps is None:
            return [precision.power(1 / (self.order + 1), x) * x.abs().clamp(min=1.0)]
        if isinstance(self.eps, str):
            return ladder(x, precision)
        return [columns(self.eps, f, x) * torch.ones_like(x)]

    def _require_steps(self, inputs: Rows, points: list[Tensor]) -> None:
        moved = [split_rows(z, inputs) for z in points]
        for x, *moves in zip(inputs, *moved, strict=True):
            if any((z == x).any() for z in moves):
                raise ValueError(
                    f"eps={self.eps} vanishes beside an input as large as {x.abs().max().item():.3g} in {x.dtype}; "
                    "use a larger eps, eps=None, or float64 inputs"
                )

    def _blocks(self, x: Tensor, y: Tensor) -> Iterator[Block]:
        size = max(1, _MAX_BLOCK // max(1, x.numel()))
        return single_inputs(size, x) if self.coloring is None else self.coloring.blocks(size, x, y)

    def extra_repr(self) -> str:
        """Show the settings."""
        return show(method=self.method, eps=self.eps, order=self.order, bounds=self.bounds)


def _step(eps: Setting | str | None) -> float | PerInput | str | None:
    if isinstance(eps, str):
        return str(one_of("eps", eps, ("auto",)))
    return None if eps is None else as_setting("eps", eps, positive)


def _order(order: int | None, method: str) -> int:
    if order is None:
        return 2 if method == "central" else 1
    if method == "central" and positive_int("order", order, least=2) % 2:
        raise ValueError(f"order must be even for central differences, got {order}; type order={order + 1}")
    return positive_int("order", order)
