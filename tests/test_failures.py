"""What a failed evaluation means: an error, another attempt, or an estimate without it."""

from __future__ import annotations

import pickle
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import black_boxes
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad
from ndgrad.execution.dependence import Dependence
from ndgrad.execution.executors import make_pool
from ndgrad.testing import assert_mean

n = 3


@pytest.fixture(scope="module", autouse=True)
def workers() -> Iterator[None]:
    """Keep the worker processes from test to test."""
    pools = make_pool(1), make_pool(2)
    yield
    for pool in pools:
        pool.close()


def rows(*first: float) -> Tensor:
    x = torch.linspace(-1, 1, len(first) * n, dtype=torch.float64).reshape(-1, n)
    x[:, 0] = torch.tensor(first, dtype=torch.float64)
    return x


def value(fn: Any, x: Tensor, *args: Any, **options: Any) -> tuple[Tensor, ndgrad.BlackBox]:
    box = ndgrad.wrap(fn, interface="numpy", **options)
    return box(x, *args), box


# -- raise


@pytest.mark.parametrize("executor", [None, 2])
def test_raising_names_the_row_and_carries_its_input(executor: int | None) -> None:
    with pytest.raises(
        ndgrad.FunctionError, match=r"raised DomainError: out of domain\n.*row 2 as fn"
    ) as caught:
        value(black_boxes.below_two, rows(0, 1, 5, 0), executor=executor, chunk_size=1)
    assert isinstance(caught.value.__cause__, black_boxes.DomainError)
    assert_close(torch.as_tensor(caught.value.inputs[0]), rows(0, 1, 5, 0)[2:3])
    if executor:
        assert "black_boxes.py" in caught.value.__cause__.__notes__[0]
    with pytest.raises(ndgrad.NonFiniteError, match="row 1;") as not_finite:
        value(black_boxes.below_two, rows(0, -5, 1), executor=executor, chunk_size=2)
    assert_close(not_finite.value.inputs[0], rows(0, -5, 1)[1])
    with pytest.raises(ndgrad.FunctionError, match=r"on rows 0 to 1 \(the batch has 4\)"):
        value(black_boxes.below_two, rows(0, 5, 0, 0), executor=executor, chunk_size=2)


def test_an_error_that_cannot_be_unpickled_is_described() -> None:
    with pytest.raises(ndgrad.FunctionError, match="OddError: 1 and 2") as caught:
        value(black_boxes.odd, rows(0), executor=1)
    assert "black_boxes.py" in caught.value.__cause__.__notes__[0]
    with pytest.raises(ndgrad.FunctionError, match="raised SystemExit: 3"):
        value(black_boxes.leave, rows(0), executor=1)


def test_a_wrong_shape_is_no_failure_but_a_mistake() -> None:
    with pytest.raises(ndgrad.OutputError, match="must return 4 rows"):
        value(lambda x: x[:1], rows(0, 0, 0, 0), on_error="retry")
    with pytest.raises(ndgrad.OutputTypeError, match="empty dict"):
        value(lambda x: {}, rows(0), executor=2, on_error="retry")


def test_errors_survive_pickling() -> None:
    for cls in (ndgrad.EvaluationTimeoutError, ndgrad.WorkerDiedError, ndgrad.BudgetExceededError):
        back = pickle.loads(pickle.dumps(cls("message")))
        assert isinstance(back, cls)
        assert isinstance(cls.__new__(cls, "message"), cls)  # as an unpickler may make it
        assert str(back) == "message"
    assert pickle.loads(pickle.dumps(ndgrad.EvaluationTimeoutError("message", (1,)))).inputs == (1,)
    assert issubclass(ndgrad.EvaluationTimeoutError, TimeoutError)


# -- retry


@pytest.mark.parametrize("executor", [None, 2])
def test_a_row_is_found_by_halving_and_tried_again(executor: int | None, tmp_path: Path) -> None:
    x = rows(0, 1, 5, 0, 0, 9, 1, 1)
    points = {"batched": False, "vectorize": True}
    fn = _point(black_boxes.failing_at_first)
    y, box = value(fn, x, str(tmp_path), executor=executor, on_error="retry", retries=1, **points)
    assert_close(y, x.sum(1))
    assert (box.num_failures, box.num_evaluations) == (2, 8 + 2)
    tries: list[int] = []

    def fn_of_rows(x: Any) -> Any:
        tries.append(len(x))
        if (x[:, 0] > 2).any() and len(tries) < 6:
            raise black_boxes.DomainError
        return x.sum(1)

    y, box = value(fn_of_rows, rows(0, 1, 5, 0, 0, 0, 1, 1), on_error="retry")
    assert tries == [8, 4, 4, 2, 2, 1, 1]  # the sixth call is row 2 by itself, and succeeds
    assert_close(y, rows(0, 1, 5, 0, 0, 0, 1, 1).sum(1))
    assert (box.num_failures, box.num_evaluations) == (0, 22)


