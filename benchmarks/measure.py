"""How far an estimator's gradient is from the reference, over many seeds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

import ndgrad
from benchmarks.stored_references import Reference
from benchmarks.tasks import Task
from benchmarks.variants import Variant


@dataclass(frozen=True)
class Accuracy:
    """Errors relative to the norm of the reference; ``seconds`` per forward and backward.

    ``raw_relative_error`` is that of the number before a conversion of units, where a library needs one.
    """

    relative_error: float
    raw_relative_error: float
    relative_error_standard_error: float
    cosine: float
    squared_bias: float
    variance: float
    seconds: float
    evaluations_used: int


def measure(
    task: Task,
    variant: Variant,
    num_samples: int,
    reference: Reference,
    seeds: list[int],
    approach_steps: int,
    factor: float = 1.0,
) -> Accuracy:
    """Estimate the gradient at the task's start once per seed, each time with a fresh estimator.

    ``factor`` is what the estimator multiplied its raw number by.
    """
    runs = [_run(task, variant, num_samples, seed, approach_steps) for seed in seeds]
    gradients = torch.stack([gradient for gradient, _, _ in runs])  # (T, B, ...), T seeds
    return Accuracy(
        **summarise(gradients, reference),
        raw_relative_error=summarise(gradients / factor, reference)["relative_error"],
        seconds=median(seconds for _, seconds, _ in runs),
        evaluations_used=max(used for _, _, used in runs),
    )


def summarise(gradients: Tensor, reference: Reference) -> dict[str, float]:
    """Compute error, cosine, squared bias and variance of ``gradients`` (T, B, ...).

    With ``T`` estimates of variance ``V`` each, ``E |mean - reference|^2 = bias^2 + V / T + e^2``, ``e``
    the reference's own standard error; the last two terms are subtracted. ``T = 1`` leaves the variance
    unknown: NaN.
    """
    T = len(gradients)
    g, true = gradients.double().flatten(1), reference.gradient.double().flatten()  # (T, B n), (B n,)
    norm = true.norm()
    errors = (g - true).norm(dim=1) / norm  # (T,)
    variance = g.var(dim=0, correction=1).sum() if T > 1 else torch.tensor(float("nan"))
    offset = (g.mean(0) - true).square().sum()
    cosines = (g @ true) / (g.norm(dim=1) * norm).clamp_min(
        torch.finfo(g.dtype).tiny
    )  # 0 for a gradient of 0
    return {
        "relative_error": float(errors.mean()),
        "relative_error_standard_error": float(errors.std(correction=1) / T**0.5) if T > 1 else float("nan"),
        "cosine": float(cosines.mean()),
        "squared_bias": float((offset - variance / T - reference.squared_error) / norm**2),
        "variance": float(variance / norm**2),
    }


def approach(task: Task, steps: int) -> list[Tensor]:
    """List points on a straight line that ends one step before the start.

    The line is one typical ``|sigma eps|`` long. An estimator that learns from call to call is met as in an
    optimisation, after some calls nearby. The offset is the same for every estimator and seed.
    """
    offset = task.sigma * torch.randn(task.start.shape, generator=torch.Generator().manual_seed(steps))
    return [task.start + (1 - k / steps) * offset for k in range(steps)]


def _run(
    task: Task, variant: Variant, num_samples: int, seed: int, approach_steps: int
) -> tuple[Tensor, float, int]:
    """Gradient at the start, seconds, evaluations per row."""
    torch.manual_seed(seed)
    box = ndgrad.wrap(task.function, estimator=variant.build(task, num_samples), interface=task.interface)
    for x in approach(task, approach_steps) if variant.learns else []:
        gradient(box, x, task.cotangent)
    before = box.num_evaluations
    begin = time.perf_counter()
    g = gradient(box, task.start, task.cotangent)
    seconds = time.perf_counter() - begin
    return g, seconds, math.ceil((box.num_evaluations - before) / task.batch)


def gradient(box: ndgrad.BlackBox, x: Tensor, cotangent: Tensor) -> Tensor:
    """One forward and one backward with ``cotangent``."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(box(x), x, cotangent)
    return g
