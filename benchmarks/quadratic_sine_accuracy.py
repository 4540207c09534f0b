"""Directions and fits on ``|x|^2 + sum sin(3 x) / 2 + 5``, with budgets above and below the dimension.

    python -m benchmarks.quadratic_sine_accuracy

In 10 inputs and 41 evaluations, 20 orthogonal pairs are nearly exact, and so is a least-squares fit to 20 pairs, which
Gaussian or Sobol directions averaged by themselves are not. In 100 inputs and 40 evaluations only
a part of the gradient can be seen: the projection on ``S`` orthogonal directions, times ``d / S``, is unbiased
and has a relative error of ``sqrt(d / S - 1)`` on a linear function. The leave-one-out baseline takes the mean
direction away as well, and leaves ``sqrt(d / (S - 1) - 1)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import torch
import tyro

import ndgrad
from benchmarks.measure import gradient
from benchmarks.provenance import provenance, write_json
from benchmarks.tasks import TASKS


@dataclass(frozen=True)
class Config:
    """Sizes of the experiment."""

    seeds: int = 30
    """Independent estimates, each of a batch of six points."""
    out: Path | None = None
    """Folder for quadratic_sine_accuracy.json; nothing is written without it."""


def main(config: Config) -> dict[str, Any]:
    """Measure both errors; prints and returns them."""
    pairs = {
        name: _relative_error("quadratic_sine", estimator, config) for name, estimator in _pairs(20).items()
    }
    S = 39  # 40 evaluations, one of them the value
    results: dict[str, Any] = {
        "pairs_relative_error": pairs["orthogonal pairs"],
        "pairs_relative_errors": pairs,
        "expected_without_pairs": {"loo": math.sqrt(100 / (S - 1) - 1), "fx": math.sqrt(100 / S - 1)},
        "without_pairs_relative_error": {
            baseline: _relative_error("quadratic_sine_100", _without_pairs(S, baseline), config)
            for baseline in ("loo", "fx")
        },
        "seeds": list(range(config.seeds)),
    } | provenance(config)
    _print(results)
    write_json(config.out, "quadratic_sine_accuracy", results)
    return results


def _pairs(S: int) -> dict[str, ndgrad.Estimator]:
    return {
        "orthogonal pairs": ndgrad.EvolutionStrategy(S, 0.05, directions="orthogonal"),
        "Gaussian pairs": ndgrad.EvolutionStrategy(S, 0.05, directions="gaussian"),
        "Sobol pairs": ndgrad.EvolutionStrategy(S, 0.05, directions="sobol"),
        "least squares, orthogonal": ndgrad.LeastSquares(S, 0.05, directions="orthogonal"),
        "least squares, Gaussian": ndgrad.LeastSquares(S, 0.05, directions="gaussian"),
    }


def _without_pairs(S: int, baseline: Literal["loo", "fx"]) -> ndgrad.Estimator:
    return ndgrad.EvolutionStrategy(S, 0.05, antithetic=False, directions="orthogonal", baseline=baseline)


def _relative_error(name: str, estimator: ndgrad.Estimator, config: Config) -> float:
    """Mean over seeds and points of ``|g - true| / |true|``, the true gradient that of ``f`` itself."""
    task = TASKS[name]()
    box = ndgrad.wrap(task.function, estimator=estimator)
    true = 2 * task.start + 1.5 * torch.cos(3 * task.start)  # (B, n)
    errors = []
    for seed in range(config.seeds):
        torch.manual_seed(seed)
        g = gradient(box, task.start, task.cotangent)
        errors.append(float(((g - true).norm(dim=1) / true.norm(dim=1)).mean()))
    return mean(errors)


def _print(results: dict[str, Any]) -> None:
    print(f"relative error, mean of {len(results['seeds'])} seeds and 6 points; {results['device']}")
    for name, error in results["pairs_relative_errors"].items():
        print(f"  d = 10, 41 evaluations, {name}: {error:.4f}")
    for baseline, error in results["without_pairs_relative_error"].items():
        expected = results["expected_without_pairs"][baseline]
        distance = f"{error / expected - 1:+.1%} from {expected:.3f} on a linear function"
        print(f"  d = 100, 40 evaluations, baseline {baseline}: {error:.3f}, {distance}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
