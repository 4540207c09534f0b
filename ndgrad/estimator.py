"""The interface of every gradient estimator: one abstract method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ndgrad.autograd import attach
from ndgrad.generator_state import KeepsGenerator

Rows: TypeAlias = tuple[Tensor, ...]
EvaluateIn: TypeAlias = Literal["backward", "forward"]
RowFunction: TypeAlias = Callable[..., Any]
"""``f(*rows)``: maps row r of its inputs (R, ...) to row r of its outputs (R, ...), one tensor or a tuple of them.

When R is a multiple S B of the batch, row r belongs to input r mod B (samples are the slow index).
"""
Pullback: TypeAlias = Callable[[Rows], Rows]
"""Cotangents of the outputs (B, ...) to the estimated cotangents of the inputs (B, ...); linear."""


class Estimator(KeepsGenerator, ABC):
    """A way to give a function without derivative a place in the autograd graph.

    ``estimator(f, *inputs)`` returns the outputs of ``f`` attached to the graph of ``inputs``. An estimator sees a
    plain rowwise callable and tensors; chunks, workers, NumPy and counting belong to whoever made ``f``.

    Subclasses are final, and hold another estimator rather than inherit from it. Most are written as a `VJPEstimator`
    or `FlatEstimator`, which leave one method to write.

    Shapes: inputs (B, ...) and outputs (B, ...), B rows that do not influence each other.

    Raises:
        TypeError: a subclass lacks `forward`.

    Example:
        >>> import torch, ndgrad
        >>> class Detached(ndgrad.Estimator):  # the value, and no gradient
        ...     consistent = False
        ...
        ...     def forward(self, f, *inputs, evaluate_in="backward"):
        ...         return f(*(x.detach() for x in inputs))
        >>> box = ndgrad.wrap(torch.floor, estimator=Detached())
        >>> box(torch.tensor([[0.5, 2.5]], requires_grad=True))
        tensor([[0., 2.]])
    """

    wants_constant_inputs: bool = False
    """Whether ``inputs`` should include declared ones (``argnums``) that require no gradient in this call."""

    consistent: bool = True
    """Whether the estimate tends to the derivative (of a smooth f) with more samples and smaller steps, row by row.

    False for estimators that learn, whose gradient is that of a fitted model shared by the rows, and for heuristics,
    whose gradient is that of something else than f.
    """

    exact_value: bool = True
    """Whether the value is ``f(x)``.

    False where it is a mean of f over draws centred at x, of which the gradient makes use again, or that of a network.
    """

    linear: bool = True
    """Whether the gradient is linear in the cotangent.

    False where the cotangent decides at which point f is probed. That happens in the backward pass, for every
    cotangent anew, so ``evaluate_in="forward"`` is refused.
    """

    paired: bool = False
    """Whether outputs pair with inputs of the same shape, as for a solver that takes costs and returns a solution.

    The laws of `ndgrad.testing` are then run on such functions.
    """

    skips_failures: bool = False
    """Whether a row of NaN among the values at its probes is treated as a missing sample.

    The estimate is then that of the samples that remain. False where a probe has a place that no other fills (a column
    of differences, the second solution of an interpolation), and where there are no probes (straight-through).
    """

    @abstractmethod
    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return ``f(*inputs)``, differentiable.

        Args:
            f: rowwise function of as many tensors as there are inputs.
            *inputs: tensors (B, ...).
            evaluate_in: when the function is probed: in the backward pass, or already in the forward pass.

        Laws that every consistent estimator obeys, in expectation and for small enough steps: a constant ``f`` has
        gradient 0; an affine ``f`` its exact Jacobian; the gradient is linear in the cotangent; rows do not influence
        each other; nothing is evaluated for a gradient that nobody needs; a second derivative is refused. The class
        attributes above declare which of them an estimator is not held to.

        """

    def observe(self, inputs: Rows, probes: Rows, values: Rows) -> None:
        """Take in evaluations that were made for something else; only an estimator that learns has a use for them.

        Args:
            inputs: the inputs (B, ...) that were probed.
            probes: rows (S B, ...) around them; row r belongs to input r mod B.
            values: the value of the function there, (S B, ...); NaN where an evaluation failed.

        """


