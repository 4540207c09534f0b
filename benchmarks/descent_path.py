"""Errors of the bypass along a descent path of the rounded network, against leave-one-out evolution strategy.

    python -m benchmarks.descent_path --out benchmarks/results

The path is one for all: descent along the true smoothed gradient, itself estimated by brute force with many
antithetic pairs and a known standard error. At every point each estimator gives one gradient; a learning
one keeps what it learned. Printed: squared errors summed over the path, relative to the summed squared norm
of the true gradient, mean over seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from rich.progress import track
from torch import Tensor

import ndgrad
from benchmarks.measure import gradient
from benchmarks.networks import mlp
from benchmarks.provenance import provenance, write_json
from benchmarks.smoothed_gradient import smoothed_gradient
from benchmarks.tasks import TASKS, Task


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    steps: int = 60
    """Points on the path."""
    learning_rate: float = 0.005
    """Step of the descent along the true gradient."""
    pairs: int = 20_000
    """Antithetic pairs per row behind every true gradient."""
    probes: int = 16
    """Evaluations per row beside the value's own."""
    few_probes: int = 4
    """The same in the comparison with and without replay."""
    replay: int = 20
    """Earlier calls kept in the fit."""
    fit_steps: int = 30
    """Adam(1e-3) steps of the bypass per call."""
    trust_region: float = 1.0
    """Replayed inputs farther than so many sigma per coordinate are left out: their probes do not overlap."""
    control_replay: int = 8
    """Earlier calls kept in the fit of the control variate, which does without more at a third of the time."""
    width: int = 128
    """Units in each of the two hidden layers of the bypass."""
    seeds: int = 3
    """Runs of every estimator."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Folder for descent_path.json; nothing is written without it."""


REQUIREMENTS = {
    "diff_bypass": ("leave_one_out", 0.08),
    "diff_bypass_difference": ("leave_one_out", 0.05),
    "control_variate": ("leave_one_out", 0.30),
    "mixture": ("leave_one_out", 0.05),
    "few_diff_bypass_replay": ("few_diff_bypass", 0.90),
}
"""What each squared error is divided by, and the most that is required of the ratio."""


@dataclass(frozen=True)
class Point:
    """A point of the path with the true gradient there."""

    x: Tensor  # (B, n)
    cotangent: Tensor  # (B, m)
    true: Tensor  # (B, n)
    squared_standard_error: float  # of ``true``, summed over its entries


def main(config: Config) -> dict[str, Any]:
    """Run every estimator along the path; prints and returns the errors and their ratios."""
    torch.set_num_threads(config.threads)
    begin = time.perf_counter()
    task = TASKS["rounded_tanh"]()
    points = descent_path(task, config)
    errors = {
        name: [_error(task, make, points, seed) for seed in range(config.seeds)]
        for name, make in track(_estimators(task, config).items(), "estimators")
    }
    results = _summary(errors, points, config) | {"seconds": round(time.perf_counter() - begin, 1)}
    _print(results)
    write_json(config.out, "descent_path", results)
    return results


def descent_path(task: Task, config: Config) -> list[Point]:
    """Descend from the task's start along the true smoothed gradient."""
    generator = torch.Generator().manual_seed(0)
    x, points = task.start, []
    for _ in track(range(config.steps), "true gradients"):
        v = task.cotangent_at(task.values(x))
        true, error = smoothed_gradient(task.values, x, v, task.sigma, config.pairs, generator)
        points.append(Point(x, v, true, float(error.square().sum())))
        x = x - config.learning_rate * true
    return points