def _point(fn: Any) -> Any:
    return lambda x, *args: fn(x[None], *args)[0]


def test_retries_come_to_an_end() -> None:
    calls: list[int] = []

    def fn(x: Any) -> Any:
        calls.append(len(x))
        return np.where(x[:, 0] > 2, np.inf, x[:, 0])

    with pytest.raises(ndgrad.NonFiniteError, match="row 1"):
        value(fn, rows(0, 5, 1), on_error="retry", retries=3)
    assert calls == [3, 1, 1, 1]
    calls.clear()
    with pytest.raises(ndgrad.NonFiniteError):
        value(fn, rows(0, 5, 1), on_error="retry", retries=0)
    assert calls == [3]


# -- time and death


@pytest.mark.parametrize("executor", [1, 2])
def test_what_hangs_is_stopped_and_its_worker_replaced(executor: int) -> None:
    with pytest.raises(ndgrad.EvaluationTimeoutError, match=r"took longer than timeout=0.3 s\n.*row 1 as"):
        value(black_boxes.slow_above_two, rows(0, 5, 1), executor=executor, timeout=0.3, chunk_size=1)
    y, _ = value(black_boxes.slow_above_two, rows(0, 1), executor=executor, timeout=20.0)
    assert_close(y, rows(0, 1).sum(1))


def slow(x: Any) -> Any:
    time.sleep(1.0)
    return x[:, 0]


def test_a_call_of_many_rows_has_as_many_times_the_time() -> None:
    y, _ = value(slow, rows(0, 1, 2), executor=1, timeout=0.6, chunk_size=3)
    assert_close(y, rows(0, 1, 2)[:, 0])
    with ThreadPoolExecutor(1) as executor:
        y, _ = value(slow, rows(0, 1, 2), executor=executor, timeout=0.6, chunk_size=3)
    assert_close(y, rows(0, 1, 2)[:, 0])


def test_a_worker_that_dies_once_costs_nothing_but_time(tmp_path: Path) -> None:
    x = rows(0, 5, 1, 0)
    y, box = value(black_boxes.deadly_at_first, x, str(tmp_path), executor=2, chunk_size=1)
    assert_close(y, x.sum(1))
    assert (box.num_failures, box.num_evaluations) == (0, 5)


def test_rows_that_kill_twice_are_narrowed_down() -> None:
    with pytest.raises(ndgrad.WorkerDiedError, match=r"killed its worker process\n.*rows 0 to 3"):
        value(black_boxes.deadly_above_two, rows(0, 5, 1, 0), executor=1, chunk_size=4)
    with pytest.raises(ndgrad.WorkerDiedError, match=r"row 1 as"):
        value(
            black_boxes.deadly_above_two,
            rows(0, 5, 1, 0),
            executor=1,
            chunk_size=4,
            on_error="retry",
            retries=0,
        )


def test_a_worker_that_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    from ndgrad.execution import worker

    monkeypatch.setattr(worker, "prepare", black_boxes.leave)
    with pytest.raises(ndgrad.ExecutorError, match="could not be started"):
        value(black_boxes.steps, rows(0), executor=3)


def test_a_worker_that_was_replaced_behind_our_back_is_sent_the_function_again() -> None:
    box = ndgrad.wrap(black_boxes.steps, executor=1)
    x = rows(0, 1)
    expected = box(x)
    (w,) = box._evaluator.means.pool._workers
    w._executor.submit(_forget).result()
    assert torch.equal(box(x), expected)
    assert box.num_evaluations == 4


def _forget() -> None:
    import sys

    sys.modules.pop("_ndgrad_worker")


