"""Straight-through: the value of one function with the gradient of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ndgrad.estimator import Pullback, RowFunction, Rows, VJPEstimator
from ndgrad.trees import flatten


class StraightThrough(VJPEstimator):
    r"""The value of f with the gradient of a differentiable function g that stands in for it.

    .. math:: y = f(x), \qquad \frac{\partial f}{\partial x} \approx \frac{\partial g}{\partial x}(x)

    A heuristic: exact for g, and as good for f as the slopes of both agree. By default g is the identity, so
    that the cotangent passes unchanged.

    Cost: no evaluations of f, one forward and backward pass of g. No variance; the bias is the difference of
    the Jacobians, which no number of samples reduces. Take it where f is a rounded or thresholded g
    (quantisation, binary units), or a solver with a known relaxation (softmax for argmax); not for a function
    whose slope is unknown.

    Args:
        backward: g, a differentiable torch function or module of the same inputs (R, ...) that returns what f
            returns, in the same shapes and with its containers (dicts, tuples) in the same order; None for the
            identity. Parameters of a module receive no gradient.

    Raises:
        TypeError: for a ``backward`` that cannot be called.
        ValueError: if the outputs of g (by default the inputs) do not have the number and shapes of those of
            f, or no derivative.

    Example:
        >>> import torch, ndgrad
        >>> rounded = ndgrad.wrap(torch.round, estimator=ndgrad.StraightThrough(lambda x: 2 * torch.tanh(x / 2)))
        >>> x = torch.tensor([[0.0, 1.7]], requires_grad=True)
        >>> y = rounded(x)
        >>> y.detach()
        tensor([[0., 2.]])
        >>> y.sum().backward()
        >>> x.grad.round(decimals=3)  # 1 - tanh(x / 2)^2
        tensor([[1.0000, 0.5220]])

    Source: Bengio et al. 2013, arXiv 1308.3432, section 4.

    """

    consistent = False
    paired = True

    def __init__(self, backward: Callable[..., Any] | None = None) -> None:
        super().__init__()
        if backward is not None and not callable(backward):
            raise TypeError(
                f"backward must be a function or module with a derivative, or None for the identity; got {backward!r}"
            )
        self.backward = backward

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Build the graph of g at the inputs; f is not evaluated. See `VJPEstimator.linearize`."""
        with torch.enable_grad():
            x = tuple(t.detach().requires_grad_() for t in inputs)
            g = x if self.backward is None else tuple(flatten(self.backward(*x))[0])
        self._require_shapes(g, outputs)

        return lambda v: torch.autograd.grad(g, x, v, retain_graph=True, materialize_grads=True)

    def _require_shapes(self, g: Rows, outputs: Rows) -> None:
        source = "the identity" if self.backward is None else "backward"
        if not all(isinstance(y, Tensor) and y.requires_grad for y in g):
            raise ValueError(
                f"{source} must have a derivative, but returned a tensor without one; write it in differentiable torch "
                "operations, without detach or no_grad"
            )
        expected, arrived = ([tuple(t.shape) for t in tensors] for tensors in (outputs, g))
        if expected != arrived:
            raise ValueError(
                f"{source} must return the shapes of the wrapped function, {expected}, but returned {arrived}; type "
                "StraightThrough(backward=g) with a differentiable g of the same inputs that returns those shapes"
            )

    def extra_repr(self) -> str:
        """Show the function that is differentiated."""
        return "" if isinstance(self.backward, torch.nn.Module) else f"backward={self.backward!r}"
