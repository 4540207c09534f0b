"""What a failed evaluation is, and the error that says so."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ndgrad.errors import EvaluationTimeoutError, FunctionError, NonFiniteError, WorkerDiedError
from ndgrad.execution.parcels import Raised
from ndgrad.execution.tasks import Index, Lost


@dataclass(frozen=True)
class NotFinite:
    """NaN or infinity among the values of a row."""


Cause = Raised | Lost | NotFinite


def describe(cause: Cause, timeout: float | None = None) -> str:
    """Say what happened, in the past tense; equal for failures of one kind."""
    if isinstance(cause, Raised):
        return f"raised {type(cause.error).__name__}: {cause.error}{_said(cause.error)}"
    if isinstance(cause, NotFinite):
        return "returned NaN or infinity"
    return f"took longer than timeout={timeout} s" if cause.why == "timeout" else "killed its worker process"


def _said(error: BaseException) -> str:
    """Return the end of what a program that failed wrote to its standard error."""
    written = getattr(error, "stderr", None) if isinstance(error, subprocess.SubprocessError) else None
    if not written:
        return ""
    text = written.decode(errors="replace") if isinstance(written, bytes) else str(written)
    return f" It wrote: {text.strip()[-200:]}"


def commonest(causes: Sequence[Cause], timeout: float | None) -> str:
    """Describe the failure that occurred most often."""
    return Counter(describe(cause, timeout) for cause in causes).most_common(1)[0][0]


def function_error(
    fn: Callable[..., Any], cause: Raised | Lost, where: str, arguments: tuple[Any, ...], called: str,
    timeout: float | None = None,
) -> FunctionError:  # fmt: skip
    """Return the error for a call that gave no values; for one that raised, the exception is its cause.

    Args:
        fn: the function.
        cause: what happened.
        where: names the rows.
        arguments: what it was called with; they are kept in the error.
        called: how it was called, and what the caller may have meant to type.
        timeout: seconds that a row was allowed.

    """
    message = f"the wrapped function {name_of(fn)} {describe(cause, timeout)}\n  it was called on {where} as {called}"
    if isinstance(cause, Lost):
        if cause.why == "timeout":
            return EvaluationTimeoutError(message, arguments)
        return WorkerDiedError(f"{message}\n  {cause.detail}", arguments)
    error = FunctionError(message, arguments)
    error.__cause__ = cause.error
    if cause.traceback is not None:
        cause.error.add_note(f"\nIn the worker:\n{cause.traceback}")
    return error


def non_finite_error(fn: Callable[..., Any], where: str, row: tuple[Any, ...]) -> NonFiniteError:
    """Return the error for a row whose values are not finite."""
    return NonFiniteError(
        f"the wrapped function {name_of(fn)} must return finite numbers, but returned NaN or infinity for "
        f"{where}; its input is in this error's .inputs. Clip or penalise inside the "
        "function, or use a smaller sigma or eps so that probes stay in its domain",
        row,
    )


def name_rows(index: Index, num_rows: int, num_inputs: int) -> str:
    """Say which rows of a batch of ``num_rows`` evaluations belong to, ``num_inputs`` rows where calls are mapped."""
    start, stop = int(index[0]), int(index[-1]) + 1
    if len(index) != 1:
        among = "" if stop - start == len(index) else f"{len(index)} among "
        return f"{among}rows {start} to {stop - 1} (the batch has {num_rows})"
    probe, center = divmod(start, num_inputs)
    return name_input(center, num_rows, num_inputs) + (f" (probe {probe} around it)" if probe else "")


def name_input(index: int, num_rows: int, num_inputs: int) -> str:
    """Say which row of which call an input is, of ``num_inputs`` in calls of ``num_rows`` each."""
    call, row = divmod(index, num_rows)
    return f"row {row}" + (f" of mapped call {call}" if num_inputs > num_rows else "")


def name_of(fn: Callable[..., Any]) -> str:
    """Return a function's name, or that of an object's class."""
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


def show_call(arguments: Sequence[Any], keywords: dict[str, Any]) -> str:
    """Return a call with shapes and dtypes in the place of its arguments."""
    shown = [*map(_show, arguments), *(f"{key}={_show(value)}" for key, value in keywords.items())]
    return f"fn({', '.join(shown)})"


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"array{tuple(value.shape)} {value.dtype}"
    return f"list of {len(value)}" if isinstance(value, list) else type(value).__name__
