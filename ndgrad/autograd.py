"""The one way into autograd: a value with an estimated derivative, in both modes and under every transform."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ndgrad.autocast import without_autocast
from ndgrad.errors import SecondDerivativeError, UnsupportedTransformError
from ndgrad.transforms import (
    fold,
    has_tangent,
    inside_transform,
    is_stacked,
    on_stacks,
    requires_gradient,
    unfold,
)

Rows = tuple[Tensor, ...]


def attach(
    f: Callable[..., Any],
    inputs: Rows,
    linearize: Callable[[Rows, Rows], Callable[[Rows], Rows]],
    evaluate_in: str = "backward",
    linear: bool = True,
) -> Any:
    """Return ``f(*inputs)`` with ``linearize(inputs, outputs)`` as its pullback.

    Where no derivative can be asked for, this is a plain call of ``f``. A pullback that is not ``linear`` in the
    cotangent has no forward mode.
    """
    needed = (torch.is_grad_enabled() and any(map(requires_gradient, inputs))) or any(
        map(has_tangent, inputs)
    )
    if not needed and not inside_transform():
        with torch.no_grad():
            return f(*inputs)
    call = _Call(f, linearize, linear, once=evaluate_in == "forward")
    call.eager = call.once and needed and not _inside_backward()
    outputs = _Attach.apply(call, *inputs)
    return outputs if call.returns_tuple else outputs[0]


def plain_rows(inputs: Rows) -> Rows:
    """Return inputs as `attach` hands them to its function: K B rows of plain tensors where K calls are mapped."""
    if not inside_transform():
        return inputs
    seen: list[Tensor] = []

    def look(*rows: Tensor) -> Tensor:
        seen.extend(rows)
        return rows[0].new_empty(len(rows[0]))

    attach(look, _detach(inputs), lambda x, _: lambda _: x)
    return tuple(seen)


@dataclass
class _Call:
    """What the Functions need beside tensors."""

    f: Callable[..., Any]
    linearize: Callable[[Rows, Rows], Callable[[Rows], Rows]]
    linear: bool
    once: bool  # whether one pullback serves every backward pass
    eager: bool = False  # whether to make it with the value
    returns_tuple: bool = False
    pullback: Callable[[Rows], Rows] | None = None


class _Layout(NamedTuple):
    """What the tensors of a `_Product` are: inputs, then outputs, then what the Jacobian is multiplied with."""

    num_inputs: int
    num_outputs: int
    forward_mode: bool = False  # tangents, else cotangents
    stacked: bool = False  # several of them, along a leading dimension

    def split(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return those of the call, and those of the vectors."""
        count = self.num_inputs + self.num_outputs
        return values[:count], values[count:]


class _Attach(torch.autograd.Function):
    """The value; its derivatives are a `_Product`."""

    @staticmethod
    def forward(call: _Call, *inputs: Tensor) -> Rows:
        detached = _detach(inputs)
        outputs = call.f(*detached)
        call.returns_tuple = not isinstance(outputs, Tensor)
        outputs = tuple(outputs) if call.returns_tuple else (outputs,)
        if call.eager:
            # detached: a pullback that keeps the outputs must not keep the graph that it belongs to
            with _without_saved_tensor_hooks(), without_autocast(outputs[0].device):
                call.pullback = call.linearize(detached, _detach(outputs))
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Rows) -> None:
        call, *tensors = inputs
        ctx.call, ctx.layout = call, _Layout(len(tensors), len(output))
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        # saved tensors are read once: activation checkpointing recomputes at the first access
        return None, *_multiply(ctx.call, ctx.layout, ctx.saved_tensors, cotangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor) -> Rows:
        if not ctx.call.linear:
            raise UnsupportedTransformError(
                "this estimator probes where the cotangent leads, so it has no forward mode; differentiate in reverse "
                "mode (backward, torch.func.vjp, torch.func.jacrev)"
            )
        saved = ctx.saved_tensors
        # integers have no tangent
        moved = tuple(torch.zeros_like(x) if t is None else t for x, t in zip(saved, tangents, strict=False))
        return _multiply(ctx.call, ctx.layout._replace(forward_mode=True), saved, moved)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, *inputs: Tensor) -> tuple[Rows, Any]:
        """Evaluate K mapped calls as one of K B rows: row r still belongs to row r mod B of what is not mapped."""
        if info.randomness == "same":
            raise UnsupportedTransformError(
                "every row has noise of its own, but torch.func.vmap was called with randomness='same'; type "
                "randomness='different'"
            )
        outputs = _Attach.apply(call, *fold(inputs, in_dims[1:], info.batch_size))
        return unfold(outputs, info.batch_size), (0,) * len(outputs)


