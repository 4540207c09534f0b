"""The options of `ndgrad.wrap` about evaluating, in one place."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ndgrad.validation import one_of, positive_float, positive_int

OnError = Literal["raise", "skip", "retry"]


@dataclass(frozen=True)
class Execution:
    """Where rows are evaluated and what a failure means; `ndgrad.wrap` documents each option."""

    executor: int | Executor | None = None
    on_error: OnError = "raise"
    retries: int = 2
    timeout: float | None = None
    min_success: float = 0.5

    def __post_init__(self) -> None:
        one_of("on_error", self.on_error, get_args(OnError))
        positive_int("retries", self.retries, least=0)
        if not isinstance(self.min_success, int | float) or not 0 <= self.min_success <= 1:
            raise ValueError(f"min_success must be a number from 0 to 1, got {self.min_success!r}")
        if self.timeout is not None:
            positive_float("timeout", self.timeout)
            if self.executor is None:
                raise ValueError(
                    "timeout needs a process that can be stopped, since nothing stops a function that runs in this "
                    "one; type executor=1 (or more)"
                )

    @property
    def is_direct(self) -> bool:
        """Whether nothing but a call of the function is asked for."""
        return self == _DIRECT

    def shown(self) -> list[str]:
        """Return what differs from the defaults, for a representation."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return [f"{name}={value!r}" for name, value, default in values if value != default]

    def __deepcopy__(self, memo: dict[int, Any]) -> Execution:
        return self  # executors and callbacks are shared

    def __reduce__(self) -> Any:
        if isinstance(self.executor, Executor):
            raise TypeError(
                "a wrapped function with an executor of yours cannot be pickled; give it a number, executor=2, or wrap "
                "the function anew where it is unpickled"
            )
        return Execution, tuple(getattr(self, f.name) for f in fields(self))


_DIRECT = Execution()