def test_time_on_threads_is_given_up_but_not_stopped() -> None:
    release = Event()

    def fn(x: Any) -> Any:
        if x[0, 0] > 2:
            release.wait(60)
        return x.sum(1)

    with ThreadPoolExecutor(2) as executor:
        options: dict[str, Any] = {"executor": executor, "timeout": 0.2, "chunk_size": 1}
        with pytest.raises(ndgrad.EvaluationTimeoutError, match="row 1"):
            value(fn, rows(0, 5, 1), **options)
        release.set()
        release.clear()
        with pytest.raises(ndgrad.ExecutorError, match="all workers of the executor are taken"):
            value(fn, rows(5, 6, 7), on_error="retry", **options)
        release.set()


def test_executors_that_do_not_say_what_runs_are_given_up_when_nothing_finishes() -> None:
    with pytest.raises(ndgrad.EvaluationTimeoutError):
        value(black_boxes.steps, rows(0), executor=Silent(), timeout=0.1)


class Silent(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


class Dying(Executor):
    """Loses some calls, as Dask does when a worker is killed again and again."""

    def __init__(self, error: Exception, every: int) -> None:
        self.error, self.every, self.calls = error, every, 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        future: Future[Any] = Future()
        if self.calls % self.every == 0:
            future.set_exception(self.error)
        else:
            future.set_result(fn(*args))
        return future


@pytest.mark.parametrize("error", [BrokenExecutor("gone"), type("KilledWorker", (Exception,), {})("gone")])
def test_deaths_on_an_executor_of_the_users(error: Exception) -> None:
    y, box = value(black_boxes.steps, rows(0, 1, 2), executor=Dying(error, 3), chunk_size=1)
    assert torch.equal(y, torch.from_numpy(black_boxes.steps(rows(0, 1, 2).numpy())))
    assert (box.num_failures, box.num_evaluations) == (0, 4)
    with pytest.raises(ndgrad.WorkerDiedError, match="gone"):
        value(black_boxes.steps, rows(0), executor=Dying(error, 1))


def test_timeout_needs_a_process() -> None:
    with pytest.raises(ValueError, match=r"timeout needs a process.*executor=1"):
        ndgrad.wrap(np.sin, timeout=1.0)


@pytest.mark.parametrize(
    ("option", "wrong"),
    [("on_error", "ignore"), ("retries", -1), ("timeout", 0), ("min_success", 1.5), ("min_success", "all")],
)
def test_options_out_of_range(option: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=option):
        ndgrad.wrap(np.sin, executor=2, **{option: wrong})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 5}, "retries=5.*type on_error='retry'"),
        ({"min_success": 0.9}, "min_success=0.9.*on_error='raise' skips none"),
        ({"min_success": 0.9, "on_error": "retry"}, "min_success=0.9.*on_error='retry' skips none"),
    ],
)
def test_options_without_effect_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ndgrad.wrap(np.sin, **options)


# -- skip


def noisy_domain(fraction: float, seed: int = 0) -> Any:
    """A linear function that fails at random, but not at the input itself."""
    generator = np.random.default_rng(seed)

    def fn(x: Any) -> Any:
        y = x @ np.array([[2.0, 0.3], [-1.0, 0.7], [0.5, -1.1]])
        lost = generator.random(len(x)) < fraction
        lost &= (x != 0).any(1) & (len(x) > 2)
        return np.where(lost[:, None], np.nan, y)

    return fn


def test_an_estimator_that_is_put_in_later_gets_every_evaluation_it_needs() -> None:
    box = ndgrad.wrap(noisy_domain(0.3), interface="numpy", on_error="skip", retries=50)
    box.estimator = ndgrad.FiniteDifference()
    x = rows(0.2, 1.0, -0.7).requires_grad_()
    v = torch.tensor([[1.7, -0.6], [0.4, 2.0], [-1.0, 0.3]], dtype=torch.float64)
    box(x).backward(v)
    weight = torch.tensor([[2.0, 0.3], [-1.0, 0.7], [0.5, -1.1]], dtype=torch.float64)
    assert_close(x.grad, v @ weight.T, rtol=1e-6, atol=1e-6)
    assert box.num_failures > 0


@pytest.mark.parametrize("on_error", ["retry", "skip"])
def test_a_budget_that_ends_while_failures_are_repeated_shows_them(on_error: str) -> None:
    with pytest.raises(ndgrad.BudgetExceededError) as caught:
        value(black_boxes.below_two, rows(0, 5, 0), budget=4, on_error=on_error)
    assert isinstance(caught.value.__cause__, ndgrad.FunctionError)
    assert isinstance(caught.value.__cause__.__cause__, black_boxes.DomainError)


