"""One call of a black box as a mathematical problem: f, x, and the objective whose gradient is estimated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ndgrad.autocast import without_autocast
from ndgrad.call import Call
from ndgrad.estimator import Estimator, EvaluateIn, Rows, as_tuple
from ndgrad.evaluator import BoundFunction, Evaluator
from ndgrad.trees import flatten
from ndgrad.wrap import BlackBox


@dataclass(frozen=True)
class Problem:
    """The rowwise function of one call, where it is evaluated, and the objective on top of it.

    With a cotangent v the objective is ``<v, f(x)>``; with a loss, ``L(f(x))``, whose cotangent at x is v.
    """

    call: Call
    evaluator: Evaluator
    inputs: Rows  # detached, (B, ...)
    cotangent: Rows  # (B, ...)
    objective: Callable[[Rows], Tensor]  # outputs (B, ...) -> scalar
    evaluate_in: EvaluateIn = "backward"

    @property
    def num_rows(self) -> int:
        """B."""
        return self.inputs[0].shape[0]

    @property
    def num_inputs(self) -> int:
        """Count the numbers in one row of the inputs, n."""
        return sum(x.shape[1:].numel() for x in self.inputs)

    @property
    def spent(self) -> int:
        """Evaluations per row so far."""
        return self.evaluator.counts.evaluations // max(self.num_rows, 1)

    def responses(self, offsets: Tensor) -> Tensor:
        """Return ``<v, f(x + offset)>`` for offsets (S, B, n), shape (S, B), on the CPU in float64."""
        S = len(offsets)
        probes = tuple(
            (x + offset.reshape(S, *x.shape).to(x.device, x.dtype)).flatten(0, 1)
            for x, offset in zip(self.inputs, _cut(offsets, self.inputs), strict=True)
        )  # (S B, ...)
        values = self.values(probes)
        return sum_rows(y.unflatten(0, (S, -1)) * v for y, v in zip(values, self.cotangent, strict=True))

    def gradient(self, estimator: Estimator) -> Tensor:
        """Return one estimate of the objective's gradient at x, (B, n), on the CPU in float64."""
        x = tuple(t.clone().requires_grad_() for t in self.inputs)
        y = self.outputs(estimator, x)
        return side_by_side(torch.autograd.grad(y, x, self.cotangent, materialize_grads=True)).cpu().double()

    def outputs(self, estimator: Estimator, x: Rows) -> Rows:
        """Return f(x), attached to the graph of x by the estimator."""
        f = BoundFunction(self.evaluator, self.call, tuple(t.detach() for t in x), estimator)
        with without_autocast(x[0].device):
            return as_tuple(estimator(f, *x, evaluate_in=self.evaluate_in))

    def values(self, rows: Rows) -> Rows:
        """Return f at rows (R, ...); what fails is tried again where the options say so, and not left out."""
        return BoundFunction(self.evaluator, self.call, self.inputs)(*rows)


def pose(
    module: BlackBox,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    cotangent: Any = None,
    loss: Callable[[Any], Tensor] | None = None,
) -> Problem:
    """Take a call of ``module`` apart; ``module`` should be a copy, whose evaluations nobody else counts.

    Without cotangent and loss, v is drawn from the standard normal under the current seed.
    """
    if cotangent is not None and loss is not None:
        raise ValueError("cotangent and loss both say what is differentiated; pass one of them")
    call = module._bind(tuple(args), kwargs)
    if not call.inputs:
        raise ValueError(
            "no argument can be differentiated: pass at least one floating tensor, or name it in ndgrad.wrap(argnums=)"
        )
    inputs = tuple(x.detach() for x in call.inputs)
    f = BoundFunction(module._evaluator, call, inputs, module.estimator)
    x = tuple(t.clone().requires_grad_() for t in inputs)
    # by a copy: an estimator whose value is its own, such as a bypass network's, fits before it answers
    outputs = tuple(y.detach() for y in as_tuple(copy.deepcopy(module.estimator)(f, *x)))
    single = not module._rules.batched and not module._rules.vectorize

    def objective(y: Rows) -> Tensor:
        assert loss is not None
        return loss(f.rebuild(tuple(t.squeeze(0) for t in y) if single else y)).sum()

    if loss is not None:
        return Problem(
            call, module._evaluator, inputs, _slope(objective, outputs), objective, module._evaluate_in
        )
    v = _as_rows(cotangent, outputs, single) if cotangent is not None else _random(outputs)
    return Problem(call, module._evaluator, inputs, v, lambda y: inner(v, y), module._evaluate_in)


def scale_of(inputs: Rows) -> float:
    """Return the typical deviation of the entries of the inputs, their size if all are equal, 1 if all are 0."""
    x = side_by_side(inputs).double()
    candidates = (x.std(correction=0), x.square().mean().sqrt())
    return next((float(size) for size in candidates if size > 0), 1.0)


def neighbourhood(inputs: Rows) -> float:
    """Return a tenth of `scale_of` as a round number: a width to look around in where none is given."""
    return float(f"{0.1 * scale_of(inputs):.1g}")


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Lay the rows of tensors (B, ...) beside each other, (B, n)."""
    return torch.cat([t.reshape(t.shape[0], -1) for t in tensors], dim=1)


def sum_rows(terms: Any) -> Tensor:
    """Sum tensors (S, B, ...) over everything behind sample and row, (S, B), in float64."""
    return torch.stack([term.cpu().double().flatten(2).sum(2) for term in map(_with_entries, terms)]).sum(0)


def inner(v: Rows, y: Rows) -> Tensor:
    """Return ``sum <v, y>`` over all tensors."""
    return torch.stack([(a * b).sum() for a, b in zip(v, y, strict=True)]).sum()


def _with_entries(term: Tensor) -> Tensor:
    return term.unsqueeze(-1) if term.ndim == 2 else term


def _cut(flat: Tensor, like: Rows) -> tuple[Tensor, ...]:
    return flat.split([x.shape[1:].numel() for x in like], dim=-1)


def _slope(objective: Callable[[Rows], Tensor], outputs: Rows) -> Rows:
    y = tuple(t.detach().requires_grad_() for t in outputs)
    with torch.enable_grad():
        value = objective(y)
    if not value.requires_grad:
        raise ValueError(
            "the loss must be a differentiable torch function of the outputs, but its value does not require a "
            "gradient; if it is a black box too, wrap the composition: ndgrad.wrap(lambda x: loss(fn(x)))"
        )
    return torch.autograd.grad(value, y, materialize_grads=True)


def _random(outputs: Rows) -> Rows:
    return tuple(torch.randn(y.shape, dtype=y.dtype, device=y.device) for y in outputs)


def _as_rows(cotangent: Any, outputs: Rows, single: bool) -> Rows:
    leaves, _ = flatten(cotangent)
    given = tuple(torch.as_tensor(leaf) for leaf in leaves)
    given = tuple(v.unsqueeze(0) for v in given) if single else given
    if [v.shape for v in given] != [y.shape for y in outputs]:
        raise ValueError(
            f"the cotangent must have the shapes of the outputs, {[tuple(y.shape[single:]) for y in outputs]}, got "
            f"{[tuple(v.shape[single:]) for v in given]}"
        )
    return tuple(v.detach().to(y.device, y.dtype) for v, y in zip(given, outputs, strict=True))
