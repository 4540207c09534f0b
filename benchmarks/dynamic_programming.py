"""How many times faster than its baselines each backend of the closed-contour solver is, and in how much memory.

    python -m benchmarks.dynamic_programming --out benchmarks/results

Baselines: the thesis' algorithm 1 as Python loops, its algorithm 2 as dense tables (with the way back of the
listing), and one open Viterbi pass with its way back, in torch. Medians of interleaved calls, of the process' CPU
time where torch has one thread, so that other work on the machine counts for nobody, else of wall time.

Loops and dense tables take seconds to minutes. They do the same work whatever the costs, and are timed with the
first kind of each size only; on the first ``loop_rows`` and ``dense_rows`` rows, and their time is scaled to all rows.
Scaled figures are marked ``*``.

Memory is the growth of a fresh process' peak resident set during the call, after one small call of the same kind,
above the resident set with the input in place: it sees what torch, numpy and numba allocate alike, the
returned indices included. The process' malloc keeps no freed block, which would hide
the next one; the kernel counts to within about half a megabyte.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor

from applications.lv_dp.dynamic_programming import Backend, available_backends, solve
from benchmarks.closed_contour_baselines import dense_algorithm_2, open_chain, python_loops
from benchmarks.provenance import provenance, write_json

_SLOW = ("python_loops", "dense")
_BASELINES = (*_SLOW, "open_chain")


@dataclass(frozen=True)
class Config:
    """Which problems are timed, and how often."""

    sizes: tuple[tuple[int, int, int, int], ...] = (
        (10, 25, 65, 1),
        (100, 25, 65, 1),
        (100, 50, 65, 2),
        (100, 100, 65, 10),
        (1000, 50, 65, 2),
    )
    """(B, N, M, delta): rows, lines, entries of a line, largest step."""
    kinds: tuple[str, ...] = ("noise", "noisy_ring", "ring", "spiral")
    """Costs: independent normal, a parabola with much noise, one with little, and a valley that cannot close."""
    repeats: int = 15
    """Timed calls of each backend, after one to warm up."""
    slow_repeats: int = 3
    """Timed calls of the loops and the dense tables, during the first of the others."""
    loop_rows: int = 1
    """Rows that the Python loops solve."""
    dense_rows: int = 100
    """Rows that the dense tables hold, each about 12 N M^2 + 4 M^3 bytes."""
    memory: bool = True
    """Measure memory at the last size, on noise."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Folder for dynamic_programming.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Time every size and kind; prints and returns medians, ratios and megabytes."""
    torch.set_num_threads(config.threads)
    backends = available_backends("cpu")
    results: dict[str, Any] = {"backends": backends, "problems": []} | provenance(config)
    results["versions"] |= {name: version(name) for name in backends}
    print(f"{results['threads']} thread(s), {results['device']}")
    print(f"medians of interleaved calls, {'CPU' if config.threads == 1 else 'wall'} time")
    print(
        "how many times faster than python loops / dense algorithm 2 / one open chain; * scaled from fewer rows"
    )
    for size in config.sizes:
        slow: dict[str, float] = {}
        for kind in config.kinds:
            problem = _time_problem(size, kind, backends, slow, config)
            results["problems"].append(problem)
            _print_problem(problem)
    if config.memory:
        size = config.sizes[-1]
        results["megabytes"] = {name: extra_megabytes(name, size, config.threads) for name in backends}
        print(f"growth of the peak resident set in a fresh process at {size}, noise:")
        print("  " + ", ".join(f"{name} {value:.1f} MB" for name, value in results["megabytes"].items()))
    write_json(config.out, "dynamic_programming", results)
    return results


