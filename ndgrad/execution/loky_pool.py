"""Worker processes of our own, through loky: replaced when they die or hang, ended with whoever began them."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future, wait
from functools import cache
from typing import Any

from ndgrad import trees
from ndgrad.errors import ExecutorError
from ndgrad.execution import worker
from ndgrad.execution.executors import Answers, Pack, answer_of
from ndgrad.execution.parcels import Parcel
from ndgrad.execution.tasks import Answer, Lost, Task

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_ATTEMPTS = 3  # to begin a worker


class Owned:
    """So many processes, each an executor of its own: it is known which task a process had when it died or hung.

    A process has one task at a time, and so its time is known, too. Processes begin with the first task, and are kept.
    In them numerical libraries use one thread, unless the environment says otherwise. All wrapped functions of a
    process that ask for the same number share them (`owned`), one evaluation after the other.
    """

    in_process = False

    def __init__(self, size: int) -> None:
        _loky()
        self.size = size
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._user: int | None = None  # the thread that has the lock
        self._workers = [_Worker() for _ in range(self.size)]
        self._finalizer = weakref.finalize(self, _end, self._workers)

    def run(self, queue: deque[Task], pack: Pack, timeout: float | None) -> Answers:
        """Run them; see `Pool.run`. Closed early, or interrupted, it ends its processes."""
        if os.getpid() != self._pid:  # in a fork of the process whose workers these are
            self._finalizer.detach()
            self._begin()
        self._require_other_user("give one of the two functions another number of workers")
        with self._lock:
            self._user = threading.get_ident()
            try:
                yield from self._run(queue, pack, timeout)
            except BaseException:
                _end(self._workers)
                raise
            finally:
                self._user = None

    def _run(self, queue: deque[Task], pack: Pack, timeout: float | None) -> Answers:
        while queue or any(w.task is not None for w in self._workers):
            self._assign(queue, pack, timeout)
            waiting = [w for w in self._workers if w.future is not None]
            ends = min(w.ends for w in waiting)
            pause = None if ends == float("inf") else max(ends - time.monotonic(), 0)
            futures = [w.future for w in waiting if w.future is not None]
            done, _ = wait(futures, pause, concurrent.futures.FIRST_COMPLETED)
            for w in waiting:
                task = w.task
                if w.future in done:
                    answer = w.finish()
                elif time.monotonic() >= w.ends:
                    answer = w.give_up()
                else:
                    continue
                if task is not None and answer is not None:
                    yield task, answer

    def _assign(self, queue: deque[Task], pack: Pack, timeout: float | None) -> None:
        """Hand tasks to idle workers; begin as many workers as there are tasks left."""
        for w in self._workers:
            if queue and w.is_idle:
                w.give(queue[0], pack(queue[0]), timeout)  # may raise: the task then stays in the queue
                queue.popleft()
        for w, _ in zip((w for w in self._workers if w.is_ended), queue, strict=False):
            w.begin()

    def close(self) -> None:
        """End the processes, as soon as none is at work for another thread."""
        self._require_other_user("to break it off, raise an exception")
        with self._lock:
            _end(self._workers)

    def _require_other_user(self, remedy: str) -> None:
        if self._user == threading.get_ident():  # which would wait for itself
            raise ExecutorError(
                f"the {self.size} worker processes are busy with the evaluation from which this one was asked for; "
                f"{remedy}"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Owned:
        return self

    def __reduce__(self) -> Any:
        return owned, (self.size,)


_pools: weakref.WeakValueDictionary[int, Owned] = weakref.WeakValueDictionary()


def owned(size: int) -> Owned:
    """Return the pool of ``size`` processes; it ends with the last that uses it."""
    pool = _pools.get(size)
    if pool is None:
        _pools[size] = pool = Owned(size)
    return pool


class _Worker:
    """One process. ``future`` is what it is busy with: its beginning, or ``task``, or what that needs first."""

    def __init__(self) -> None:
        self._executor: Any = None
        self._failed_starts = 0
        self._clear()

    def _clear(self) -> None:
        self._installed = ""  # the digest of the function that the process has
        self._is_installing = False
        self._job: tuple[Parcel, float | None] | None = None  # what task is, and seconds per row
        self.future: Future[Any] | None = None
        self.task: Task | None = None
        self.ends = float("inf")  # when the task's time is up

    @property
    def is_ended(self) -> bool:
        return self._executor is None

    @property
    def is_idle(self) -> bool:
        return self._executor is not None and self.future is None

    def begin(self) -> None:
        env = {name: os.environ.get(name, "1") for name in _THREADS}
        self._executor = _loky().ProcessPoolExecutor(
            1, initializer=worker.prepare, initargs=(os.getpid(),), env=env
        )
        self.future = self._executor.submit(time.time)

    def give(self, task: Task, parcel: Parcel, timeout: float | None) -> None:
        self.task, self._job = task, (parcel, timeout)
        if parcel.digest == self._installed:
            self._run()
        else:
            self._install()

    def _install(self) -> None:
        assert self._job is not None
        parcel, _ = self._job
        self._installed, self._is_installing = parcel.digest, True
        self.ends = float("inf")  # imports are not the function's time
        self.future = self._executor.submit(worker.install, parcel.digest, parcel.blob)

    def _run(self) -> None:
        assert self._job is not None
        assert self.task is not None
        parcel, timeout = self._job
        self._is_installing = False
        if timeout is not None:
            self.ends = time.monotonic() + timeout * len(self.task.index)
        self.future = self._executor.submit(worker.run, parcel.digest, None, parcel.values)

    def finish(self) -> Answer:
        """Take the answer to the task and become idle, or ended if the process died; None if the task only begins."""
        assert self.future is not None
        answer = answer_of(self.future)
        if isinstance(answer, Lost):
            if self.task is None:
                self._count_failed_start(answer)
            self.end()
            return answer
        self._failed_starts = 0
        if self._is_installing:
            return self._run()
        if answer == ("unknown",):  # loky replaced the process on its own
            return self._install()
        self.future, self.task, self.ends = None, None, float("inf")
        return answer

    def give_up(self) -> Lost:
        assert self.task is not None
        self.end()
        return Lost("timeout")

    def end(self) -> None:
        """Kill the process and its children."""
        executor, self._executor = self._executor, None
        self._clear()
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=True)

    def _count_failed_start(self, lost: Lost) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _ATTEMPTS:
            self._failed_starts = 0
            raise ExecutorError(f"a worker process could not be started: {lost.detail}")


def _end(workers: list[_Worker]) -> None:
    for w in workers:
        w.end()


@cache
def _loky() -> Any:
    try:
        import cloudpickle
        import loky
    except ImportError as error:
        raise ImportError(
            "executor=<number> starts worker processes through loky, which is not installed: "
            "pip install 'ndgrad[parallel]'"
        ) from error
    for module in (worker, trees):  # by value: a worker that imported them would import torch
        cloudpickle.register_pickle_by_value(module)
    return loky
