"""The only place that calls the wrapped function: rows, chunks, conversion, checks, counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ndgrad.call import Call
from ndgrad.errors import FunctionError, NonFiniteError, OutputError, UnsupportedTransformError
from ndgrad.interface import Interface
from ndgrad.outputs import Outputs, read_outputs
from ndgrad.transforms import inside_transform


class Evaluator:
    """Calls ``fn`` on rows and returns tensors.

    Args:
        fn: the wrapped function.
        interface: what ``fn`` is handed.
        batched: whether one call takes many rows, or a single point.
        chunk_size: the most rows of one call; None for all at once.

    ``num_evaluations`` counts every row that was handed to ``fn``.

    """

    def __init__(
        self, fn: Callable[..., Any], interface: Interface, batched: bool, chunk_size: int | None
    ) -> None:
        self.fn = fn
        self.interface = interface
        self.batched = batched
        self.chunk_size = chunk_size
        self.num_evaluations = 0

    def evaluate(self, call: Call, rows: tuple[Tensor, ...]) -> Outputs:
        """Evaluate ``fn`` on R rows, (R, ...) each; the outputs have R rows too."""
        num_rows = rows[0].shape[0] if rows else call.num_rows
        if num_rows == 0 and not self.batched:
            raise OutputError(
                "an empty batch has no point to show the shape of the outputs of a function of one point; skip empty "
                "batches, or wrap a function of rows (batched=True)"
            )
        with torch.no_grad(), without_autocast(call.device):
            parts = [self._call(call, rows, start, stop) for start, stop in self._spans(num_rows)]
        return Outputs.concatenate(parts)

    def _spans(self, num_rows: int) -> Iterator[tuple[int, int]]:
        size = self.chunk_size or num_rows if self.batched else 1
        if num_rows == 0 and self.batched:  # an empty batch still has an output shape
            yield 0, 0
        for start in range(0, num_rows, max(size, 1)):
            yield start, min(start + size, num_rows)

    def _call(self, call: Call, rows: tuple[Tensor, ...], start: int, stop: int) -> Outputs:
        """Hand rows start..stop to ``fn`` in one call."""
        # cloned: fn may change its input in place, and these rows may be the user's own tensor
        span = slice(start, stop) if self.batched else start
        arguments, keywords = call.arguments([row[span].clone() for row in rows], span, self.interface)
        self.num_evaluations += stop - start
        try:
            returned = self.fn(*arguments, **keywords)
        except Exception as error:
            raise self._failure(error, call, arguments, keywords, start, stop) from error
        outputs = read_outputs(returned, call.dtype, call.device)
        outputs = outputs.check_rows(stop - start) if self.batched else outputs.with_row()
        self._check_finite(outputs, call, rows, start)
        return outputs

    def _failure(
        self, error: Exception, call: Call, arguments: Any, keywords: Any, start: int, stop: int
    ) -> FunctionError:
        arrived = ", ".join(
            [*map(_describe, arguments), *(f"{k}={_describe(v)}" for k, v in keywords.items())]
        )
        message = (
            f"the wrapped function {_name(self.fn)} raised {type(error).__name__}: {error}\n"
            f"  it was called on {call.name_rows(start, stop)} as fn({arrived}), interface={self.interface!r}"
        )
        return FunctionError("\n  ".join([message, *call.hints(self.batched, self.interface)]), arguments)

    def _check_finite(self, outputs: Outputs, call: Call, rows: tuple[Tensor, ...], start: int) -> None:
        row = outputs.first_non_finite_row()
        if row is None:
            return
        where = start + row
        raise NonFiniteError(
            f"the wrapped function {_name(self.fn)} must return finite numbers, but returned NaN or infinity for "
            f"{call.name_rows(where, where + 1)}; its input is in this error's .inputs. Clip or penalise inside the "
            "function, or use a smaller sigma or eps so that probes stay in its domain",
            tuple(value[where] for value in rows),
        )


class BoundFunction:
    """``fn`` with the arguments of one call filled in: the rowwise function that an estimator sees."""

    def __init__(self, evaluator: Evaluator, call: Call) -> None:
        self._evaluator = evaluator
        self._call = call
        self._first: Outputs | None = None

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Evaluate on rows (R, ...) and return the leaves of the outputs, (R, ...) each."""
        if inside_transform():  # within attach it is not, and tensors are plain
            raise UnsupportedTransformError(
                "torch.func sees how this estimator calls the function, which it cannot follow; take the gradient with "
                "backward or torch.autograd.grad, and rows, box(x.flatten(0, 1)), in the place of torch.func.vmap"
            )
        outputs = self._evaluator.evaluate(self._call, rows)
        if self._first is None:
            self._first = outputs.structure()
        self._first.check_same_shapes(outputs)
        return outputs.leaves

    def rebuild(self, leaves: tuple[Tensor, ...]) -> Any:
        """Put tensors into the containers that ``fn`` returned its values in."""
        if self._first is None:  # a value that did not come from fn: the bypass network's own
            return leaves[0] if len(leaves) == 1 else leaves
        if len(leaves) != len(self._first.leaves):
            raise OutputError(
                f"the estimator must return one tensor for each of the {len(self._first.leaves)} outputs of the "
                f"wrapped function, but returned {len(leaves)}"
            )
        return self._first.rebuild(leaves)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off where it is on; entering it takes as long as a small function, so not elsewhere."""
    if not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _name(fn: Callable[..., Any]) -> str:
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"array{tuple(value.shape)} {value.dtype}"
    return type(value).__name__
