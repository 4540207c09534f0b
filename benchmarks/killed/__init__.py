"""Trainings that say what they are doing, so that they can be killed while they do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def announced(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which now prints its phase before it begins."""

    def announcing(*arguments: Any, **keywords: Any) -> Any:
        print(phase, flush=True)
        return function(*arguments, **keywords)

    return announcing