@pytest.mark.parametrize("antithetic", [True, False])
def test_an_estimate_without_the_failures_is_unbiased(antithetic: bool) -> None:
    torch.manual_seed(0)
    x = torch.zeros(4000, n, dtype=torch.float64, requires_grad=True)
    estimator = ndgrad.EvolutionStrategy(6, 0.3, antithetic=antithetic, directions="gaussian")
    box = ndgrad.wrap(noisy_domain(0.1), estimator=estimator, on_error="skip", min_success=0.0)
    y = box(x)
    v = torch.tensor([1.7, -0.6], dtype=torch.float64)
    y.backward(v.expand(4000, 2))
    matrix = torch.tensor([[2.0, 0.3], [-1.0, 0.7], [0.5, -1.1]], dtype=torch.float64)
    assert_mean(x.grad, matrix @ v, "mean without the failures")
    probes = 4000 * 6 * (1 + antithetic)
    assert box.num_evaluations == 4000 + probes
    assert abs(box.num_failures - 0.1 * probes) < 5 * (0.09 * probes) ** 0.5


def test_the_value_cannot_be_skipped_but_is_tried_again() -> None:
    calls: list[int] = []

    def fn(x: Any) -> Any:
        calls.append(len(x))
        bad = (x[:, 0] > 2) & (len(calls) < 3)
        return np.where(bad, np.nan, x[:, 0])

    x = rows(0, 5)
    y, box = value(fn, x, on_error="skip")
    assert_close(y, x[:, 0])
    assert (calls, box.num_failures) == ([2, 1, 1], 2)
    calls.clear()
    with pytest.raises(ndgrad.NonFiniteError, match="row 1"):
        value(fn, x, on_error="skip", retries=1)


def test_a_value_that_is_a_mean_is_that_of_the_draws_that_remain() -> None:
    generator = np.random.default_rng(0)

    def fn(x: Any) -> Any:
        return np.where(generator.random(len(x)) < 0.2, np.nan, x[:, 0])

    torch.manual_seed(0)
    box = ndgrad.wrap(fn, estimator=ndgrad.PerturbedOptimizer(50, 0.1), on_error="skip", interface="numpy")
    y = box(rows(0, 1, 2))
    assert_close(y, rows(0, 1, 2)[:, 0], atol=0.1, rtol=0)
    assert 10 < box.num_failures < 60
    assert box.num_evaluations == 150  # none of the draws was made again


def test_too_few_that_succeed_are_refused() -> None:
    def fn(x: Any) -> Any:
        first = len(x) == 2
        lost = (np.arange(len(x)) % 2 == 1) & (np.arange(len(x)) % 10 != 1)  # of row 1, 4 of 5 probes
        return np.where(lost & (not first), np.nan, x[:, 0])

    def loss(**options: Any) -> Tensor:
        x = rows(0, 1).requires_grad_()
        estimator = ndgrad.EvolutionStrategy(10, 0.1, antithetic=False)
        box = ndgrad.wrap(fn, estimator=estimator, interface="numpy", on_error="skip", **options)
        box(x).sum().backward()
        assert box.num_failures == 8
        return x.grad

    message = r"of the 10 evaluations of .*fn around row 1, 2 succeeded, a fraction of 0.20.*most often it returned NaN"
    with pytest.raises(ndgrad.TooManyFailuresError, match=message):
        loss()
    with pytest.raises(ndgrad.TooManyFailuresError, match=r"min_success=0\.21"):
        loss(min_success=0.21)
    assert loss(min_success=0.2).isfinite().all()


def test_a_row_fails_if_any_of_its_outputs_does() -> None:
    def fn(x: Any) -> Any:
        bad = (np.arange(len(x)) % 5 == 1) & (len(x) > 2)
        return x[:, 0], np.where(bad[:, None], np.inf, x)

    estimator = ndgrad.EvolutionStrategy(10, 0.1, antithetic=False)
    box = ndgrad.wrap(fn, estimator=estimator, interface="numpy", on_error="skip")
    x = rows(0, 1).requires_grad_()
    first, second = box(x)
    (first.sum() + second.sum()).backward()
    assert x.grad.isfinite().all()
    assert box.num_failures == 4


