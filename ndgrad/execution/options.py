"""The options of `ndgrad.wrap` about evaluating, in one place."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ndgrad.execution.progress import Report, require_rich
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
    cache: str | os.PathLike[str] | None = None
    cache_key: str | None = None
    budget: int | None = None
    progress: bool | Report | None = None

    def __post_init__(self) -> None:
        one_of("on_error", self.on_error, get_args(OnError))
        positive_int("retries", self.retries, least=0)
        if not isinstance(self.min_success, int | float) or not 0 <= self.min_success <= 1:
            raise ValueError(f"min_success must be a number from 0 to 1, got {self.min_success!r}")
        if self.retries != Execution.retries and self.on_error == "raise":
            raise ValueError(
                f"retries={self.retries} tries failed evaluations again, but on_error='raise' ends with the first; "
                "type on_error='retry' (or 'skip')"
            )
        if self.min_success != Execution.min_success and self.on_error != "skip":
            raise ValueError(
                f"min_success={self.min_success} is how many evaluations must succeed where failed ones are skipped, "
                f"but on_error={self.on_error!r} skips none; type on_error='skip'"
            )
        if self.timeout is not None:
            positive_float("timeout", self.timeout)
            if self.executor is None:
                raise ValueError(
                    "timeout needs a process that can be stopped, since nothing stops a function that runs in this "
                    "one; type executor=1 (or more)"
                )
        if self.cache_key is not None and not isinstance(self.cache_key, str):
            raise TypeError(f"cache_key must be text that names the function, got {self.cache_key!r}")
        if self.cache_key is not None and self.cache is None:
            raise ValueError(
                "cache_key names the function in a cache; type cache='memory' or cache=<folder>, too"
            )
        if self.budget is not None:
            positive_int("budget", self.budget)
        if self.progress is True:
            require_rich()
        elif self.progress and not callable(self.progress):
            raise TypeError(f"progress must be True or a function of one argument, got {self.progress!r}")

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