class _Product(torch.autograd.Function):
    """Product of the estimated Jacobian with cotangents of the outputs, or with tangents of the inputs.

    It depends on all of its tensors by a backward that raises: differentiating the estimate again would otherwise
    silently treat it as a constant.
    """

    @staticmethod
    def forward(call: _Call, layout: _Layout, *tensors: Tensor) -> Rows:
        with without_autocast(tensors[0].device):  # that of the backward pass
            return _Product._multiply(call, layout, *layout.split(_detach(tensors)))

    @staticmethod
    def _multiply(call: _Call, layout: _Layout, known: Rows, vectors: Rows) -> Rows:
        inputs, outputs = known[: layout.num_inputs], known[layout.num_inputs :]
        multiply = call.pullback or call.linearize(inputs, outputs)
        call.pullback = multiply if call.once else None
        if layout.forward_mode:
            multiply = _transposed(multiply, outputs)
        if not layout.stacked:
            return _detach(multiply(vectors))
        products = [multiply(each) for each in zip(*vectors, strict=True)]
        if not products:
            return tuple(x.new_empty((0, *x.shape)) for x in (outputs if layout.forward_mode else inputs))
        return tuple(torch.stack(each) for each in zip(*products, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Rows) -> None:
        """Nothing to keep: backward raises."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        raise _second_derivative()

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Rows:
        raise _second_derivative()

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], call: _Call, layout: _Layout, *tensors: Tensor
    ) -> tuple[Rows, Any]:
        K, axis = info.batch_size, int(layout.stacked)  # where the vectors have their rows
        (known, vectors), (dims, vector_dims) = layout.split(tensors), layout.split(in_dims[2:])
        if all(dim is None for dim in dims):  # K vectors for one call: linearised once
            many = _Product.apply(
                call, layout._replace(stacked=True), *known, *fold(vectors, vector_dims, K, axis - 1)
            )
            products = unfold(many, K) if layout.stacked else many
            return products, (0,) * len(products)
        products = _Product.apply(call, layout, *fold(known, dims, K), *fold(vectors, vector_dims, K, axis))
        return unfold(products, K, axis), (axis,) * len(products)


def _multiply(call: _Call, layout: _Layout, known: Rows, vectors: Rows) -> Rows:
    """Return the product, tied to its tensors where it may be differentiated again."""
    if is_stacked(vectors):
        return on_stacks(functools.partial(_multiply, call, layout._replace(stacked=True), known), vectors)
    if torch.is_grad_enabled() or inside_transform():
        return _Product.apply(call, layout, *known, *vectors)
    return _Product.forward(call, layout, *known, *vectors)


def _transposed(pullback: Callable[[Rows], Rows], outputs: Rows) -> Callable[[Rows], Rows]:
    """Return the map from tangents of the inputs to tangents of the outputs, for a pullback that keeps rows apart.

    It takes one pullback for each entry of an output row, and no evaluation.
    """

    def entry(index: int, k: int, tangents: Rows) -> Tensor:
        unit = tuple(torch.zeros_like(_flat(y)) for y in outputs)  # (B, m) each
        unit[index][:, k] = 1.0
        row = pullback(tuple(e.view_as(y) for e, y in zip(unit, outputs, strict=True)))  # (B, ...) of J
        return torch.stack([_flat(g * t).sum(1) for g, t in zip(row, tangents, strict=True)]).sum(0)

    def pushforward(tangents: Rows) -> Rows:
        columns = ([entry(i, k, tangents) for k in range(y.shape[1:].numel())] for i, y in enumerate(outputs))
        return tuple(
            torch.stack(column, 1).to(y.dtype).view_as(y) for column, y in zip(columns, outputs, strict=True)
        )

    return pushforward


def _inside_backward() -> bool:
    """Whether this forward pass runs within a backward pass, as when activation checkpointing recomputes a value."""
    return torch._C._current_graph_task_id() != -1


def _without_saved_tensor_hooks() -> AbstractContextManager[None]:
    """Keep the hooks of the caller's graph, such as those of checkpointing, away from graphs inside a pullback."""
    enabled = torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined] # not in the stubs
    if not enabled:  # torch.func allows none
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, torch.Tensor.detach)


def _second_derivative() -> SecondDerivativeError:
    return SecondDerivativeError(
        "a gradient estimated by ndgrad was differentiated a second time, which would silently be wrong; "
        "detach it (gradient.detach(), or create_graph=False), or wrap a function that computes the "
        "first derivative"
    )


def _flat(rows: Tensor) -> Tensor:
    return rows.reshape(rows.shape[0], rows.shape[1:].numel())


def _detach(tensors: Rows) -> Rows:
    return tuple(tensor.detach() for tensor in tensors)
