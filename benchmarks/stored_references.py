"""The true smoothed gradient of a task: its closed form, or an estimate stored with its standard error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.tasks.task import Task

DIRECTORY = Path(__file__).parent / "references"


@dataclass(frozen=True)
class Reference:
    """Gradient of ``<v, E f(x + sigma eps)>`` at the task's start, entry by entry with its standard error."""

    gradient: Tensor  # (B, ...)
    standard_error: Tensor  # (B, ...); 0 for a closed form
    source: str

    @property
    def squared_error(self) -> float:
        """Expected squared distance between this reference and the truth."""
        return float(self.standard_error.square().sum())

    @property
    def relative_error(self) -> float:
        """The same as a share of the gradient's norm."""
        return float(self.squared_error**0.5 / self.gradient.norm())


def reference(task: Task, directory: Path = DIRECTORY) -> Reference:
    """Return the closed form where the task has one, else the stored estimate.

    Raises:
        FileNotFoundError: if no estimate is stored.
        ValueError: if the stored estimate belongs to another point, cotangent or sigma.
    """
    if task.closed_form is not None:
        gradient = task.closed_form(task.start, task.cotangent)
        return Reference(gradient, torch.zeros_like(gradient), "closed form")
    return _load(task, directory / f"{task.name}.json")


def _load(task: Task, path: Path) -> Reference:
    remedy = f"run `python -m benchmarks.make_references --tasks {task.name}`"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no reference gradient is stored for {task.name}; {remedy}")
    stored = json.loads(path.read_text())
    for what, now in (
        ("start", task.start),
        ("cotangent", task.cotangent),
        ("sigma", torch.tensor(task.sigma)),
    ):
        then = torch.tensor(stored[what])
        if then.shape != now.shape or (then - now).abs().max() > 1e-4:
            raise ValueError(
                f"{path}: the stored reference has another {what} than the task {task.name}; {remedy}"
            )
    source = f"{stored['pairs']:.0e} antithetic Gaussian pairs, seed {stored['seed']}"
    return Reference(torch.tensor(stored["gradient"]), torch.tensor(stored["standard_error"]), source)
