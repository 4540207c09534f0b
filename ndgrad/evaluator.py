"""The only place that calls the wrapped function: rows, chunks, conversion, checks, counting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndgrad.autocast import without_autocast
from ndgrad.autograd import plain_rows
from ndgrad.call import Call
from ndgrad.errors import OutputError, UnsupportedTransformError
from ndgrad.estimator import Estimator, unable_to_skip
from ndgrad.execution import Execution
from ndgrad.execution.batch import Batch, draw_seeds, takes_seed
from ndgrad.execution.evaluation import Evaluation, Means
from ndgrad.execution.failures import NotFinite
from ndgrad.execution.parcels import Raised
from ndgrad.interface import Interface
from ndgrad.outputs import Outputs
from ndgrad.transforms import inside_transform

_CHUNKS = (
    64  # with an executor: as many workers can be busy, and their number does not decide where rows are cut
)


class Evaluator:
    """Calls ``fn`` on rows and returns tensors.

    Args:
        fn: the wrapped function.
        interface: what ``fn`` is handed.
        batched: whether one call takes many rows, or a single point.
        chunk_size: the most rows of one call; None for all at once, or for 64 calls where there is an executor.
        execution: executor, failures and limits; without any, this is a loop over chunks.

    ``counts`` holds how many rows were handed to ``fn``, and more.

    """

    def __init__(
        self,
        fn: Callable[..., Any],
        interface: Interface,
        batched: bool,
        chunk_size: int | None,
        execution: Execution,
    ) -> None:
        self.fn = fn
        self.interface = interface
        self.batched = batched
        self.chunk_size = chunk_size
        self.execution = execution
        self.means = Means.of(execution)
        self.counts = self.means.counts
        self.structure: Outputs | None = None  # of what fn returned last
        self._is_direct = execution.is_direct
        self._takes_seed = takes_seed(fn)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "structure": None,
        }  # holds functions that cannot be pickled; the next call knows

    def evaluate(
        self, call: Call, inputs: tuple[Tensor, ...], rows: tuple[Tensor, ...], may_skip: bool
    ) -> Outputs:
        """Evaluate ``fn`` on R rows, (R, ...) each, around ``inputs``; the outputs have R rows too.

        Where ``may_skip`` allows it, and the options do, rows that failed are NaN.
        """
        num_rows = rows[0].shape[0] if rows else call.num_rows
        if num_rows == 0 and not self.batched:
            raise OutputError(
                "an empty batch has no point to show the shape of the outputs of a function of one point; skip empty "
                "batches, or wrap a function of rows (batched=True)"
            )
        seeds = draw_seeds(call, num_rows) if self._takes_seed else None
        batch = Batch(self.fn, self.interface, self.batched, call, inputs, rows, num_rows, seeds)
        with torch.no_grad(), without_autocast(call.device):
            if self._is_direct or num_rows == 0:
                return Outputs.concatenate(
                    [self._call(batch, start, stop) for start, stop in self._spans(num_rows)]
                )
            return Evaluation(batch, self.means, self._size(num_rows), may_skip).run()

    def _size(self, num_rows: int) -> int:
        """Return the most rows of one call."""
        if not self.batched:
            return 1
        return self.chunk_size or (num_rows if self.execution.executor is None else -(-num_rows // _CHUNKS))

    def _spans(self, num_rows: int) -> Iterator[tuple[int, int]]:
        size = self._size(num_rows)
        if num_rows == 0:  # an empty batch still has an output shape
            yield 0, 0
        for start in range(0, num_rows, max(size, 1)):
            yield start, min(start + size, num_rows)

    def _call(self, batch: Batch, start: int, stop: int) -> Outputs:
        """Hand rows start..stop to ``fn`` in one call."""
        arguments, keywords = batch.arguments(slice(start, stop) if self.batched else start, batch.hand)
        self.counts.evaluations += stop - start
        try:
            returned = self.fn(*arguments, **keywords)
        except Exception as error:
            self.counts.failures += 1
            raise batch.error(Raised(error), np.arange(start, stop)) from error
        outputs = batch.read(returned, stop - start)
        row = outputs.first_non_finite_row()
        if row is not None:
            self.counts.failures += 1
            raise batch.error(NotFinite(), np.array([start + row]))
        return outputs


class BoundFunction:
    """``fn`` with the arguments of one call filled in: the rowwise function that an estimator sees, around ``inputs``.

    What is evaluated first is the value, which cannot be skipped where it fails, unless the estimator's value is a mean
    over draws. For an estimator that needs every evaluation, and without one, none is skipped.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        call: Call,
        inputs: tuple[Tensor, ...],
        estimator: Estimator | None = None,
    ) -> None:
        self._evaluator = evaluator
        self._call = call
        self._inputs = plain_rows(inputs) if inputs else ()
        self._skips = self._may_skip = False
        if estimator is not None and evaluator.execution.on_error == "skip":
            self._skips = not unable_to_skip(estimator)
            self._may_skip = self._skips and not estimator.exact_value
        self._first: Outputs | None = None

    def __call__(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Evaluate on rows (R, ...) and return the leaves of the outputs, (R, ...) each."""
        if inside_transform():  # within attach it is not, and tensors are plain
            raise UnsupportedTransformError(
                "torch.func sees how this estimator calls the function, which it cannot follow; take the gradient with "
                "backward or torch.autograd.grad, and rows, box(x.flatten(0, 1)), in the place of torch.func.vmap"
            )
        outputs = self._evaluator.evaluate(self._call, self._inputs, rows, self._may_skip)
        self._may_skip = self._skips
        if self._first is None:
            self._first = self._evaluator.structure = outputs.structure()
        self._first.check_same_shapes(outputs)
        return outputs.leaves

    def rebuild(self, leaves: tuple[Tensor, ...]) -> Any:
        """Put tensors into the containers that ``fn`` returned its values in."""
        structure = self._first or self._evaluator.structure
        if (
            structure is None
        ):  # a value that did not come from fn, which was never called: the bypass network's own
            return leaves[0] if len(leaves) == 1 else leaves
        if len(leaves) != len(structure.leaves):
            raise OutputError(
                f"the estimator must return one tensor for each of the {len(structure.leaves)} outputs of the "
                f"wrapped function, but returned {len(leaves)}"
            )
        return structure.rebuild(leaves)