class VJPEstimator(Estimator):
    """An estimator whose value is ``f(x)`` and whose backward multiplies a cotangent with an estimated Jacobian.

    A subclass writes `linearize`. Shapes: inputs (B, ...), outputs (B, ...); the pullback takes one cotangent for each
    output, of its shape, and returns one gradient for each input, of its shape.

    Raises:
        TypeError: a subclass lacks `linearize`.
        SecondDerivativeError: on differentiating the gradient again.

    Example:
        >>> import torch, ndgrad
        >>> class Slope(ndgrad.VJPEstimator):  # forward difference along the ones, for rowwise scalar inputs
        ...     def linearize(self, f, inputs, outputs):
        ...         slope = (f(inputs[0] + 0.25)[0] - outputs[0]) / 0.25  # (B, 1)
        ...         return lambda cotangents: (cotangents[0] * slope,)
        >>> x = torch.tensor([[1.0], [2.0]], requires_grad=True)
        >>> ndgrad.wrap(torch.square, estimator=Slope())(x).sum().backward()
        >>> x.grad.T
        tensor([[2.2500, 4.2500]])
    """

    def forward(self, f: RowFunction, *inputs: Tensor, evaluate_in: EvaluateIn = "backward") -> Tensor | Rows:
        """Return ``f(*inputs)``; `linearize` runs in the backward pass unless ``evaluate_in="forward"``."""
        in_tuples = lambda *rows: as_tuple(f(*rows))  # noqa: E731
        return attach(f, inputs, lambda x, y: self.linearize(in_tuples, x, y), evaluate_in, self.linear)

    @abstractmethod
    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Probe ``f`` around ``inputs`` and return the estimated pullback ``v -> vᵀ df/dx``.

        Args:
            f: the rowwise function; here it returns a tuple of tensors, also where there is only one.
            inputs: detached tensors (B, ...).
            outputs: the value ``f(*inputs)``, already paid for, (B, ...).

        """


class FlatFunction:
    """A rowwise function of several tensors as a function of one matrix, (..., B, n) to (..., B, m).

    ``inputs`` are the tensors, in the order in which they lie side by side; ``row_shapes`` the shapes of their rows.
    """

    def __init__(self, f: RowFunction, inputs: Rows, dtype: torch.dtype) -> None:
        self.row_shapes = tuple(x.shape[1:] for x in inputs)
        self.inputs, self._f, self._dtype = inputs, f, dtype

    def __call__(self, z: Tensor) -> Tensor:
        """Cut z into the inputs, and lay the outputs side by side."""
        values = as_tuple(self._f(*split_rows(z.flatten(0, -2), self.inputs)))
        return join_rows(values, self._dtype).unflatten(0, z.shape[:-1])


class FlatEstimator(VJPEstimator):
    """A VJP estimator to which all inputs are one matrix (B, n) and all outputs one matrix (B, m).

    A subclass writes `linearize_flat`; shapes and dtypes are taken apart and put together around it, in float32 or
    wider.

    Raises:
        TypeError: a subclass lacks `linearize_flat`.

    Example:
        >>> import torch, ndgrad
        >>> class Directional(ndgrad.FlatEstimator):  # one random direction, forward difference
        ...     def linearize_flat(self, f, x, y):
        ...         e = torch.randn_like(x)  # (B, n)
        ...         slope = (f(x + 1e-2 * e) - y) / 1e-2  # (B, m)
        ...         return lambda v: (v * slope).sum(1, keepdim=True) * e
        >>> _ = torch.manual_seed(0)
        >>> x = torch.zeros(20_000, 2, requires_grad=True)
        >>> ndgrad.wrap(lambda x: x @ torch.tensor([[1.0], [-2.0]]), estimator=Directional())(x).sum().backward()
        >>> x.grad.mean(0).round(decimals=1)
        tensor([ 1., -2.])
    """

    def linearize(self, f: RowFunction, inputs: Rows, outputs: Rows) -> Pullback:
        """Flatten, call `linearize_flat`, and give the result the inputs' shapes and dtypes back."""
        dtype = working_dtype(*inputs, *outputs)
        x, y = join_rows(inputs, dtype), join_rows(outputs, dtype)  # (B, n), (B, m)
        pull = self.linearize_flat(FlatFunction(f, inputs, dtype), x, y)
        return lambda cotangents: split_rows(pull(join_rows(cotangents, dtype)), inputs)

    @abstractmethod
    def linearize_flat(
        self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Probe ``f: (..., B, n) -> (..., B, m)`` around ``x`` (B, n), where it is ``y`` (B, m).

        Called by `linearize`, ``f`` is a `FlatFunction`, which knows the shapes of the inputs.

        Returns:
            The map from a cotangent v (B, m) to the estimate of ``vᵀ df/dx``, (B, n).

        """


def unable_to_skip(estimator: Estimator) -> list[Estimator]:
    """Return those among an estimator and the ones it holds that need every evaluation, the innermost last."""
    parts = (part for part in estimator.modules() if isinstance(part, Estimator))
    return [part for part in parts if not part.skips_failures]


def as_tuple(outputs: Tensor | Rows) -> Rows:
    """Return a single tensor as a tuple of one."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest floating dtype among the tensors, at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def join_rows(tensors: Rows, dtype: torch.dtype) -> Tensor:
    """Lay the rows of several tensors (R, ...) side by side, (R, n)."""
    parts = [t.to(dtype).reshape(t.shape[0], t.shape[1:].numel()) for t in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def split_rows(flat: Tensor, like: Rows) -> Rows:
    """Cut (R, n) into tensors with the row shapes and dtypes of ``like``."""
    sizes = [tensor.shape[1:].numel() for tensor in like]
    parts = flat.split(sizes, dim=1)
    return tuple(
        part.reshape(flat.shape[0], *tensor.shape[1:]).to(tensor.dtype)
        for part, tensor in zip(parts, like, strict=True)
    )
