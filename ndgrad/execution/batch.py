"""The rows of one evaluation, together with the function that they are for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndgrad.call import Call, Hand, Span
from ndgrad.execution.failures import Cause, NotFinite, function_error, name_rows, non_finite_error, show_call
from ndgrad.execution.tasks import Index
from ndgrad.interface import Interface, is_array, to_interface
from ndgrad.outputs import Outputs, read_outputs


@dataclass
class Batch:
    """R rows (R, ...) for the function ``fn``, and for each a seed (R,) if it takes one.

    Row r lies around row r mod K B of the ``inputs`` (K B, ...): those of the call, or of K calls that are mapped.
    """

    fn: Callable[..., Any]
    interface: Interface
    batched: bool
    call: Call
    inputs: tuple[Tensor, ...]
    rows: tuple[Tensor, ...]
    num_rows: int
    seeds: Tensor | None

    @property
    def num_inputs(self) -> int:
        """Count the rows of the inputs, K B."""
        return self.inputs[0].shape[0] if self.inputs else self.call.num_rows

    def arguments(self, span: Span, hand: Hand) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Build the arguments for some of the rows, or for a single point."""
        index = torch.from_numpy(span) if isinstance(span, np.ndarray) else span
        args, kwargs = self.call.arguments([row[index] for row in self.rows], span, hand)
        if self.seeds is not None:
            seeds = self.seeds[index]
            kwargs["seed"] = hand(seeds if self.batched else int(seeds), False)
        return args, kwargs

    def arguments_of(self, index: Index, hand: Hand) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Build the arguments of one call for rows ``index``, which is one point where ``fn`` takes points."""
        return self.arguments(index if self.batched else int(index[0]), hand)

    def hand(self, value: Any, is_shared: bool) -> Any:
        """Give ``fn`` its own copy of what has rows: it may change it, and it may be the user's own tensor."""
        if not is_shared and is_array(value):
            value = value.clone() if isinstance(value, Tensor) else value.copy()
        return to_interface(value, self.interface)

    def read(self, returned: Any, num_rows: int) -> Outputs:
        """Convert what one call returned for ``num_rows`` rows."""
        outputs = read_outputs(returned, self.call.dtype, self.call.device)
        return outputs.check_rows(num_rows) if self.batched else outputs.with_row()

    def error(self, cause: Cause, index: Index, timeout: float | None = None) -> Exception:
        """Return the error for a call on rows ``index`` that failed."""
        where = name_rows(index, self.call.num_rows, self.num_inputs)
        if isinstance(cause, NotFinite):
            return non_finite_error(self.fn, where, tuple(row[int(index[0])] for row in self.rows))
        args, kwargs = self.arguments_of(index, self.hand)
        called = f"{show_call(args, kwargs)}, interface={self.interface!r}"
        called = "\n  ".join([called, *self.call.hints(self.batched, self.interface)])
        return function_error(self.fn, cause, where, args, called, timeout)


def takes_seed(fn: Callable[..., Any]) -> bool:
    """Whether ``fn`` has a keyword ``seed`` without a value of its own: none, or None."""
    try:
        seed = inspect.signature(fn).parameters.get("seed")
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return seed is not None and seed.kind in by_keyword and seed.default in (seed.empty, None)


def draw_seeds(call: Call, num_rows: int) -> Tensor | None:
    """Draw a seed for each row from torch's global generator, unless the caller gave the function one."""
    if any(argument.name == "seed" for argument in call.all_arguments):
        return None
    return torch.randint(2**63 - 1, (num_rows,))
