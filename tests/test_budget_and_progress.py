"""Limits on the number of evaluations, and reports on how far they are."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import black_boxes
import numpy as np
import pytest
import torch
from torch import Tensor

import ndgrad
from ndgrad.execution.budget import Counts

n = 3


class Refusing(Executor):
    """Takes no work."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise RuntimeError("closed")


def rows(count: int = 4) -> Tensor:
    return torch.linspace(-1, 1.5, count * n, dtype=torch.float64).reshape(count, n).requires_grad_()


def test_a_budget_stops_before_it_is_overspent() -> None:
    calls: list[int] = []

    def fn(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.sum(1)

    box = ndgrad.wrap(fn, estimator=ndgrad.FiniteDifference(eps=0.1), budget=4 + 24 + 4 + 11)
    box(rows()).sum().backward()
    y = box(rows())
    message = (
        r"12 evaluations were asked for, but of budget=43 32 are spent or under way, which leaves 11; none of"
    )
    with pytest.raises(ndgrad.BudgetExceededError, match=message) as caught:
        y.sum().backward()
    assert (caught.value.budget, caught.value.spent, caught.value.asked) == (43, 32, 12)
    assert isinstance(caught.value, RuntimeError)
    assert sum(calls) == box.num_evaluations == 32
    box(rows(11).detach())
    assert box.num_evaluations == 43
    with pytest.raises(ndgrad.BudgetExceededError, match="leaves 0"):
        box(rows(1).detach())


def test_an_evaluation_in_chunks_is_begun_as_a_whole_or_not_at_all() -> None:
    box = ndgrad.wrap(np.sin, budget=7, chunk_size=2)
    with pytest.raises(
        ndgrad.BudgetExceededError, match="8 evaluations were asked for, but of budget=7 0 are spent"
    ):
        box(rows(8).detach())
    assert box.num_evaluations == 0
    box(rows(7).detach())


def test_repetitions_are_paid_and_the_cache_is_free() -> None:
    def fn(x: Any) -> Any:
        return np.where(x[:, 0] > 0, np.nan, x[:, 0])

    box = ndgrad.wrap(fn, on_error="retry", retries=5, budget=7, interface="numpy")
    with pytest.raises(
        ndgrad.BudgetExceededError,
        match="1 evaluations were asked for, but of budget=7 7 are spent or under way",
    ):
        box(rows().detach())
    assert box.num_evaluations == 6  # the seventh was put aside for the other row
    cached = ndgrad.wrap(black_boxes.steps, budget=4, cache="memory")
    for _ in range(3):
        cached(rows().detach())
    assert (cached.num_evaluations, cached.num_cached) == (4, 8)


def test_what_an_error_left_unevaluated_is_given_back() -> None:
    def fn(x: Tensor) -> Tensor:
        if len(fn.__dict__.setdefault("calls", [])) == 1:
            fn.__dict__["calls"].append(0)
            raise ValueError("second call")
        fn.__dict__["calls"].append(0)
        return x

    box = ndgrad.wrap(fn, budget=6, chunk_size=1)
    with pytest.raises(ndgrad.FunctionError):
        box(rows().detach())
    assert box.num_evaluations == 2
    box(rows().detach())
    assert box.num_evaluations == 6


def test_evaluations_that_were_handed_over_and_never_begun_are_given_back() -> None:
    def fn(x: Tensor) -> Tensor:
        time.sleep(0.02)
        raise ValueError("the first row")

    with ThreadPoolExecutor(1) as executor:
        box = ndgrad.wrap(fn, executor=executor, chunk_size=1, budget=40)
        for _ in range(3):  # the budget is that of what was called
            with pytest.raises(ndgrad.FunctionError):
                box(torch.zeros(30, 2))
    assert box.num_evaluations <= 3 * 3


@pytest.mark.parametrize("executor", [2, Refusing()])
def test_what_cannot_be_packed_or_handed_over_is_not_spent(executor: Any) -> None:
    lock = threading.Lock() if executor == 2 else None
    box = ndgrad.wrap(lambda x: x * (lock is None), executor=executor, budget=40)
    for _ in range(3):
        with pytest.raises(ndgrad.ExecutorError):
            box(torch.zeros(30, 2))
    assert box.num_evaluations == 0


def test_counts_survive_copies_and_pickles() -> None:
    box = ndgrad.wrap(black_boxes.steps, budget=9)
    box(rows().detach())
    for other in (copy.deepcopy(box), pickle.loads(pickle.dumps(box))):
        other(rows().detach())
        assert other.num_evaluations == 8
        with pytest.raises(ndgrad.BudgetExceededError):
            other(rows().detach())
    assert box.num_evaluations == 4


def test_concurrent_reservations_never_exceed_the_budget() -> None:
    counts = Counts(budget=1000)

    def spend(_: int) -> int:
        try:
            counts.reserve(7)
        except ndgrad.BudgetExceededError:
            return 0
        counts.spend(7)
        return 7

    with ThreadPoolExecutor(8) as executor:
        spent = sum(executor.map(spend, range(400)))
    assert spent == counts.evaluations == 994


@pytest.mark.parametrize("budget", [0, 1.5, True])
def test_a_budget_is_a_positive_number(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget must be an integer >= 1"):
        ndgrad.wrap(np.sin, budget=budget)


def test_progress_is_reported_after_every_call() -> None:
    reports: list[Any] = []

    def fn(x: Any) -> Any:
        first = len(reports) == 0
        return np.where((np.arange(len(x)) == 1) & (not first), np.nan, x[:, 0])

    box = ndgrad.wrap(
        fn,
        estimator=ndgrad.EvolutionStrategy(5, 0.1, antithetic=False),
        interface="numpy",
        on_error="skip",
        min_success=0.3,
        chunk_size=8,
        progress=reports.append,
    )
    box(rows()).sum().backward()
    assert [(r.done, r.failed, r.total) for r in reports] == [(4, 0, 4), (8, 1, 20), (16, 2, 20), (20, 3, 20)]
    done, failed, total, rate, seconds_left = reports[1]
    assert rate > 0
    assert seconds_left == pytest.approx((total - done) / rate)
    assert reports[-1].seconds_left == 0
    assert failed == 1


def test_before_anything_is_done_the_time_left_is_unknown() -> None:
    reports: list[Any] = []
    calls: list[int] = []

    def fn(x: Any) -> Any:
        calls.append(len(x))
        return x[:, 0] * (np.nan if len(calls) == 1 else 1.0)

    ndgrad.wrap(fn, on_error="retry", progress=reports.append, interface="numpy")(rows().detach())
    assert (reports[0].done, reports[0].seconds_left) == (0, float("inf"))


def test_a_bar_is_drawn_and_taken_away(capsys: pytest.CaptureFixture[str]) -> None:
    box = ndgrad.wrap(black_boxes.steps, progress=True, chunk_size=1)
    box(rows().detach())
    assert "Progress" not in repr(capsys.readouterr().err)


def test_the_bars_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r"pip install 'ndgrad\[parallel\]'.*progress=print"):
        ndgrad.wrap(np.sin, progress=True)
    with pytest.raises(TypeError, match="progress must be True or a function"):
        ndgrad.wrap(np.sin, progress=3)  # type: ignore[call-overload]
