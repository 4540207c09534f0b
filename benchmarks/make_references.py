"""Estimate the reference gradients that have no closed form, and store them with their standard errors.

    python -m benchmarks.make_references --tasks rounded_tanh tandem_queue

Plain numbers in JSON: the gradient, its standard error, the point, cotangent and sigma they belong to, seed
and versions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.progress import Progress
from torch import Tensor

from benchmarks.provenance import versions, write_atomically
from benchmarks.smoothed_gradient import smoothed_gradient
from benchmarks.stored_references import DIRECTORY
from benchmarks.tasks import TASKS, Task

_DIGITS = 7  # significant digits of the stored numbers


@dataclass(frozen=True)
class Config:
    """Which references to make, and how well."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; none means every task without a closed form."""
    pairs: int = 1_000_000
    """Antithetic pairs of evaluations per row."""
    seed: int = 20261124
    """Seed of the directions."""
    out: Path = DIRECTORY
    """Folder of the JSON files."""


def main(config: Config) -> list[Path]:
    """Make and store the references; returns the files written."""
    tasks = [TASKS[name]() for name in config.tasks or TASKS]
    wanted = [task for task in tasks if task.closed_form is None]
    return [_make(task, config) for task in wanted]


def _make(task: Task, config: Config) -> Path:
    generator = torch.Generator().manual_seed(config.seed)
    with Progress() as progress:
        bar = progress.add_task(task.name, total=config.pairs)
        gradient, standard_error = smoothed_gradient(
            task.fast_values, task.start, task.cotangent, task.sigma, config.pairs, generator,
            advance=lambda done: progress.advance(bar, done),
        )  # fmt: skip
    print(f"{task.name}: relative standard error {standard_error.norm() / gradient.norm():.4f}")
    path = config.out / f"{task.name}.json"
    content = {
        "task": task.name,
        "pairs": config.pairs,
        "seed": config.seed,
        "sigma": task.sigma,
        "versions": versions(),
        "start": _numbers(task.start),
        "cotangent": _numbers(task.cotangent),
        "gradient": _numbers(gradient),
        "standard_error": _numbers(standard_error),
    }
    write_atomically(path, json.dumps(content) + "\n")
    return path


def _numbers(x: Tensor) -> list[object] | float:
    if x.dim() == 0:
        return float(f"{x.item():.{_DIGITS}g}")
    return [_numbers(row) for row in x]


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
