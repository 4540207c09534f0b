"""What a wrapped call costs beside the same formula written out: ``f = sign(x W)``, warm, medians.

    python -m benchmarks.overhead

One call is the value, the noise, the probes and the gradient, for Gaussian directions without pairs and for
orthogonal ones. Warm means the allocator, too: a process that never freed a larger block hands the top of its
heap back to the kernel and faults it in again, call after call, which takes as long as the computation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor

import ndgrad
from benchmarks.measure import gradient
from benchmarks.provenance import provenance, write_json

_LIMITS = {"gaussian": 1.5, "orthogonal": 3.0}  # times the bare formula
_WARM_BYTES = 24 * 2**20  # of one block, freed: below the 32 MiB up to which glibc adapts to what it has seen


@dataclass(frozen=True)
class Config:
    """Sizes of the call."""

    num_inputs: int = 64
    num_outputs: int = 32
    batch: int = 256
    num_samples: int = 16
    sigma: float = 0.05
    repeats: int = 200
    """Timed calls of each kind, after a tenth as many to warm up."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Folder for overhead.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Time the three calls; prints and returns medians and ratios."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    weight = torch.randn(config.num_inputs, config.num_outputs)
    x = torch.randn(config.batch, config.num_inputs)
    v = torch.randn(config.batch, config.num_outputs)
    seconds = _interleaved(_calls(weight, x, v, config), config.repeats)
    bare = seconds["bare"]
    results = {
        "milliseconds": {name: 1000 * value for name, value in seconds.items()},
        "ratios": {name: seconds[name] / bare for name in _LIMITS},
        "limits": _LIMITS,
    } | provenance(config)
    _print(results)
    write_json(config.out, "overhead", results)
    return results


def bare_gradient(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, S: int, sigma: float) -> Tensor:
    """Leave-one-out evolution strategy (thesis, equation 3.8) in bare torch, the value of ``f`` included."""
    f(x)
    eps = torch.randn(S, *x.shape)  # (S, B, n)
    w = (f((x + sigma * eps).flatten(0, 1)).unflatten(0, (S, len(x))) * v).sum(-1)  # (S, B)
    w = (w - w.mean(0)) * (S / (S - 1))
    return (w.unsqueeze(-1) * eps).sum(0) / (sigma * S)


def _calls(weight: Tensor, x: Tensor, v: Tensor, config: Config) -> dict[str, Callable[[], Tensor]]:
    def f(z: Tensor) -> Tensor:
        return torch.sign(z @ weight)

    def wrapped(estimator: ndgrad.Estimator) -> Callable[[], Tensor]:
        box = ndgrad.wrap(f, estimator=estimator)
        return lambda: gradient(box, x, v)

    S, sigma = config.num_samples, config.sigma
    return {
        "bare": lambda: bare_gradient(f, x, v, S, sigma),
        "gaussian": wrapped(ndgrad.EvolutionStrategy(S, sigma, antithetic=False, directions="gaussian")),
        "orthogonal": wrapped(ndgrad.EvolutionStrategy(S, sigma, antithetic=False, directions="orthogonal")),
    }


def _interleaved(calls: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; they take turns, so that a busy moment of the machine meets them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    torch.ones(_WARM_BYTES, dtype=torch.uint8)
    for turn in range(-(repeats // 10), repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 0:
                times[name].append(time.perf_counter() - begin)
    return {name: median(values) for name, values in times.items()}


def _print(results: dict[str, Any]) -> None:
    c, milliseconds = results["configuration"], results["milliseconds"]
    sizes = ", ".join(f"{key} {c[key]}" for key in ("num_inputs", "num_outputs", "batch", "num_samples"))
    print(f"f = sign(x W): {sizes}")
    print(f"median of {c['repeats']} interleaved calls, {results['threads']} thread(s), {results['device']}")
    print(f"  {'bare torch':12s} {milliseconds['bare']:7.2f} ms")
    for name, limit in results["limits"].items():
        ratio = f"{results['ratios'][name]:.2f} x bare (at most {limit:.1f})"
        print(f"  {name:12s} {milliseconds[name]:7.2f} ms = {ratio}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
