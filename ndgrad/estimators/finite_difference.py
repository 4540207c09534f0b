"""Finite differences along the coordinate axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ndgrad.estimator import FlatEstimator
from ndgrad.validation import one_of, positive_float

_MAX_BLOCK = 2**24  # numbers in one block of probes, so that n^2 B of them never exist at once


class FiniteDifference(FlatEstimator):
    r"""Difference quotients along every coordinate.

    .. math:: \partial_i f(x) \approx \frac{f(x + h_i e_i) - f(x - h_i e_i)}{2 h_i} \text{ (central)}, \quad
              \frac{f(x + h_i e_i) - f(x)}{h_i} \text{ (forward)}

    Cost: 2 n (central) or n (forward) evaluations per row and backward pass. Deterministic: no variance; bias
    :math:`h^2 f'''/6` (central) or :math:`h f''/2` (forward), plus rounding of about ``eps_machine |f| / h``.
    Take it for smooth functions with few inputs; on a step function it returns 0 almost everywhere, and noise
    in ``f`` is divided by ``h``.

    Args:
        method: ``"central"`` or ``"forward"``.
        eps: the step h > 0, in units of the input. None chooses ``eps_machine^(1/3)`` (central) or
            ``eps_machine^(1/2)`` (forward) times ``max(1, |x_i|)`` for the input's dtype.

    Raises:
        ValueError: for another method, a step that is not positive, or one that vanishes beside an input.

    Example:
        >>> import torch, ndgrad
        >>> cube = ndgrad.wrap(lambda x: x**3, estimator=ndgrad.FiniteDifference(eps=0.1))
        >>> x = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
        >>> cube(x).sum().backward()
        >>> x.grad  # 3 x^2 + h^2
        tensor([[12.0100]], dtype=torch.float64)

    Source: thesis section 2.1.2; step sizes from Nocedal & Wright, Numerical Optimization, section 8.1.

    """

    def __init__(self, method: str = "central", eps: float | None = None) -> None:
        super().__init__()
        self.method = one_of("method", method, ("central", "forward"))
        self.eps = None if eps is None else positive_float("eps", eps)

    def linearize_flat(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Estimate all n columns of the Jacobian; see `FlatEstimator.linearize_flat`."""
        upper, lower = x + self._step(x), x - self._step(x)  # (B, n)
        self._require_steps(x, upper, lower)
        columns = []
        for block in self._blocks(x):
            f_upper = f(_replace(x, upper, block))  # (block, B, m)
            if self.method == "central":
                difference, width = f_upper - f(_replace(x, lower, block)), upper - lower
            else:
                difference, width = f_upper - y, upper - x
            columns.append(
                difference / width.T[block].unsqueeze(-1)
            )  # the step as realised in floating point
        jacobian = torch.cat(columns) if columns else y.new_zeros(0, *y.shape)  # (n, B, m)
        return lambda v: torch.einsum("nbm,bm->bn", jacobian, v)

    def _step(self, x: Tensor) -> Tensor:
        if self.eps is not None:
            return torch.full_like(x, self.eps)
        order = 1 / 3 if self.method == "central" else 1 / 2
        return torch.finfo(x.dtype).eps ** order * x.abs().clamp(min=1.0)

    def _require_steps(self, x: Tensor, upper: Tensor, lower: Tensor) -> None:
        if ((upper == x) | (lower == x)).any():
            raise ValueError(
                f"eps={self.eps} vanishes beside an input as large as {x.abs().max().item():.3g} in {x.dtype}; "
                "use a larger eps, eps=None, or float64 inputs"
            )

    def _blocks(self, x: Tensor) -> Iterator[slice]:
        size = max(1, _MAX_BLOCK // max(1, x.numel()))
        for start in range(0, x.shape[1], size):
            yield slice(start, min(start + size, x.shape[1]))

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"method={self.method!r}, eps={self.eps}"


def _replace(x: Tensor, other: Tensor, block: slice) -> Tensor:
    """Return copies of x (B, n), the k-th with coordinate ``block[k]`` taken from ``other``, (block, B, n)."""
    unit = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)[block].unsqueeze(1)  # (block, 1, n)
    return torch.where(unit, other, x)
