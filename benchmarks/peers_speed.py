"""Seconds per gradient of a cheap batched function at equal evaluations: ours beside other libraries.

    python -m benchmarks.peers_speed --out benchmarks/results

The function is that of the quadratic-sine tasks in torch, one call for any number of rows. Ours is timed as it is
used, through ``ndgrad.wrap`` with autograd; a peer without the wrapping that the comparison of accuracies puts around
it. Libraries that know functions of one point are called once per row. TorchOpt is timed a second way, with the sum
over the batch as its scalar: one noise weight for all rows, an estimate whose relative error is sqrt(B) times
larger, and not the same thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor

import ndgrad
from benchmarks.measure import gradient
from benchmarks.peers import PEERS, Peer, Problem, installed
from benchmarks.peers.estimator import as_variant
from benchmarks.provenance import provenance, versions, write_json
from benchmarks.tasks.quadratic_sine import quadratic_sine
from benchmarks.variants import BudgetTooSmallError

VECTORISED = ("storchastic_batch_average", "evotorch_functional", "optax_perturbations", "scipy_central")
"""Those that hand the black box all rows at once."""
OURS = {
    "ndgrad_orthogonal_pairs": ("orthogonal", True),
    "ndgrad_gaussian_pairs": ("gaussian", True),
    "ndgrad_gaussian_loo": ("gaussian", False),
}
_TORCHOPT_LIMIT = 10.0  # times ours
_WARM_BYTES = 24 * 2**20  # as in benchmarks.overhead


@dataclass(frozen=True)
class Config:
    """Sizes of the call."""

    num_inputs: int = 20
    batch: int = 256
    evaluations: int = 64
    """Per row, the value included where a library needs it."""
    sigma: float = 0.05
    peers: tuple[str, ...] = ()
    """Names of peers; none means all that are installed."""
    repeats: int = 15
    """Rounds; in each, every call has its turn, a quick one as often as fits into a tenth of a second."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Folder for peers_speed.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Time every call; prints and returns medians and ratios."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    calls = {name: call for name, call in _calls(config) if name in {*OURS, *(config.peers or (name,))}}
    seconds = interleaved(calls, config.repeats)
    results = summary(seconds) | {"skipped": sorted(_skipped(calls))} | provenance(config)
    results["versions"] = versions(*sorted({PEERS[name].library for name in calls if name in PEERS}))
    _print(results)
    write_json(config.out, "peers_speed", results)
    return results


def summary(seconds: dict[str, float]) -> dict[str, Any]:
    """Compare with the slowest of ours, and with the quickest where only the best counts."""
    slowest = max(seconds[name] for name in OURS)
    quickest = min(seconds[name] for name in OURS)
    peers = {name: value for name, value in seconds.items() if name not in OURS}
    vectorised = {name: value / quickest for name, value in peers.items() if name in VECTORISED}
    torchopt = [value for name, value in peers.items() if name in PEERS and name.startswith("torchopt")]
    return {
        "milliseconds": {name: 1000 * value for name, value in seconds.items()},
        "times_slowest_of_ours": {name: value / slowest for name, value in peers.items()},
        "vectorised_times_quickest_of_ours": vectorised,
        "torchopt_at_least": min(torchopt) / slowest if torchopt else None,
    }


