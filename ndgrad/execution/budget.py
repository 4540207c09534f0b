"""Counting of evaluations, and the limit on their number."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from ndgrad.errors import BudgetExceededError


@dataclass
class Counts:
    """How many rows were handed to the function, how many of these failed, and how many were read from the cache.

    ``budget`` is the most that may be handed over; None for no limit.
    """

    budget: int | None = None
    evaluations: int = 0
    failures: int = 0
    cached: int = 0
    _reserved: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def reserve(self, num_rows: int) -> None:
        """Put rows aside that are about to be evaluated, all of them or, with an error, none."""
        if self.budget is None:
            return
        with self._lock:
            spent = self.evaluations + self._reserved
            if spent + num_rows > self.budget:
                raise BudgetExceededError(
                    f"{num_rows} evaluations were asked for, but of budget={self.budget} {spent} are spent or under "
                    f"way, which leaves {self.budget - spent}; none of them was made. Raise the budget, or ask for "
                    "fewer samples",
                    self.budget, spent, num_rows,
                )  # fmt: skip
            self._reserved += num_rows

    def spend(self, num_rows: int) -> None:
        """Count rows, put aside before, that are handed to the function now."""
        with self._lock:
            self.evaluations += num_rows
            self._reserved -= num_rows if self.budget is not None else 0

    def give_back(self, num_rows: int) -> None:
        """Take rows off the count that were spent and not handed to the function after all."""
        with self._lock:
            self.evaluations -= num_rows

    def release(self, num_rows: int) -> None:
        """Give back rows that were put aside and are not evaluated after all."""
        with self._lock:
            self._reserved -= num_rows if self.budget is not None else 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
