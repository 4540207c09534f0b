"""The one autograd Function of the package, and the guard behind it against second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.errors import SecondDerivativeError

Rows = tuple[Tensor, ...]


def attach(
    f: Callable[..., Any],
    inputs: Rows,
    linearize: Callable[[Rows, Rows], Callable[[Rows], Rows]],
    evaluate_in: str = "backward",
) -> Any:
    """Return ``f(*inputs)`` with ``linearize(inputs, outputs)`` as its pullback.

    Where no gradient can be asked for, this is a plain call of ``f``.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        with torch.no_grad():
            return f(*inputs)
    call = _Call(f, linearize, evaluate_in == "forward")
    outputs = _Attach.apply(call, *inputs)
    return outputs if call.returns_tuple else outputs[0]


@dataclass
class _Call:
    """What the Function needs beside tensors."""

    f: Callable[..., Any]
    linearize: Callable[[Rows, Rows], Callable[[Rows], Rows]]
    eager: bool
    returns_tuple: bool = False
    pullback: Callable[[Rows], Rows] | None = None


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(call: _Call, *inputs: Tensor) -> Rows:
        detached = tuple(x.detach() for x in inputs)
        outputs = call.f(*detached)
        call.returns_tuple = not isinstance(outputs, Tensor)
        outputs = tuple(outputs) if call.returns_tuple else (outputs,)
        if call.eager:
            # detached: a pullback that keeps the outputs must not keep the graph that it belongs to
            call.pullback = call.linearize(detached, _detach(outputs))
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Rows) -> None:
        call, *tensors = inputs
        ctx.call, ctx.num_inputs = call, len(tensors)
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # read once: activation checkpointing recomputes at the first access
        inputs, outputs = saved[: ctx.num_inputs], saved[ctx.num_inputs :]
        with torch.no_grad():
            pullback = ctx.call.pullback or ctx.call.linearize(_detach(inputs), _detach(outputs))
            grads = pullback(_detach(cotangents))
        if torch.is_grad_enabled():  # create_graph=True
            grads = _FirstOrderOnly.apply(len(grads), *grads, *inputs, *cotangents)
        return None, *grads


class _FirstOrderOnly(torch.autograd.Function):
    """Identity on its first ``count`` tensors, tied to all of them by a backward that raises.

    Without the tie, differentiating the estimate again would silently treat it as a constant.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> Rows:
        return tuple(tensor.clone() for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Rows) -> None:
        """Nothing to keep: backward raises."""

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        raise SecondDerivativeError(
            "a gradient estimated by ndgrad was differentiated a second time, which would silently be wrong; "
            "detach it (gradient.detach(), or create_graph=False), or wrap a function that computes the "
            "first derivative"
        )


def _detach(tensors: Rows) -> Rows:
    return tuple(tensor.detach() for tensor in tensors)
