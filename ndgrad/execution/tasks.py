"""The units of work: a few rows that are evaluated in one call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Index: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Task:
    """Rows ``index`` (r,) among the R of an evaluation, for one call of the function.

    ``attempt`` counts how often they failed; ``died`` says that a worker died while it had them.
    """

    index: Index
    attempt: int = 0
    died: bool = False

    def halves(self) -> list[Task]:
        """Return two tasks with half of the rows each, in which a failure is looked for."""
        return [replace(self, index=part) for part in np.array_split(self.index, 2)]


@dataclass(frozen=True)
class Lost:
    """What became of a task that has no answer: its time was up, or its worker died."""

    why: Literal["timeout", "death"]
    detail: str = ""


Answer: TypeAlias = Any
"""What the worker returned, or `Lost`."""


def tasks(index: Index, size: int) -> Iterator[Task]:
    """Divide rows into tasks of at most ``size``."""
    for start in range(0, len(index), size):
        yield Task(index[start : start + size])
