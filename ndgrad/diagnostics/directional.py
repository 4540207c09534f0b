"""A module reduced to a number, its gradient, and directions to move in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ndgrad.diagnostics.isolation import isolated, reseed, seeded
from ndgrad.trees import flatten


@dataclass(frozen=True)
class Functional:
    """``phi(x) = <v, module(x)>`` with a fixed random v, for all N numbers of the inputs laid end to end."""

    module: Callable[..., Any]
    args: tuple[Any, ...]
    seed: int
    copy: Callable[..., Any] = field(init=False)  # whose statistics may change
    v: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "copy", isolated(self.module))
        if not self._inputs(self.args):
            raise ValueError("no argument can be differentiated: pass at least one floating tensor")
        with seeded(self.seed):
            outputs = self._outputs(self._at(self.x), self.copy)
            if not outputs:
                raise ValueError("the function must return at least one tensor to have a gradient")
            v = [torch.randn(y.shape, dtype=torch.float64) for y in outputs]
        object.__setattr__(self, "v", v)

    @property
    def x(self) -> Tensor:
        """The inputs in float64, (N,)."""
        return torch.cat([t.detach().double().flatten().cpu() for t in self._inputs(self.args)])

    @property
    def rounding(self) -> float:
        """Unit of the inputs' least accurate dtype."""
        return max(torch.finfo(t.dtype).eps for t in self._inputs(self.args))

    @property
    def scale(self) -> Tensor:
        """Root mean square of each input tensor, 1 for zeros, (N,)."""
        parts = [
            (t.detach().double().square().mean().sqrt().item() or 1.0, t) for t in self._inputs(self.args)
        ]
        return torch.cat([torch.full((t.numel(),), size, dtype=torch.float64) for size, t in parts])

    def round(self, z: Tensor) -> Tensor:
        """Return the point that the inputs' dtypes can hold next to z (N,)."""
        return torch.cat([t.double().flatten().cpu() for t in self._inputs(self._at(z))])

    def value(self, z: Tensor) -> tuple[float, float]:
        """Return phi(z) and the size of its rounding error, under the same random numbers each time."""
        terms = self.terms(z)
        return float(terms.sum()), self.rounding * float(terms.abs().sum())

    def rise(self, lower: Tensor, upper: Tensor) -> tuple[float, float]:
        """Return phi(upper) - phi(lower) and the size of its rounding error.

        Of equal terms only the largest counts: most belong to other rows, but one may have lost its change in rounding.
        """
        a, b = self.terms(upper), self.terms(lower)
        moved, still = a.abs() + b.abs(), 2 * a.abs()[a == b]
        error = float(moved[a != b].sum()) + float(still.max() if len(still) else 0)
        return float((a - b).sum()), self.rounding * error

    def terms(self, z: Tensor) -> Tensor:
        """Return what phi(z) is the sum of, one number for each of the outputs."""
        with seeded(self.seed), torch.no_grad():
            outputs = [y.double().cpu() for y in self._outputs(self._at(z), self.copy)]
        return torch.cat([(y * v).flatten() for y, v in zip(outputs, self.v, strict=True)])

    def gradient(self, draw: int = 0) -> Tensor:
        """Return grad phi(x) as the module's backward pass gives it, (N,); each draw has its own random numbers."""
        module = isolated(self.module)  # a copy for each: an estimator that learns starts from the same state
        args = self._at(self.x)
        inputs = [t.requires_grad_() for t in self._inputs(args)]
        if draw and isinstance(module, nn.Module):
            reseed(module, self.seed + draw)
        with seeded(self.seed + draw), torch.enable_grad():
            outputs = self._outputs(args, module)
            live = [
                (y, v.to(y.device, y.dtype)) for y, v in zip(outputs, self.v, strict=True) if y.requires_grad
            ]
            if not live:
                raise ValueError(
                    "the output does not require a gradient although the input does: the path is cut, for example by "
                    "detach() or an integer result; ndgrad.trace(model, x) shows where"
                )
            y, v = zip(*live, strict=True)
            grads = torch.autograd.grad(y, inputs, v, allow_unused=True, materialize_grads=True)
        return torch.cat([g.double().flatten().cpu() for g in grads])

    def _outputs(self, args: Sequence[Any], module: Callable[..., Any]) -> list[Tensor]:
        leaves, _ = flatten(module(*args))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def _inputs(self, args: Sequence[Any]) -> list[Tensor]:
        leaves, _ = flatten(tuple(args))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def _at(self, z: Tensor) -> tuple[Any, ...]:
        """Return the arguments with fresh tensors in the places of the inputs, filled from z (N,)."""
        leaves, rebuild = flatten(tuple(self.args))
        parts = iter(z.split([t.numel() for t in self._inputs(self.args)]))

        def replaced(leaf: Any) -> Any:
            if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
                return leaf
            return next(parts).reshape(leaf.shape).to(leaf.device, leaf.dtype, copy=True)

        return rebuild([replaced(leaf) for leaf in leaves])
