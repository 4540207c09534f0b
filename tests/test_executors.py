"""Executors: the same numbers wherever rows are evaluated, in whatever chunks, by however many workers."""

from __future__ import annotations

import copy
import gc
import importlib.util
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import black_boxes
import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import ndgrad
from ndgrad.execution import worker
from ndgrad.execution.executors import _Clock, make_pool
from ndgrad.execution.loky_pool import Owned, owned
from ndgrad.execution.parcels import Courier, unpack
from ndgrad.execution.tasks import Task

B, n, S = 5, 3, 4


@pytest.fixture(scope="module", autouse=True)
def workers() -> Iterator[None]:
    """Keep the worker processes from test to test."""
    pools = make_pool(1), make_pool(2)
    yield
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


def rows(rows: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, n, dtype=torch.float64, generator=generator).requires_grad_()


def gradient(fn: Any, x: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor, ndgrad.BlackBox]:
    """Value and gradient, always with the same noise."""
    keywords = options.pop("keywords", {})
    torch.manual_seed(3)
    estimator = ndgrad.EvolutionStrategy(S, 0.3, antithetic=False)
    box = ndgrad.wrap(fn, estimator=estimator, **options)
    y = box(x, *args, **keywords)
    v = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
    return y.detach(), torch.autograd.grad(y, x, v)[0], box


def assert_same(fn: Any, *args: Any, executor: Any, **options: Any) -> ndgrad.BlackBox:
    x = rows()
    value, grad, serial = gradient(fn, x, *args, **options)
    value_there, grad_there, box = gradient(fn, x, *args, executor=executor, **options)
    assert grad.abs().sum() > 0
    assert torch.equal(value_there, value)
    assert torch.equal(grad_there, grad)
    assert box.num_evaluations == serial.num_evaluations == B * (1 + S)
    return box


@pytest.mark.parametrize("chunk_size", [1, 7])
@pytest.mark.parametrize("where", ["processes", "threads"])
def test_results_are_those_of_the_same_chunks_here_to_the_bit(
    where: str, chunk_size: int, threads: Executor
) -> None:
    executor = 2 if where == "processes" else threads
    assert_same(black_boxes.steps, executor=executor, chunk_size=chunk_size)


def test_the_number_of_workers_does_not_matter() -> None:
    x = rows()
    value, grad, _ = gradient(black_boxes.steps, x, executor=2)
    other_value, other_grad, _ = gradient(black_boxes.steps, x, executor=1)
    assert torch.equal(value, other_value)
    assert torch.equal(grad, other_grad)


def test_finite_differences_and_bypass_samples_are_parallel_too() -> None:
    for make in (
        lambda: ndgrad.FiniteDifference(eps=0.5),
        lambda: ndgrad.DiffBypass(sigma=0.3, num_samples=S, fit_steps=2),
    ):
        grads = []
        for executor in (None, 2):
            torch.manual_seed(1)
            x = rows()
            ndgrad.wrap(black_boxes.steps, estimator=make(), executor=executor, chunk_size=3)(
                x
            ).sum().backward()
            grads.append(x.grad)
        assert torch.equal(grads[0], grads[1])


@pytest.mark.parametrize("where", ["processes", "threads"])
def test_every_kind_of_argument(where: str, threads: Executor) -> None:
    executor = 2 if where == "processes" else threads
    table, targets = torch.ones(n, 2, dtype=torch.float64), np.arange(B * 2.0).reshape(B, 2)
    keywords = {"scale": 1.5, "name": "a name"}
    in_dims = {"targets": 0}
    assert_same(
        black_boxes.with_table,
        table,
        targets,
        executor=executor,
        keywords=keywords,
        in_dims=in_dims,
        interface="numpy",
    )
    assert_same(black_boxes.as_python, executor=executor, interface="python")
    assert_same(black_boxes.in_place, executor=executor, interface="numpy")