def costs_of(kind: str, B: int, N: int, M: int) -> Tensor:
    """Costs (B, N, M) by kind, always the same.

    Raises:
        ValueError: an unknown kind.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(B, N, M, generator=generator)
    index = torch.arange(M)
    ring = (index - M * (0.5 + 0.1 * torch.rand(B, 1, 1, generator=generator))).square() / M
    if kind in ("noise", "noisy_ring", "ring"):
        return {"noise": noise, "noisy_ring": ring + 0.5 * noise, "ring": ring + 0.01 * noise}[kind]
    if kind == "spiral":
        climb = (index - torch.linspace(0, M - 1, N)[:, None]).abs()  # (N, M)
        return climb - 3.0 * (climb < 1) + 0.1 * noise
    raise ValueError(f"kind must be noise, noisy_ring, ring or spiral, got {kind!r}")


def _time_problem(
    size: tuple[int, int, int, int],
    kind: str,
    backends: list[Backend],
    slow: dict[str, float],
    config: Config,
) -> dict[str, Any]:
    """Time one problem; the seconds of the slow baselines are taken from ``slow``, or put there."""
    B, N, M, delta = size
    costs = costs_of(kind, B, N, M)
    rows = {"python_loops": min(B, config.loop_rows), "dense": min(B, config.dense_rows)}
    calls: dict[str, Callable[[], Tensor]] = {"open_chain": lambda: open_chain(costs, delta)}
    calls |= {backend: partial(solve, costs, delta, backend=backend) for backend in backends}
    if not slow:
        calls["python_loops"] = lambda: python_loops(costs[: rows["python_loops"]], delta)
        calls["dense"] = lambda: dense_algorithm_2(costs[: rows["dense"]], delta)
    seconds = _interleaved(calls, config)
    if not slow:
        slow |= {name: seconds[name] * B / rows[name] for name in _SLOW}
    seconds |= slow
    return {
        "size": size,
        "kind": kind,
        "rows_of_slow_baselines": rows,
        "milliseconds": {name: 1000 * value for name, value in seconds.items()},
        "ratios": {
            backend: {name: seconds[name] / seconds[backend] for name in _BASELINES} for backend in backends
        },
    }


def _interleaved(calls: dict[str, Callable[[], Tensor]], config: Config) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that a busy moment of the machine meets them all."""
    clock = time.process_time if config.threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, config.repeats):
        for name, call in calls.items():
            if name in _SLOW and not 0 <= turn < config.slow_repeats:
                continue
            begin = clock()
            call()
            if turn >= 0:
                times[name].append(clock() - begin)
    return {name: median(values) for name, values in times.items()}


def extra_megabytes(backend: str, size: tuple[int, int, int, int], threads: int) -> float:
    """Growth of a fresh process' peak resident set by one call at ``size``, on noise; Linux only."""
    code = f"from benchmarks.dynamic_programming import growth; print(growth({backend!r}, {size}, {threads}))"
    # Every block of 64 KiB goes back to the kernel when it is freed: nothing is served from what was left over.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    return float(run.stdout)


def growth(backend: Backend, size: tuple[int, int, int, int], threads: int) -> float:
    """Megabytes by which one call raises this process' peak resident set."""
    torch.set_num_threads(threads)
    B, N, M, delta = size
    costs = costs_of("noise", B, N, M)
    solve(costs[:2], delta, backend=backend)  # imports and compiled code
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _peak_kilobytes()
    solve(costs, delta, backend=backend)
    return (_peak_kilobytes() - before) * 1024 / 1e6


def _peak_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _print_problem(problem: dict[str, Any]) -> None:
    B, N, M, delta = problem["size"]
    print(f"(B, N, M, delta) = ({B}, {N}, {M}, {delta}), {problem['kind']}")
    marks = {name: "*" if problem["rows_of_slow_baselines"].get(name, B) < B else "" for name in _BASELINES}
    for backend, ratios in problem["ratios"].items():
        figures = " / ".join(f"{ratios[name]:.3g}{marks[name]}" for name in _BASELINES)
        print(f"  {backend:8s} {problem['milliseconds'][backend]:9.3f} ms   {figures}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
