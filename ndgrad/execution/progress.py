"""How far a long evaluation is."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple


class Progress(NamedTuple):
    """What a progress callback gets, after every call of the function has come back."""

    done: int  # rows that have their values, or were given up
    failed: int  # of them, given up
    total: int
    rate: float  # rows per second
    seconds_left: float  # at this rate


Report = Callable[[Progress], Any]


class Reporter:
    """Reports on the evaluation of ``total`` rows."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total = report, total
        self._begin = time.monotonic()

    def update(self, done: int, failed: int) -> None:
        """Report so many rows done and failed."""
        if self._report is None:
            return
        seconds = max(time.monotonic() - self._begin, 1e-9)
        left = (self._total - done) * seconds / done if done else float("inf")
        self._report(Progress(done, failed, self._total, done / seconds, left))


def reporting(progress: bool | Report | None) -> AbstractContextManager[Report | None]:
    """Return what to report to while an evaluation lasts: nothing, the user's function, or a bar."""
    return _Bar() if progress is True else nullcontext(progress or None)


class _Bar:
    """A bar in the terminal, gone when the evaluation is over."""

    def __init__(self) -> None:
        rich = require_rich()
        self._bar = rich.Progress(
            rich.TextColumn("evaluations"), rich.BarColumn(), rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[failed]} failed, {task.fields[rate]:.3g}/s,"), rich.TimeRemainingColumn(),
            transient=True,
        )  # fmt: skip
        self._task: Any = None

    def __enter__(self) -> Report:
        self._bar.start()
        self._task = self._bar.add_task("evaluations", total=None, failed=0, rate=0.0)
        return self._show

    def _show(self, p: Progress) -> None:
        self._bar.update(self._task, completed=p.done, total=p.total, failed=p.failed, rate=p.rate)

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def require_rich() -> Any:
    """Return ``rich.progress``, which draws the bar."""
    try:
        import rich.progress
    except ImportError as error:
        raise ImportError(
            "progress=True draws its bar with rich, which is not installed: pip install 'ndgrad[parallel]'; a function "
            "of yours, progress=print, needs nothing"
        ) from error
    return rich.progress
