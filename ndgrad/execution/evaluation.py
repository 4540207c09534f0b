"""One evaluation of R rows by way of tasks, with what a failure of theirs means."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ndgrad.errors import TooManyFailuresError
from ndgrad.execution.batch import Batch
from ndgrad.execution.executors import Pool
from ndgrad.execution.failures import Cause, NotFinite, commonest, name_of
from ndgrad.execution.options import Execution
from ndgrad.execution.parcels import Courier, Raised, unpack
from ndgrad.execution.tasks import Answer, Index, Lost, Task, tasks
from ndgrad.outputs import Outputs


@dataclass
class Counts:
    """How many rows have been handed to the function, and of how many the evaluation failed."""

    evaluations: int = 0
    failures: int = 0


class Evaluation:
    """Evaluates the rows of a batch in tasks.

    Args:
        batch: the rows and their function.
        pool: where tasks run.
        execution: the options.
        counts: is counted up.
        chunk_size: the most rows of a task.
        may_skip: whether rows may stay without value; if not, they are tried again as if with "retry".

    """

    def __init__(
        self, batch: Batch, pool: Pool, execution: Execution, counts: Counts, chunk_size: int, may_skip: bool
    ) -> None:
        self._batch, self._pool, self._execution, self._counts = batch, pool, execution, counts
        self._chunk_size = chunk_size
        self._skips = execution.on_error == "skip" and may_skip
        self._retries = 0 if self._skips else execution.retries
        self._courier = Courier(batch.fn, batch.interface, batch.arguments_of)
        self._parts: list[tuple[Index, Outputs]] = []
        self.lost: dict[int, Cause] = {}

    def run(self) -> Outputs:
        """Return the outputs of all rows; those of rows that were skipped are NaN."""
        self._queue = deque(tasks(np.arange(self._batch.num_rows), self._chunk_size))
        with closing(self._pool.run(self._queue, self._pack, self._execution.timeout)) as answers:
            for task, answer in answers:
                self._take(task, answer)
        if self.lost:
            self._require_success()
        return Outputs.assemble(self._parts, self._batch.num_rows)

    def _pack(self, task: Task) -> Any:
        self._counts.evaluations += len(task.index)
        return self._call(task) if self._pool.in_process else self._courier.pack(task.index)

    def _call(self, task: Task) -> Callable[[], Any]:
        args, kwargs = self._batch.arguments_of(task.index, self._batch.hand)

        def call() -> Any:
            try:
                with torch.no_grad():  # which a thread does not inherit
                    return self._batch.fn(*args, **kwargs)
            except Exception as error:
                return Raised(error)

        return call

    def _take(self, task: Task, answer: Answer) -> None:
        """Keep the values of a task, or see to it that its rows are evaluated again or counted as lost."""
        if isinstance(answer, Lost):
            if answer.why == "death" and not task.died:  # may have been of another's doing
                self._queue.append(replace(task, died=True))
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

    def _fail(self, task: Task, cause: Cause) -> None:
        """Raise, look for the row that failed, try it again, or give it up."""
        fatal = self._execution.on_error == "raise"
        if not fatal and len(task.index) > 1:
            self._queue.extend(task.halves())
            return
        self._counts.failures += 1
        if not fatal and task.attempt < self._retries:
            self._queue.append(replace(task, attempt=task.attempt + 1))
        elif self._skips:
            self.lost[int(task.index[0])] = cause
        else:
            raise self._batch.error(cause, task.index, self._execution.timeout)

    def _require_success(self) -> None:
        """Require ``min_success`` of the evaluations that belong to each input, and any at all."""
        B, R = self._batch.call.num_rows, self._batch.num_rows
        lost = np.bincount(np.array(list(self.lost)) % B, minlength=B)  # (B,)
        total = np.bincount(np.arange(R) % B, minlength=B)  # (B,)
        worst = int(np.argmax(lost / total))
        fraction = 1 - lost[worst] / total[worst]
        least = self._execution.min_success
        if fraction >= least and self._parts:
            return
        reason = commonest(list(self.lost.values()), self._execution.timeout)
        raise TooManyFailuresError(
            f"of the {total[worst]} evaluations of {name_of(self._batch.fn)} around row {worst}, "
            f"{total[worst] - lost[worst]} succeeded, a fraction of {fraction:.2f}, and min_success={least} are "
            f"needed; most often it {reason}. Keep probes in its domain (bounds=, a smaller sigma), let it return a "
            "penalty there, or lower min_success"
        )