@pytest.mark.parametrize("where", ["processes", "threads"])
def test_points_and_containers(where: str, threads: Executor) -> None:
    executor = 2 if where == "processes" else threads
    box = ndgrad.wrap(
        black_boxes.point,
        estimator=ndgrad.FiniteDifference(eps=0.1),
        batched=False,
        vectorize=True,
        executor=executor,
    )
    x = rows()
    out = box(x)
    assert_close(out["a"].detach(), x.detach().sin())
    assert_close(out["b"].detach(), x.detach().sum(1))
    single = ndgrad.wrap(black_boxes.point, batched=False, executor=executor)
    assert single(x[0])["b"].shape == ()
    empty = ndgrad.wrap(black_boxes.steps, executor=executor)
    assert empty(torch.zeros(0, n, dtype=torch.float64)).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_tensors_travel_with_their_dtypes(dtype: torch.dtype) -> None:
    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(x, torch.Tensor)
        assert not x.requires_grad
        return x.round().to(dtype), (x * x.new_ones(())).sum(1)

    x = rows()
    here, there = (ndgrad.wrap(fn, executor=executor)(x) for executor in (None, 1))
    for value, expected in zip(there, here, strict=True):
        assert torch.equal(value, expected)
        assert value.dtype == expected.dtype


def test_lambdas_closures_and_modules_are_carried() -> None:
    factor = 3.0
    assert_same(lambda x: np.sin(factor * x), executor=2)
    network = torch.nn.Linear(n, 2, dtype=torch.float64)
    box = ndgrad.wrap(network, estimator=ndgrad.FiniteDifference(eps=0.1), executor=1)
    x = rows()
    assert_close(box(x).detach(), network(x).detach())
    with torch.no_grad():
        network.weight.mul_(2)  # the worker has the function of the last call
    assert_close(box(x).detach(), network(x).detach())


def test_a_worker_for_a_numpy_function_does_without_torch() -> None:
    with torch.no_grad():
        assert ndgrad.wrap(black_boxes.torch_loaded, executor=3)(rows()).sum() == 0
        owned(3).close()


