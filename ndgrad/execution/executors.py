"""Where tasks run: here, on an executor that the user brought, or on worker processes of our own."""

from __future__ import annotations

import concurrent.futures
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from ndgrad.errors import ExecutorError, NdgradError
from ndgrad.execution import worker
from ndgrad.execution.tasks import Answer, Lost, Task

Pack = Callable[[Task], Any]
"""Makes what a pool runs for a task: a function without arguments where ``in_process``, else a `Parcel`."""

Answers = Generator[tuple[Task, Answer], None, None]

_POLL = 0.02  # seconds between two looks at which evaluations have begun


class Pool(Protocol):
    """Runs tasks, in any order."""

    in_process: bool

    def run(self, queue: deque[Task], pack: Pack, timeout: float | None) -> Answers:
        """Yield each task with its answer until the queue, to which the caller may add, is empty.

        ``timeout`` is in seconds per row. Closing the iterator early gives up what still runs. What stands in the
        queue afterwards, packed or not, was not begun.
        """

    def close(self) -> None:
        """End what belongs to this pool; it begins again when it is used again."""


class Here:
    """The calling thread, one task after the other."""

    in_process = True

    def run(self, queue: deque[Task], pack: Pack, timeout: float | None) -> Answers:
        """Run them; nothing can be stopped here, so ``timeout`` is None."""
        while queue:
            task = queue.popleft()
            yield task, pack(task)()

    def close(self) -> None:
        """Nothing to end."""


class Foreign:
    """An executor of the user's: it is handed everything at once, and neither ended nor replaced here.

    A running evaluation cannot be stopped from outside. One that takes too long is given up, which frees this process
    but not the worker. The clock of an evaluation starts when its future says that it runs. Process pools say so of
    more than their workers can run: where time is measured, they are handed one evaluation for each free worker.
    Dask's futures never say so, and all that are left are given up when none has finished for as long as one may take.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.in_process = isinstance(executor, ThreadPoolExecutor)

    def run(self, queue: deque[Task], pack: Pack, timeout: float | None) -> Answers:
        """Run them; see `Pool.run`."""
        flying: dict[Future[Any], Task] = {}
        clock = _Clock(timeout)
        most = math.inf if timeout is None or self.in_process else self._num_workers()
        try:
            while queue or flying:
                while queue and len(flying) + clock.num_hanging < most:
                    future = self._submit(pack(queue[0]))  # may raise: the task then stays in the queue
                    flying[future] = queue.popleft()
                if not flying:
                    time.sleep(_POLL)
                done, _ = wait(flying, None if timeout is None else _POLL, concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    yield flying.pop(future), answer_of(future)
                for future, lost in clock.overdue(flying, bool(done)):
                    future.cancel()
                    yield flying.pop(future), lost
        finally:
            queue.extend(task for future, task in flying.items() if future.cancel())

    def _num_workers(self) -> float:
        workers = getattr(self._executor, "_max_workers", None)
        return workers if isinstance(workers, int) else math.inf

    def _submit(self, job: Any) -> Future[Any]:
        try:
            if self.in_process:
                return self._executor.submit(job)
            return self._executor.submit(worker.run, job.digest, job.blob, job.values)
        except (BrokenExecutor, RuntimeError) as error:
            raise ExecutorError(
                f"the executor {type(self._executor).__name__} takes no more work ({error}), and ndgrad cannot begin "
                "another in its place; with executor=2 the workers are its own, and replaced when they die"
            ) from error

    def close(self) -> None:
        """Nothing: the executor is the user's."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Foreign:
        return self  # an executor is shared


class _Clock:
    """Tells which evaluations on a foreign executor have taken too long."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._begun: dict[Future[Any], float] = {}
        self._given_up: list[Future[Any]] = []
        self._progress = time.monotonic()  # when anything last finished, or was given up
        self._says_running = False

    @property
    def num_hanging(self) -> int:
        """Workers that are taken by what was given up."""
        return sum(not future.done() for future in self._given_up)

    def overdue(self, flying: dict[Future[Any], Task], finished: bool) -> list[tuple[Future[Any], Lost]]:
        """Return what is to be given up, given what is in flight and whether anything has just finished."""
        if self._timeout is None:
            return []
        now = time.monotonic()
        running = [future for future in flying if future.running()]
        self._says_running |= bool(running)
        if finished:
            self._progress = now
        allowed = {future: self._timeout * max(len(flying[future].index), 1) for future in flying}
        late = [f for f in running if now - self._begun.setdefault(f, now) > allowed[f]]
        if not late and not running and now - self._progress > max(allowed.values(), default=self._timeout):
            late = self._stalled(list(flying))
        if late:
            self._progress = now
        self._given_up += late
        return [(future, Lost("timeout")) for future in late]

    def _stalled(self, waiting: list[Future[Any]]) -> list[Future[Any]]:
        if not self._says_running:
            return waiting
        if self.num_hanging:
            raise ExecutorError(
                f"all workers of the executor are taken by evaluations that took longer than timeout={self._timeout}, "
                "which ndgrad cannot stop there; with executor=2 the workers are its own, and replaced"
            )
        return []  # the executor is slow to begin


def answer_of(future: Future[Any]) -> Answer:
    """Return what a finished future holds; `Lost` if a worker died of it. Whatever else went wrong is raised."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError) as error:
        return Lost("death", str(error) or type(error).__name__)
    except (NdgradError, KeyboardInterrupt):
        raise
    except Exception as error:
        if type(error).__name__ == "KilledWorker":  # Dask's, which is not imported for this
            return Lost("death", str(error))
        raise ExecutorError(
            "the executor could not carry the function, its arguments or its result between the processes: "
            f"{type(error).__name__}: {error}; what a worker unpickles must be importable there"
        ) from error


def make_pool(executor: Any) -> Pool:
    """Return the pool for ``wrap(executor=)``."""
    if executor is None:
        return Here()
    if isinstance(executor, int) and not isinstance(executor, bool) and executor >= 1:
        from ndgrad.execution.loky_pool import owned

        return owned(executor)
    if not isinstance(executor, Executor):
        hint = ": create it, with parentheses" if isinstance(executor, type) else ""
        raise TypeError(
            "executor must be None, a positive number of worker processes, or a concurrent.futures.Executor (of Dask: "
            f"client.get_executor(pure=False)), got {executor!r}{hint}"
        )
    _refuse_fork(executor)
    return Foreign(executor)


def _refuse_fork(executor: Executor) -> None:
    context = getattr(executor, "_mp_context", None) or getattr(executor, "_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "this executor forks: its workers copy a process in whose torch other threads hold locks, which nobody "
            "ever opens in the copy, and hang. Type executor=2, or ProcessPoolExecutor(2, "
            "mp_context=multiprocessing.get_context('spawn'))"
        )