def test_all_failed_is_an_error_whatever_the_least_fraction() -> None:
    def fn(x: Any) -> Any:
        return x[:, 0] if len(x) == 2 else x[:, 0] * np.nan

    box = ndgrad.wrap(fn, interface="numpy", on_error="skip", min_success=0)
    with pytest.raises(ndgrad.TooManyFailuresError, match=r"0 succeeded"):
        box(rows(0, 1).requires_grad_()).sum().backward()


def test_estimators_that_need_every_probe_refuse_to_skip() -> None:
    message = r"FiniteDifference needs every one; type on_error='retry'.*EvolutionStrategy"
    with pytest.raises(ValueError, match=message):
        ndgrad.wrap(np.sin, estimator="finite_difference", on_error="skip")
    with pytest.raises(ValueError, match=message):
        ndgrad.wrap(np.sin, estimator=ndgrad.Averaged(ndgrad.FiniteDifference(), 2), on_error="skip")


# -- failures that depend on the draw


def gradients(fn: Any, calls: int = 3, **options: Any) -> ndgrad.BlackBox:
    torch.manual_seed(0)
    box = ndgrad.wrap(
        fn,
        estimator=ndgrad.EvolutionStrategy(40, 0.3, directions="gaussian"),
        on_error="skip",
        interface="numpy",
        min_success=0.1,
        **options,
    )
    for _ in range(calls):
        box(rows(0, 0.1).requires_grad_()).sum().backward()
    return box


def test_failures_on_one_side_are_warned_of_once() -> None:
    def fn(x: Any) -> Any:
        return np.where(x[:, 0] > 0.5, np.nan, x.sum(1))

    with pytest.warns(ndgrad.DependentFailureWarning, match="on one side of the inputs") as caught:
        gradients(fn)
    assert len(caught) == 1


@pytest.mark.parametrize("far", [True, False])
def test_failures_at_a_distance_are_warned_of(far: bool) -> None:
    x = rows(0, 0.1).numpy()

    def fn(z: Any) -> Any:
        if len(z) == 2:
            return z.sum(1)
        radius = np.linalg.norm(z - np.tile(x, (len(z) // 2, 1)), axis=1)
        return np.where((radius > 0.7) if far else (radius < 0.3), np.nan, z.sum(1))

    with pytest.warns(ndgrad.DependentFailureWarning, match="far from" if far else "close to"):
        gradients(fn, calls=6)


def test_failures_by_chance_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(5):
            box = gradients(noisy_domain(0.2, seed), calls=20)
            dependence = box._evaluator.means.dependence
            assert dependence.failures > 300
            assert abs(dependence.z_radius) < 4


def test_the_statistics_are_standard_normal_under_chance() -> None:
    z = []
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        dependence = Dependence()
        x = torch.tensor([[3.0, -2.0], [0.5, 8.0]])
        for _ in range(3):
            noise = 0.7 + torch.randn(60, 2, generator=generator)  # one-sided draws are no failure
            probes = x.repeat(30, 1) + torch.tensor([0.1, 7.0]) * noise
            lost = torch.randperm(60, generator=generator)[:25].tolist()
            dependence.observe((x,), (probes,), lost)
        z.append([dependence.z_direction, dependence.z_radius])
    sampled = torch.tensor(z)
    assert_mean(sampled, 0.0, "under chance")
    assert ((sampled.std(0) - 1).abs() < 0.15).all()


def test_displacements_are_those_from_each_probes_own_input() -> None:
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[30.0, -20.0], [5.0, 80.0]])
    dependence = Dependence()
    with pytest.warns(ndgrad.DependentFailureWarning, match="on one side"):
        dependence.observe((x,), (x.repeat(100, 1) + noise,), (noise[:, 0] > 1).nonzero()[:, 0].tolist())
    assert dependence.z_direction > 5


def test_directions_of_one_length_say_nothing_about_the_radius() -> None:
    dependence = Dependence()
    probes = torch.tensor([[0.1], [-0.1]]).repeat(30, 1)
    dependence.observe((torch.zeros(2, 1),), (probes,), [0, 3, 8])
    assert (dependence.failures, dependence.z_radius) == (3, 0.0)
    assert abs(dependence.z_direction) < 2


def test_draws_without_displacement_are_left_out() -> None:
    dependence = Dependence()
    dependence.observe((torch.zeros(2, 3),), (torch.zeros(4, 5),), [1])
    assert (dependence.failures, dependence.z_direction, dependence.z_radius) == (0, 0.0, 0.0)