def interleaved(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return median seconds of each call; they take turns, so that a busy moment of the machine meets them all.

    A call of half a second or more has its turn in the first two rounds only.
    """
    torch.ones(_WARM_BYTES, dtype=torch.uint8)
    warm = {name: _warm_up(call) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if warm[name] < 0.5 or turn < 2:
                times[name].append(_seconds(call, often=max(1, min(20, round(0.1 / warm[name])))))
    return {name: median(values) for name, values in times.items()}


def _warm_up(call: Callable[[], object]) -> float:
    """Return the seconds of one call, which are those of a second one where the first may have had to compile."""
    first = _seconds(call, often=1)
    return first if first > 2 else _seconds(call, often=1)


def _seconds(call: Callable[[], object], often: int) -> float:
    begin = time.perf_counter()
    for _ in range(often):
        call()
    return (time.perf_counter() - begin) / often


def _calls(config: Config) -> Iterator[tuple[str, Callable[[], object]]]:
    x = torch.rand(config.batch, config.num_inputs) - 0.5
    v = torch.rand(config.batch, 1) + 0.5
    for name, (directions, pairs) in OURS.items():
        samples = (config.evaluations - 1) // (2 if pairs else 1)
        estimator = ndgrad.EvolutionStrategy(samples, config.sigma, pairs, directions)
        yield name, _wrapped(ndgrad.wrap(quadratic_sine, estimator=estimator), x, v)
    for name, peer in PEERS.items():
        possible = _num_samples(peer, config)
        if possible is not None:
            yield name, _peer(peer, Problem(quadratic_sine, x, v, config.sigma, possible, 0))
    yield from _other_ways(x, v, config)


def _wrapped(box: ndgrad.BlackBox, x: Tensor, v: Tensor) -> Callable[[], object]:
    return lambda: gradient(box, x, v)


def _peer(peer: Peer, problem: Problem) -> Callable[[], object]:
    estimate = peer.make()
    return lambda: estimate(problem)


def _num_samples(peer: Peer, config: Config) -> int | None:
    """Count the samples that the budget allows; None where the peer cannot run."""
    try:
        samples = as_variant(peer, config.evaluations).num_samples(config.evaluations, config.num_inputs)
    except BudgetTooSmallError:
        return None
    return None if peer.reason_to_skip(config.num_inputs, None, samples) else samples


def _other_ways(x: Tensor, v: Tensor, config: Config) -> Iterator[tuple[str, Callable[[], object]]]:
    """Time what the comparison of accuracies does not use."""
    if installed("evotorch"):
        yield "evotorch_functional", _evotorch_functional(x, v, config)
    if installed("torchopt"):
        yield "torchopt_sum_over_batch", _torchopt_sum(x, v, config)


def _evotorch_functional(x: Tensor, v: Tensor, config: Config) -> Callable[[], object]:
    """Its functional estimator, which takes the batch by ``vmap``; v scales the result, as f has one output."""
    from evotorch.distributions import SymmetricSeparableGaussian, make_functional_grad_estimator

    fixed = {"sigma": torch.full((config.num_inputs,), config.sigma), "divide_mu_grad_by": "num_directions"}
    estimate = make_functional_grad_estimator(
        SymmetricSeparableGaussian, function=lambda z: quadratic_sine(z).squeeze(-1), objective_sense="max",
        required_parameters=["mu"], fixed_parameters=fixed, ranking_method="raw",
    )  # fmt: skip
    return lambda: v * estimate(config.evaluations, x)["mu"]


def _torchopt_sum(x: Tensor, v: Tensor, config: Config) -> Callable[[], object]:
    from torchopt.diff.zero_order import zero_order

    decorate = zero_order(
        torch.distributions.Normal(0.0, 1.0), "antithetic", num_samples=(config.evaluations - 1) // 2,
        sigma=config.sigma,
    )  # fmt: skip
    total = decorate(lambda z: (quadratic_sine(z) * v).sum())

    def call() -> object:
        z = x.clone().requires_grad_()
        return torch.autograd.grad(total(z), z)

    return call


def _skipped(calls: dict[str, Any]) -> set[str]:
    return {name for name in PEERS if name not in calls}


def _print(results: dict[str, Any]) -> None:
    c = results["configuration"]
    sizes = f"B = {c['batch']}, n = {c['num_inputs']}, {c['evaluations']} evaluations per row"
    print(f"quadratic sine, {sizes}; {results['threads']} thread(s) of torch, {results['device']}")
    ratios, best = results["times_slowest_of_ours"], results["vectorised_times_quickest_of_ours"]
    for name, value in sorted(results["milliseconds"].items(), key=lambda entry: entry[1]):
        beside = f"{ratios[name]:8.2f} x the slowest of ours" if name in ratios else ""
        quick = f", {best[name]:.2f} x the quickest (at least 1)" if name in best else ""
        print(f"  {name:28s} {value:10.3f} ms {beside}{quick}")
    if results["torchopt_at_least"] is not None:
        print(
            f"TorchOpt, row by row: at least {results['torchopt_at_least']:.0f} x ours ({_TORCHOPT_LIMIT:.0f} wanted)"
        )
    print(
        f"not timed (not installed, no solver, or budget too small): {', '.join(results['skipped']) or 'none'}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
