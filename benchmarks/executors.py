"""Worker processes on a function of 50 ms per row: speed-up over one after the other, and where many workers saturate.

    python -m benchmarks.executors

The function sleeps, so that what is measured is the cost of handing rows out, also on a busy machine. One process hands
them out, a chunk each ``dispatch`` seconds, which is measured with a function that does nothing. In the model, a worker
has a chunk for ``seconds + latency``, and asks for the next one; N workers are all busy as long as the dispatcher gets
round to each of them in that time, N dispatch <= seconds + latency. Beyond, more workers wait for it, and the speed is
that of the dispatcher: one chunk per ``dispatch`` seconds, however many they are. A simulation of this queue runs at
the measured numbers of workers and at 1000; larger chunks move the limit.
"""

from __future__ import annotations

import heapq
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

import ndgrad
from benchmarks.provenance import provenance, versions, write_json

LEAST_EFFICIENCY = 0.9


@dataclass(frozen=True)
class Config:
    """Sizes of the measurement."""

    rows: int = 64
    seconds: float = 0.05
    """Of one row."""
    num_inputs: int = 64
    repeats: int = 9
    """Measured evaluations of each kind, of which the median is taken."""
    workers: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes at which the model is checked."""
    dask: bool = True
    """Whether to measure a Dask cluster of two workers, too."""
    many: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Numbers of workers to simulate."""
    chunk_rows: tuple[int, ...] = (1, 4, 16, 64)
    """Rows per chunk to simulate."""
    out: Path | None = None
    """Folder for executors.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Measure, simulate; prints and returns both."""
    torch.manual_seed(0)
    x = torch.randn(config.rows, config.num_inputs, dtype=torch.float64)
    serial = _measure(None, x, config.seconds, config.repeats)
    measured: dict[str, dict[str, Any]] = {}
    for count in config.workers:
        measured[f"loky {count}"] = _kind(count, count, x, serial, config)
    if config.dask:
        with _dask(2) as executor:
            measured["dask 2"] = _kind(executor, 2, x, serial, config)
    costs = measured[f"loky {config.workers[0]}"]
    results: dict[str, Any] = {
        "serial_seconds": serial.seconds,
        "measured": measured,
        "many_workers": _many(config, costs["dispatch"], costs["latency"]),
        "least_efficiency": LEAST_EFFICIENCY,
    } | provenance(config)
    results["versions"] |= versions("loky", "distributed")
    _print(results)
    write_json(config.out, "executors", results)
    return results


@dataclass(frozen=True)
class Run:
    """Median seconds of an evaluation, and its values."""

    seconds: float
    values: Tensor


def _sleeper(seconds: float) -> Callable[[Any], Any]:
    def simulate(x: Any) -> Any:
        if seconds:
            time.sleep(seconds * len(x))
        return np.tanh(x) @ np.linspace(-1, 1, x.shape[1])

    return simulate


def _measure(executor: Any, x: Tensor, seconds: float, repeats: int) -> Run:
    box = ndgrad.wrap(_sleeper(seconds), interface="numpy", executor=executor, chunk_size=1)
    times = []
    with torch.no_grad():
        for turn in range(-1, repeats):  # the first one begins the workers
            begin = time.perf_counter()
            values = box(x)
            if turn >= 0:
                times.append(time.perf_counter() - begin)
    return Run(median(times), values)


def _kind(executor: Any, count: int, x: Tensor, serial: Run, config: Config) -> dict[str, Any]:
    """Measure one kind of workers, and compare it with the ideal and with the model."""
    run = _measure(executor, x, config.seconds, config.repeats)
    dispatch, latency = _costs(executor, count, x, config)
    row_seconds = serial.seconds / config.rows  # as long as they really slept
    speed_up = serial.seconds / run.seconds
    return {
        "workers": count,
        "seconds": run.seconds,
        "speed_up": speed_up,
        "efficiency": speed_up / count,
        "equal_to_the_bit": torch.equal(run.values, serial.values),
        "dispatch": dispatch,
        "latency": latency,
        "model_seconds": simulate(
            config.rows, count, row_seconds, dispatch, latency, ahead=not isinstance(executor, int)
        ),
    }


def _costs(executor: Any, count: int, x: Tensor, config: Config) -> tuple[float, float]:
    """Return seconds per chunk of the dispatcher, and those that a worker waits beside it, for rows that take none.

    A worker process of ours is handed a chunk when it has finished one. With nothing to compute, a round trip takes
    dispatch + latency, and N workers make N of them at once; the dispatcher's share is the processor time of this
    process. An executor is handed all chunks at once, and keeps its workers supplied: no latency, and all of the time
    is the dispatcher's.
    """
    box = ndgrad.wrap(_sleeper(0.0), interface="numpy", executor=executor, chunk_size=1)
    rounds, shares = [], []
    with torch.no_grad():
        for turn in range(-1, config.repeats):
            begin, busy = time.perf_counter(), time.process_time()
            box(x)
            if turn >= 0:
                rounds.append((time.perf_counter() - begin) / len(x))
                shares.append((time.process_time() - busy) / len(x))
    if not isinstance(executor, int):
        return median(rounds), 0.0
    dispatch = min(median(shares), median(rounds))
    return dispatch, max(median(rounds) * count - dispatch, 0.0)


def simulate(
    chunks: int, workers: int, seconds: float, dispatch: float, latency: float, ahead: bool = False
) -> float:
    """Return the seconds that ``workers`` need for ``chunks`` from one dispatcher.

    It hands them out as workers become free, or ``ahead``, without waiting for them.
    """
    free = [0.0] * min(workers, chunks)  # when each worker asks for its next chunk
    dispatcher = 0.0
    for _ in range(chunks):
        asked = heapq.heappop(free)
        dispatcher = (dispatcher if ahead else max(dispatcher, asked)) + dispatch
        heapq.heappush(free, max(dispatcher, asked) + latency + seconds)
    return max(free)


def _many(config: Config, dispatch: float, latency: float) -> list[dict[str, Any]]:
    """Simulate many workers with 20 chunks for each."""
    entries = []
    for rows in config.chunk_rows:
        seconds = rows * config.seconds
        speed_ups = {
            str(count): 20 * count * seconds / simulate(20 * count, count, seconds, dispatch, latency)
            for count in config.many
        }
        limit = (seconds + latency) / dispatch
        entries.append({"rows_per_chunk": rows, "speed_ups": speed_ups, "saturates_at": limit})
    return entries


@contextmanager
def _dask(count: int) -> Iterator[Executor]:
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0")
        client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client.get_executor(pure=False)


def _print(results: dict[str, Any]) -> None:
    c = results["configuration"]
    print(f"{c['rows']} rows of {c['seconds']} s: {results['serial_seconds']:.2f} s one after the other")
    for name, m in results["measured"].items():
        bits = "same bits" if m["equal_to_the_bit"] else "OTHER BITS"
        print(
            f"  {name}: {m['seconds']:.3f} s (model {m['model_seconds']:.3f}), speed-up {m['speed_up']:.2f}, "
            f"{100 * m['efficiency']:.1f} % of the ideal, {bits}; "
            f"dispatch {1000 * m['dispatch']:.2f} ms, latency {1000 * m['latency']:.2f} ms"
        )
    print("simulated speed-up of many workers:")
    for entry in results["many_workers"]:
        shown = ", ".join(f"{value:.0f} with {count}" for count, value in entry["speed_ups"].items())
        print(
            f"  {entry['rows_per_chunk']} rows per chunk: {shown}; saturates at {entry['saturates_at']:.0f} workers"
        )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