def test_rows_are_cut_into_at_most_64_calls_or_as_asked(threads: Executor) -> None:
    sizes: list[int] = []

    def fn(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    for num_rows, chunk_size, expected in ((5, None, [1] * 5), (130, None, [3] * 43 + [1]), (7, 4, [4, 3])):
        sizes.clear()
        out = ndgrad.wrap(fn, executor=threads, chunk_size=chunk_size)(rows(num_rows).detach())
        assert sorted(sizes, reverse=True) == expected
        assert torch.equal(out, rows(num_rows).detach())


def test_work_is_divided() -> None:
    with torch.no_grad():
        ids = ndgrad.wrap(black_boxes.process_id, executor=2)(rows(8))
    assert len(ids.unique()) == 2
    assert os.getpid() not in ids


@pytest.mark.parametrize("where", ["here", "threads", "processes"])
def test_no_graph_is_recorded_anywhere(where: str, threads: Executor) -> None:
    def fn(x: Tensor) -> Tensor:
        return x[:, 0] + float(torch.is_grad_enabled())

    executor = {"here": None, "threads": threads, "processes": 1}[where]
    with torch.enable_grad():
        y = ndgrad.wrap(fn, executor=executor, on_error="retry")(rows())
    assert torch.equal(y, rows()[:, 0])


# -- seeds


@pytest.mark.parametrize("executor", [None, 2])
def test_each_row_has_a_seed_of_its_own_from_torchs_generator(executor: int | None) -> None:
    x = torch.zeros(B, n, dtype=torch.float64)
    box = ndgrad.wrap(black_boxes.seeded, executor=executor, chunk_size=2)
    torch.manual_seed(5)
    noise, again = box(x), box(x)
    assert len(torch.cat([noise, again]).unique()) == 2 * B
    torch.manual_seed(5)
    seeds = torch.randint(2**63 - 1, (B,))
    expected = [np.random.default_rng(int(seed)).normal() for seed in seeds]
    assert_close(noise, torch.tensor(expected, dtype=torch.float64))
    torch.manual_seed(5)
    points = ndgrad.wrap(black_boxes.seeded_point, executor=executor, batched=False, vectorize=True)(x)
    assert torch.equal(points, noise)
    for given in (torch.arange(B), list(range(B))):
        kept = ndgrad.wrap(black_boxes.seeded, in_dims={"seed": 0} if isinstance(given, Tensor) else None)
        expected = [np.random.default_rng(seed).normal() for seed in range(B)]
        assert_close(kept(x, seed=given), torch.tensor(expected, dtype=torch.float64))


def test_no_seed_where_none_is_wanted() -> None:
    state = torch.get_rng_state()
    ndgrad.wrap(black_boxes.fixed_seed)(torch.zeros(B, n))
    ndgrad.wrap(np.sin)(torch.zeros(B, n))
    ndgrad.wrap(lambda x, seed, /: x + seed)(torch.zeros(B, n), 1.0)
    assert torch.equal(torch.get_rng_state(), state)


# -- executors of the user's


class Inline(Executor):
    """Runs at once; pickles what it is given, as a process would get it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            fn, args = pickle.loads(pickle.dumps((fn, args)))
            future.set_result(pickle.loads(pickle.dumps(fn(*args))))
        return future


def test_any_executor_will_do() -> None:
    assert_same(black_boxes.steps, executor=Inline())
    assert_same(lambda x: np.sin(2 * x), executor=Inline())


@pytest.mark.slow
def test_a_spawned_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert_same(black_boxes.steps, executor=executor, chunk_size=4)
        offset = 0.25
        assert_same(lambda x: np.sin(x + offset), executor=executor, chunk_size=4)


@pytest.mark.slow
def test_a_process_pools_time_is_that_of_each_evaluation() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        ndgrad.wrap(black_boxes.steps, executor=executor)(rows().detach())  # the worker has begun
        box = ndgrad.wrap(black_boxes.for_seconds, executor=executor, chunk_size=1, timeout=1.0)
        box(torch.full((5, n), 0.6))  # one after the other; the pool says of two more that they run
        assert box.num_failures == 0


@pytest.mark.slow
def test_a_process_pool_whose_workers_all_hang_is_an_error() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        ndgrad.wrap(black_boxes.steps, executor=executor)(rows().detach())  # the worker has begun
        box = ndgrad.wrap(
            black_boxes.for_seconds, executor=executor, chunk_size=1, timeout=0.1, on_error="retry"
        )
        with pytest.raises(ndgrad.ExecutorError, match="all workers of the executor are taken"):
            box(torch.full((3, n), 3.0))


def test_workers_have_the_callers_default_dtype() -> None:
    def fn(x: Tensor) -> Tensor:
        return x @ torch.ones(n) + torch.tensor(0.1)

    torch.set_default_dtype(torch.float64)
    try:
        assert_same(fn, executor=2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(lambda x: x.float() * torch.tensor(0.1), executor=2)


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("distributed"), reason="distributed is not installed")
@pytest.mark.filterwarnings("ignore")
def test_dask() -> None:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        executor = client.get_executor(pure=False)
        assert_same(black_boxes.steps, executor=executor, chunk_size=4)
        factor = 0.5
        assert_same(lambda x: np.sin(factor * x), executor=executor, chunk_size=4)
        with pytest.raises(ndgrad.FunctionError, match="out of domain"):
            ndgrad.wrap(black_boxes.below_two, executor=executor)(rows() + 9)


def test_a_fork_pool_is_refused() -> None:
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with pytest.raises(ValueError, match=r"this executor forks.*hang.*executor=2"):
        ndgrad.wrap(np.sin, executor=executor)
    executor.shutdown()


@pytest.mark.parametrize("executor", [0, -1, True, 1.5, "threads", ThreadPoolExecutor])
def test_what_is_no_executor(executor: Any) -> None:
    with pytest.raises(TypeError, match=r"executor must be None, a positive number"):
        ndgrad.wrap(np.sin, executor=executor)


def test_an_executor_that_is_shut_down() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(ndgrad.ExecutorError, match=r"takes no more work.*executor=2"):
        ndgrad.wrap(np.sin, executor=executor)(rows())


def test_an_executor_that_cannot_carry_says_so() -> None:
    with pytest.raises(ndgrad.ExecutorError, match=r"could not carry.*PicklingError: no.*importable"):
        ndgrad.wrap(np.sin, executor=Inline(pickle.PicklingError("no")))(rows())
    with pytest.raises(ndgrad.OutputTypeError):
        ndgrad.wrap(np.sin, executor=Inline(ndgrad.OutputTypeError("no")))(rows())


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def guarded(x: Any) -> Any:
        with lock:
            return x

    with pytest.raises(
        ndgrad.ExecutorError, match=r"guarded and its shared arguments must be pickled.*ThreadPool"
    ):
        ndgrad.wrap(guarded, executor=1)(rows())
    with pytest.raises(ndgrad.ExecutorError, match=r"Callable.* must be pickled"):
        ndgrad.wrap(Callable(lock), executor=1)(rows())


class Callable:
    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def __call__(self, x: Any) -> Any:
        return x


def test_without_loky_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from ndgrad.execution import loky_pool

    loky_pool._loky.cache_clear()
    monkeypatch.setitem(sys.modules, "loky", None)
    with pytest.raises(ImportError, match=r"ndgrad\[parallel\]"):
        ndgrad.wrap(np.sin, executor=17)
    monkeypatch.undo()
    loky_pool._loky()


def run_here(fn: Any, x: Any, seeds: Any, interface: str) -> Any:
    """The worker's code and its answer, in this process."""

    def arguments(index: Any, hand: Any) -> Any:
        return (hand(x, False), hand(torch.full((2,), 0.5), True), "static"), {"seeds": hand(seeds, False)}

    parcel = Courier(fn, interface, arguments).pack(None)
    assert worker.run("never sent", None, parcel.values) == ("unknown",)
    worker.install(parcel.digest, parcel.blob)
    return unpack(worker.run(parcel.digest, None, parcel.values))


@pytest.mark.parametrize("interface", ["torch", "numpy", "python"])
def test_what_a_worker_does(interface: str) -> None:
    def fn(x: Any, shared: Any, static: str, *, seeds: Any) -> Any:
        assert static == "static"
        assert seeds == 3
        kinds = {"torch": Tensor, "numpy": np.ndarray, "python": list}
        assert isinstance(x, kinds[interface])
        assert isinstance(shared, kinds[interface])
        return {"x": x, "shared": (shared, torch.ones(2, dtype=torch.bfloat16))}

    back = run_here(fn, torch.eye(2), 3, interface)
    assert_close(torch.as_tensor(back["x"]), torch.eye(2))
    assert_close(torch.as_tensor(back["shared"][0]), torch.full((2,), 0.5))
    assert back["shared"][1].dtype == torch.bfloat16
    for k in range(9):  # old functions are forgotten
        run_here(lambda x, *args, seeds, k=k: k, torch.eye(2), 3, interface)
    assert len(sys.modules["_ndgrad_worker"].kept) == 4


def test_rows_travel_as_contiguous_arrays() -> None:
    strided = (torch.ones(3, 2).T, np.ones((4, 4))[::2, 1:])
    parcel = Courier(np.sin, "numpy", lambda index, hand: (tuple(hand(x, False) for x in strided), {})).pack(
        None
    )
    assert [value.shape for value in parcel.values] == [(2, 3), (2, 3)]
    assert all(value.flags.c_contiguous for value in parcel.values)


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_arrays_that_arrive_read_only_may_be_changed(interface: str) -> None:
    def fn(x: Any) -> Any:
        x *= 2
        return x

    parcel = Courier(fn, interface, lambda index, hand: ((hand(torch.ones(2), False),), {})).pack(None)
    for value in parcel.values:
        value.flags.writeable = False
    kind, tree, dtypes = worker.run(parcel.digest, parcel.blob, parcel.values)
    tree.flags.writeable = False
    assert torch.equal(
        torch.as_tensor(unpack((kind, tree.copy() if not dtypes else tree, dtypes))), 2 * torch.ones(2)
    )
    assert parcel.values[0].tolist() == [1.0, 1.0]


def test_errors_come_back_with_their_traceback_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def fn(x: Any, *args: Any, seeds: Any) -> Any:
        raise (black_boxes.OddError(1, 2) if seeds else ValueError("no"))

    raised = run_here(fn, torch.eye(2), 0, "numpy")
    assert isinstance(raised.error, ValueError)
    assert "ValueError: no" in raised.traceback
    odd = run_here(fn, torch.eye(2), 1, "numpy")
    assert (type(odd.error).__name__, str(odd.error)) == ("RemoteError", "OddError: 1 and 2")
    unreadable = unpack(("raised", b"not a pickle", "OddError: 1 and 2", ""))
    assert str(unreadable.error) == "OddError: 1 and 2"
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    raised = run_here(black_boxes.fail_plainly, torch.eye(2), 0, "numpy")
    assert isinstance(raised.error, black_boxes.DomainError)


def test_without_cloudpickle_lambdas_ask_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ndgrad.ExecutorError, match=r"lambdas and closures need cloudpickle.*ndgrad\[parallel\]"
    ):
        ndgrad.wrap(lambda x: x, executor=Inline())(rows())


