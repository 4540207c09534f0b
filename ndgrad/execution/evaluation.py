"""One evaluation of R rows by way of tasks, with what a failure of theirs means."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ndgrad.errors import BudgetExceededError, TooManyFailuresError
from ndgrad.execution.batch import Batch
from ndgrad.execution.budget import Counts
from ndgrad.execution.cache import Cache, make_store
from ndgrad.execution.dependence import Dependence
from ndgrad.execution.executors import Pool, make_pool
from ndgrad.execution.failures import Cause, NotFinite, commonest, name_input, name_of
from ndgrad.execution.options import Execution
from ndgrad.execution.parcels import Courier, Raised, unpack
from ndgrad.execution.progress import Reporter, reporting
from ndgrad.execution.tasks import Answer, Index, Lost, Task, tasks
from ndgrad.outputs import Outputs


@dataclass(frozen=True)
class Means:
    """What all evaluations of one wrapped function have in common."""

    execution: Execution
    pool: Pool
    counts: Counts
    cache: Cache | None
    dependence: Dependence

    @classmethod
    def of(cls, execution: Execution) -> Means:
        """Make what the options ask for."""
        store = make_store(execution.cache)
        cache = None if store is None else Cache(store, execution.cache_key)
        return cls(execution, make_pool(execution.executor), Counts(execution.budget), cache, Dependence())


class Evaluation:
    """Evaluates the rows of a batch in tasks.

    Args:
        batch: the rows and their function.
        means: executor, policy, limits.
        chunk_size: the most rows of a task.
        may_skip: whether rows may stay without value; if not, they are tried again as if with "retry".

    """

    def __init__(self, batch: Batch, means: Means, chunk_size: int, may_skip: bool) -> None:
        self._batch, self._chunk_size = batch, chunk_size
        self._execution, self._pool, self._counts = means.execution, means.pool, means.counts
        self._cache, self._dependence = means.cache, means.dependence
        self._skips = self._execution.on_error == "skip" and may_skip
        self._retries = 0 if self._skips else self._execution.retries
        self._courier = Courier(batch.fn, batch.interface, batch.arguments_of)
        self._keys: list[str] = []
        self._parts: list[tuple[Index, Outputs]] = []
        self._lost: dict[int, Cause] = {}
        self._queue: deque[Task] = deque()
        self._reserved = 0  # of the budget, for tasks in the queue
        self._num_good = 0

    def run(self) -> Outputs:
        """Return the outputs of all rows; those of rows that were skipped are NaN."""
        missing: Index = np.arange(self._batch.num_rows)
        if self._cache is not None:
            self._keys, self._parts, missing = self._cache.look_up(self._batch)
            self._counts.cached += len(self._parts)
        try:
            self._enqueue(*tasks(missing, self._chunk_size))
            self._work()
        finally:
            self._counts.give_back(sum(len(task.index) for task in self._queue) - self._reserved)
            self._counts.release(self._reserved)
        if self._lost:
            self._dependence.observe(self._batch.inputs, self._batch.rows, sorted(self._lost))
            self._require_success()
        return Outputs.assemble(self._parts, self._batch.num_rows)

    def _enqueue(self, *more: Task) -> None:
        num_rows = sum(len(task.index) for task in more)
        self._counts.reserve(num_rows)
        self._reserved += num_rows
        self._queue.extend(more)

    def _work(self) -> None:
        with (
            reporting(self._execution.progress) as report,
            closing(self._pool.run(self._queue, self._pack, self._execution.timeout)) as answers,
        ):
            reporter = Reporter(report, self._reserved)
            for task, answer in answers:
                self._take(task, answer)
                reporter.update(self._num_good + len(self._lost), len(self._lost))

    def _pack(self, task: Task) -> Any:
        self._counts.spend(len(task.index))
        self._reserved -= len(task.index)
        return self._call(task) if self._pool.in_process else self._courier.pack(task.index)

    def _call(self, task: Task) -> Callable[[], Any]:
        args, kwargs = self._batch.arguments_of(task.index, self._batch.hand)
        inference = torch.is_inference_mode_enabled()  # without which its tensors cannot be changed

        def call() -> Any:
            try:
                with torch.inference_mode(inference), torch.no_grad():  # which a thread does not inherit
                    return self._batch.fn(*args, **kwargs)
            except Exception as error:
                return Raised(error)

        return call

    def _take(self, task: Task, answer: Answer) -> None:
        """Keep the values of a task, or see to it that its rows are evaluated again or counted as lost."""
        if isinstance(answer, Lost):
            if answer.why == "death" and not task.died:  # may have been of another's doing
                self._enqueue(replace(task, died=True))
            else:
                self._fail(task, answer)
            return
        returned = answer if self._pool.in_process else unpack(answer)
        if isinstance(returned, Raised):
            self._fail(task, returned)
            return
        outputs = self._batch.read(returned, len(task.index))
        good = outputs.finite_rows()
        if not good.all():
            for row in task.index[~good.numpy()]:
                self._fail(replace(task, index=np.array([row])), NotFinite())
            task, outputs = replace(task, index=task.index[good.numpy()]), outputs.select(good)
        if len(task.index):
            self._parts.append((task.index, outputs))
            self._num_good += len(task.index)
            if self._cache is not None:
                self._cache.keep([self._keys[row] for row in task.index], outputs)

    def _fail(self, task: Task, cause: Cause) -> None:
        """Raise, look for the row that failed, try it again, or give it up."""
        fatal = self._execution.on_error == "raise"
        if not fatal and len(task.index) > 1:
            self._again(task, cause, *task.halves())
            return
        self._counts.failures += 1
        if not fatal and task.attempt < self._retries:
            self._again(task, cause, replace(task, attempt=task.attempt + 1))
        elif self._skips:
            self._lost[int(task.index[0])] = cause
        else:
            raise self._batch.error(cause, task.index, self._execution.timeout)

    def _again(self, task: Task, cause: Cause, *more: Task) -> None:
        """Evaluate rows of a task that failed once more; where the budget has ended, its error shows what failed."""
        try:
            self._enqueue(*more)
        except BudgetExceededError as error:
            raise error from self._batch.error(cause, task.index, self._execution.timeout)

    def _require_success(self) -> None:
        """Require ``min_success`` of the evaluations that belong to each input, and any at all."""
        B, R = self._batch.num_inputs, self._batch.num_rows
        total = np.bincount(np.arange(R) % B, minlength=B)  # (B,)
        good = total - np.bincount(np.array(list(self._lost)) % B, minlength=B)  # (B,)
        worst = int(np.argmin(good / total))
        fraction = good[worst] / total[worst]
        least = self._execution.min_success
        if fraction >= least and self._parts:
            return
        reason = commonest(list(self._lost.values()), self._execution.timeout)
        where = name_input(worst, self._batch.call.num_rows, B)
        raise TooManyFailuresError(
            f"of the {total[worst]} evaluations of {name_of(self._batch.fn)} around {where}, "
            f"{good[worst]} succeeded, a fraction of {fraction:.2f}, and min_success={least} are "
            f"needed; most often it {reason}. Keep probes in its domain (bounds=, a smaller sigma), let it return a "
            "penalty there, or lower min_success"
        )