def _estimators(task: Task, config: Config) -> dict[str, Callable[[], ndgrad.Estimator]]:
    def bypass(probes: int, replay: int) -> ndgrad.Estimator:
        surrogate = mlp(task.num_inputs, task.num_outputs, config.width)
        return ndgrad.DiffBypass(
            surrogate, sigma=task.sigma, num_samples=probes, fit_steps=config.fit_steps, replay=replay
        )

    def leave_one_out(probes: int) -> ndgrad.Estimator:
        return ndgrad.EvolutionStrategy(
            num_samples=probes, sigma=task.sigma, antithetic=False, directions="gaussian", baseline="loo"
        )

    def matched(probes: int) -> ndgrad.VJPEstimator:
        surrogate = mlp(task.num_inputs, task.num_outputs, config.width)
        return ndgrad.DiffBypass(
            surrogate, sigma=task.sigma, num_samples=probes, fit_steps=config.fit_steps, replay=config.replay,
            match="difference", trust_region=config.trust_region,
        )  # fmt: skip

    def control_variate(probes: int, fits: int) -> ndgrad.VJPEstimator:
        # without pairs: n/(S - 1) - 1 is less than n/(S/2) - 1, the relative variances on a linear function
        surrogate = mlp(task.num_inputs, task.num_outputs, config.width)
        return ndgrad.ControlVariate(
            surrogate, sigma=task.sigma, num_samples=probes, antithetic=False,
            fit_steps=max(1, config.fit_steps // fits), replay=config.control_replay,
        )  # fmt: skip

    def guided(probes: int) -> ndgrad.VJPEstimator:
        # half of the pairs: the gradient is shared by 8 outputs, so that half of their slopes hold more than half of it
        surrogate = mlp(task.num_inputs, task.num_outputs, config.width)
        return ndgrad.GuidedEvolutionStrategy(
            surrogate, sigma=task.sigma, num_samples=probes // 2, num_guides=probes // 4,
            fit_steps=config.fit_steps, replay=config.control_replay,
        )  # fmt: skip

    return {
        "leave_one_out": lambda: leave_one_out(config.probes),
        "diff_bypass": lambda: bypass(config.probes, replay=0),
        "diff_bypass_difference": lambda: matched(config.probes),
        "control_variate": lambda: control_variate(config.probes, fits=1),
        "guided_evolution_strategy": lambda: guided(config.probes),
        "mixture": lambda: ndgrad.Mixture(control_variate(config.probes // 2, fits=2), matched(probes=0)),
        "few_leave_one_out": lambda: leave_one_out(config.few_probes),
        "few_diff_bypass": lambda: bypass(config.few_probes, replay=0),
        "few_diff_bypass_replay": lambda: bypass(config.few_probes, config.replay),
    }


def _error(task: Task, make: Callable[[], ndgrad.Estimator], points: list[Point], seed: int) -> float:
    """Relative squared error over the path, less what the true gradient's own noise adds."""
    torch.manual_seed(seed)
    box = ndgrad.wrap(task.function, estimator=make(), interface=task.interface)
    squared = [
        float((gradient(box, p.x, p.cotangent) - p.true).square().sum()) - p.squared_standard_error
        for p in points
    ]
    return sum(squared) / _squared_norm(points)


def _squared_norm(points: list[Point]) -> float:
    return sum(float(p.true.square().sum()) - p.squared_standard_error for p in points)


def _summary(errors: dict[str, list[float]], points: list[Point], config: Config) -> dict[str, Any]:
    average = {name: mean(values) for name, values in errors.items()}
    ratios = {name: average[name] / average[base] for name, (base, _) in REQUIREMENTS.items()}
    return {
        "ratios": ratios,
        "relative_squared_errors": errors,
        "reference_squared_standard_error": sum(p.squared_standard_error for p in points)
        / _squared_norm(points),
        "seeds": list(range(config.seeds)),
    } | provenance(config)


def _print(results: dict[str, Any]) -> None:
    print("squared error over the path / squared norm of the true gradient, mean ± deviation over the seeds")
    for name, values in results["relative_squared_errors"].items():
        deviation = stdev(values) if len(values) > 1 else float("nan")
        print(f"  {name:24s} {mean(values):8.4f} ± {deviation:.4f}")
    print(
        f"  (standard error of the true gradient, squared: {results['reference_squared_standard_error']:.1e})"
    )
    for name, ratio in results["ratios"].items():
        base, most = REQUIREMENTS[name]
        print(f"  {f'{name} / {base}':48s} {ratio:.3f} (required: at most {most})")
    better = min(results["ratios"][name] for name in ("control_variate", "diff_bypass_difference"))
    ratio = results["ratios"]["mixture"] / better
    print(f"  {'mixture / the better of its two parts':48s} {ratio:.3f} (required: below 1)")
    print(f"{results['seconds']} s, {results['threads']} thread(s), {results['device']}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