def test_a_worker_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    worker._end_with(7)
    assert ended == [1]


def test_a_worker_ignores_interrupts_which_its_parent_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda *args: ignored.append(args))
    monkeypatch.setattr(worker, "_end_with", lambda parent: None)
    worker.prepare(7)
    assert ignored == [(signal.SIGINT, signal.SIG_IGN)]


def test_a_fork_of_the_process_begins_workers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Owned(1)
    parents_workers = pool._workers
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert list(pool.run(deque(), lambda task: None, None)) == []
    assert pool._workers is not parents_workers


def test_an_executor_that_is_slow_to_begin_is_waited_for() -> None:
    clock = _Clock(timeout=0.0)
    future: Future[Any] = Future()
    clock._says_running = True
    assert clock.overdue({future: Task(np.arange(1))}, finished=False) == []


# -- the module around it


def test_copies_share_the_workers_and_pickles_begin_their_own(threads: Executor) -> None:
    box = ndgrad.wrap(black_boxes.steps, executor=2)
    assert copy.deepcopy(box)._evaluator.means.pool is box._evaluator.means.pool
    assert (
        pickle.loads(pickle.dumps(box))._evaluator.means.pool is box._evaluator.means.pool
    )  # in the same process
    foreign = ndgrad.wrap(black_boxes.steps, executor=threads)
    assert_close(copy.deepcopy(foreign)(rows()), foreign(rows()))
    with pytest.raises(TypeError, match=r"executor of yours cannot be pickled"):
        pickle.dumps(foreign)


