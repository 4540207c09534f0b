"""Compute cells one after another, or in worker processes, until they are done or time is up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

import torch

from applications.lv_dp.experiments.cells import Cell, Store, Watch, unwatched
from applications.lv_dp.experiments.claim import BusyError

POLL = 2.0  # seconds between looks at cells that another process computes

Started = Callable[[Cell], Watch]
Done = Callable[[Cell], None]


@dataclass(frozen=True)
class Plan:
    """How to work.

    Attributes:
        jobs: processes; with 1 everything happens in this one.
        stop: ``time.time()`` after which no cell is begun.
        threads: of torch, in each worker process.
    """

    jobs: int = 1
    stop: float = float("inf")
    threads: int = 1

    @property
    def late(self) -> bool:
        """Whether time is up."""
        return time.time() >= self.stop


def unreported(cell: Cell) -> Watch:
    """Report nothing of a cell."""
    return unwatched


def unannounced(cell: Cell) -> None:
    """Report nothing of a cell's end."""


def compute(
    cells: Iterable[Cell],
    store: Store,
    plan: Plan,
    started: Started = unreported,
    done: Done = unannounced,
) -> None:
    """Compute every cell that has no result yet; cells of another process are waited for.

    Args:
        cells: in the order of their importance.
        store: where results are and go.
        plan: processes and time.
        started: called when a cell begins in this process; what it returns is told of the cell's steps.
        done: called for every cell that has come to its end here.
    """
    pending = [cell for cell in unique(cells) if store.read(cell) is None]
    while pending and not plan.late:
        finished = set()
        for cell in (_here if plan.jobs == 1 else _in_processes)(pending, store, plan, started):
            finished.add(cell.key)
            done(cell)
        pending = [cell for cell in pending if cell.key not in finished]
        if pending and not finished:
            time.sleep(max(0.0, min(POLL, plan.stop - time.time())))


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells without repetitions, in order."""
    return list({cell.key: cell for cell in cells}.values())


def _here(cells: Sequence[Cell], store: Store, plan: Plan, started: Started) -> Iterator[Cell]:
    for cell in cells:
        if attempt(cell, store, plan.stop, started(cell)):
            yield cell


def _in_processes(cells: Sequence[Cell], store: Store, plan: Plan, started: Started) -> Iterator[Cell]:
    pool = ProcessPoolExecutor(
        plan.jobs, get_context("spawn"), initializer=_prepare_worker, initargs=(plan.threads,)
    )
    try:
        futures = {pool.submit(attempt, cell, store, plan.stop): cell for cell in cells}
        for future in as_completed(futures):
            if future.result():
                yield futures[future]
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_worker(threads: int) -> None:
    """Set torch's threads, and end with the process that began this one, whatever ended it."""
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    parent.join()
    # not sys.exit, which would end this thread only; checkpoints are replaced as a whole and are never torn
    os._exit(1)


def attempt(cell: Cell, store: Store, stop: float, watch: Watch = unwatched) -> bool:
    """Compute a cell unless time is up or another process has it; return whether its result is there."""
    if time.time() >= stop:
        return False
    try:
        store.obtain(cell, watch)
    except BusyError:
        return False
    return True