def test_what_is_set_is_shown() -> None:
    assert "executor=2, on_error='retry'" in repr(ndgrad.wrap(np.sin, executor=2, on_error="retry"))
    assert "progress" not in repr(ndgrad.wrap(np.sin, progress=False))


def test_an_evaluation_from_within_an_evaluation_does_not_wait_for_itself() -> None:
    pool = owned(2)
    outer = pool.run(deque(), lambda task: None, None)
    pool._user = threading.get_ident()
    with pytest.raises(ndgrad.ExecutorError, match="another number of workers"):
        next(outer)
    pool._user = None


def test_two_threads_take_turns() -> None:
    results: dict[int, Tensor] = {}

    def work(k: int) -> None:
        x = torch.full((4, n), float(k), dtype=torch.float64)
        results[k] = ndgrad.wrap(black_boxes.steps, executor=2)(x)

    started = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    for k in range(2):
        expected = torch.from_numpy(black_boxes.steps(np.full((4, n), float(k))))
        assert torch.equal(results[k], expected)


def test_closing_ends_the_processes_and_the_next_call_begins_new_ones() -> None:
    box = ndgrad.wrap(black_boxes.process_id, executor=3)
    with torch.no_grad():
        first = int(box(rows(1)))
        assert psutil.pid_exists(first)
        box.close()
        assert not psutil.pid_exists(first)
        second = int(box(rows(1)))
    del box
    gc.collect()
    _wait_until(lambda: not psutil.pid_exists(second))


def test_closing_from_within_an_evaluation_does_not_wait_for_itself() -> None:
    pool = owned(2)
    pool._user = threading.get_ident()
    with pytest.raises(ndgrad.ExecutorError, match=r"busy.*to break it off, raise"):
        pool.close()
    pool._user = None


def test_threads_may_change_their_rows_in_inference_mode(threads: Executor) -> None:
    def fn(x: Tensor) -> Tensor:
        return x.mul_(2).sum(1)

    with torch.inference_mode():
        y = ndgrad.wrap(fn, executor=threads)(rows())
    assert y.is_inference()
    assert_close(y.clone(), 2 * rows().detach().sum(1))


def _wait_until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
sys.path.insert(0, {folder!r})
import torch, numpy as np, ndgrad, black_boxes

def fn(x):
    print(os.getpid(), flush=True)
    time.sleep(100)
    return x

try:
    ndgrad.wrap(fn, executor=1, interface="numpy")(torch.zeros(1, 2))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_whatever_ends_the_parent_leaves_no_worker(how: str) -> None:
    code = textwrap.dedent(SCRIPT.format(folder=os.path.dirname(__file__)))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.send_signal(getattr(signal, how))
        said = parent.stdout.read()
    assert ("interrupted" in said) == (how == "SIGINT")
    _wait_until(lambda: not psutil.pid_exists(child))
