"""Parameters inside a black box, trained together with the network before it, against those that made the data.

    python -m benchmarks.parameterised --out benchmarks/results

Two functions without a derivative, in NumPy and SciPy: a thresholding chain (threshold, connected regions, least area)
with two parameters, and a dynamic program (the cheapest path through a cost map) whose smoothness is one. The targets
come from the same function with known parameters, behind a known smoothing kernel. Training starts from other
parameters and a flat kernel, and sees noisy inputs and targets only. One Adam trains everything, through an evolution
strategy; the dynamic program also through a bypass over map and smoothness.

The parameters can be told from the network because its kernel is a softmax: non-negative weights that sum to 1 keep
the scale and the mean of an image. A free kernel would double the brightness as well as the threshold, or the
costs as well as the smoothness, and leave the output as it is.

The recovered least area can be no more exact than the data: regions have whole numbers of pixels, and any least area
in (30, 31] gives the same masks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

import ndgrad
from benchmarks.networks import MapAndNumber
from benchmarks.parameterised_chains import blobs, large_bright_regions, smooth_path, valleys
from benchmarks.provenance import provenance, write_json


@dataclass(frozen=True)
class Problem:
    """A black box, the parameters and the kernel that make the data, and how training starts and runs."""

    function: Callable[..., Any]
    inputs: Callable[[int, torch.Generator], Tensor]
    true: dict[str, float]
    start: dict[str, float]
    rates: dict[str, float]
    """Learning rate of each parameter."""
    kernel: tuple[float, ...]
    """Binomial weights of the true smoothing along one axis."""
    loss: Callable[[Tensor, Tensor], Tensor]
    estimator: Callable[[], ndgrad.Estimator]
    steps: int = 600
    """Steps of Adam, each on new inputs; all learning rates fall to 0 along a cosine."""
    batch: int = 32
    """Inputs of one step."""


_THRESHOLD_CHAIN = Problem(
    large_bright_regions,
    blobs,
    true={"threshold": 0.4, "area": 0.305},
    start={"threshold": 0.55, "area": 0.15},
    rates={"threshold": 0.005, "area": 0.005},
    kernel=(1, 4, 6, 4, 1),
    loss=F.mse_loss,
    estimator=lambda: ndgrad.EvolutionStrategy(num_samples=20, sigma=0.05),
)
_SMOOTH_PATH = Problem(
    smooth_path,
    valleys,
    true={"smoothness": 0.2},
    start={"smoothness": 0.5},
    rates={"smoothness": 0.02},
    kernel=(1, 2, 1),
    loss=F.smooth_l1_loss,
    estimator=lambda: ndgrad.EvolutionStrategy(num_samples=20, sigma=0.03),
)


def _bypass() -> ndgrad.Estimator:
    """Two earlier calls stay in the fit; map and smoothness have a sigma each."""
    return ndgrad.DiffBypass(
        MapAndNumber(map_scale=0.5, number_scale=0.2), sigma=(0.1, 0.05), num_samples=4, replay=2,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    )  # fmt: skip


PROBLEMS = {
    "threshold_chain": _THRESHOLD_CHAIN,
    "smooth_path": _SMOOTH_PATH,
    "smooth_path_bypass": replace(_SMOOTH_PATH, estimator=_bypass, steps=300, batch=16),
}


@dataclass(frozen=True)
class Config:
    """What is trained, and for how long."""

    problems: tuple[str, ...] = tuple(PROBLEMS)
    """Names of the problems."""
    shorten: int = 1
    """Divides the steps of every problem."""
    kernel_rate: float = 0.05
    """Learning rate of the kernel's logits."""
    held_out: int = 500
    """Inputs for the comparison before and after."""
    seeds: int = 5
    """Runs, each with data, noise and directions of its own."""
    threads: int = 1
    """Threads of torch."""
    out: Path | None = None
    """Folder for parameterised_<problem>.json; nothing is written without it."""


class Smoothing(nn.Module):
    """Convolution with a kernel of non-negative weights that sum to 1, flat at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(width, width))

    @property
    def kernel(self) -> Tensor:
        return self.logits.flatten().softmax(0).view_as(self.logits)

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W)
        margin = [len(self.logits) // 2] * 4
        padded = F.pad(x.unsqueeze(1), margin, mode="replicate")
        return F.conv2d(padded, self.kernel[None, None]).squeeze(1)


def main(config: Config) -> dict[str, Any]:
    """Train every problem with every seed; prints and returns what was recovered."""
    torch.set_num_threads(config.threads)
    results = {name: _results(name, config) for name in config.problems}
    for name, of_problem in results.items():
        _print(of_problem)
        write_json(config.out, f"parameterised_{name}", of_problem)
    return results


def _results(name: str, config: Config) -> dict[str, Any]:
    problem = PROBLEMS[name]
    runs = [train(problem, seed, config) for seed in track(range(config.seeds), name)]
    worst = max(abs(error) for run in runs for error in run["relative_errors"].values())
    return {
        "problem": name, "true": problem.true, "steps": problem.steps // config.shorten, "batch": problem.batch,
        "worst_relative_error": worst, "runs": runs,
    } | provenance(config)  # fmt: skip


def train(problem: Problem, seed: int, config: Config) -> dict[str, Any]:
    """Train parameters and kernel from one seed; returns where they went and how well the outputs agree."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    truth, network = _true_network(problem), Smoothing(len(problem.kernel))
    box = ndgrad.wrap(problem.function, estimator=problem.estimator(), parameters=problem.start)
    steps = problem.steps // config.shorten
    groups = [{"params": [p], "lr": problem.rates[name]} for name, p in box.named_parameters()]
    optimiser = torch.optim.Adam([*groups, {"params": network.parameters(), "lr": config.kernel_rate}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    held_out = problem.inputs(config.held_out, generator)

    def report() -> dict[str, float]:
        with torch.no_grad():
            agree = box(network(held_out)) == _target(problem, truth, held_out)
        off = (network.kernel - truth.kernel).detach().abs().sum() / 2
        return {"disagreement": 1 - float(agree.float().mean()), "misplaced_kernel_weight": float(off)}

    before, begin = report(), time.perf_counter()
    for _ in range(steps):
        x = problem.inputs(problem.batch, generator)
        optimiser.zero_grad()
        problem.loss(box(network(x)), _target(problem, truth, x)).backward()
        optimiser.step()
        schedule.step()
    seconds = time.perf_counter() - begin
    learnt = {name: p.item() for name, p in box.named_parameters()}
    errors = {name: learnt[name] / true - 1 for name, true in problem.true.items()}
    return {
        "seed": seed, "parameters": learnt, "relative_errors": errors, "before": before, "after": report(),
        "seconds": round(seconds, 1),
        "evaluations": box.num_evaluations,
    }  # fmt: skip


def _true_network(problem: Problem) -> Smoothing:
    network = Smoothing(len(problem.kernel))
    weights = torch.tensor(problem.kernel)
    with torch.no_grad():
        network.logits.copy_(torch.outer(weights, weights).log())
    return network


@torch.no_grad()
def _target(problem: Problem, truth: Smoothing, x: Tensor) -> Tensor:
    """Return what the black box makes of ``x`` behind the true kernel, with the true parameters."""
    rows = {name: np.full(len(x), value, np.float32) for name, value in problem.true.items()}
    return torch.from_numpy(problem.function(truth(x).numpy(), **rows)).float()


def _print(results: dict[str, Any]) -> None:
    print(
        f"{results['problem']}: true {results['true']}; {results['threads']} thread(s), {results['device']}"
    )
    for run in results["runs"]:
        learnt = ", ".join(
            f"{name} {value:.4f} ({run['relative_errors'][name]:+.1%})"
            for name, value in run["parameters"].items()
        )
        before, after = run["before"], run["after"]
        print(
            f"  seed {run['seed']}: {learnt}; held-out entries that disagree {before['disagreement']:.2%} -> "
            f"{after['disagreement']:.2%}, misplaced kernel weight {before['misplaced_kernel_weight']:.3f} -> "
            f"{after['misplaced_kernel_weight']:.3f}; {run['evaluations']} evaluations, {run['seconds']} s"
        )
    print(f"  worst error of a parameter: {results['worst_relative_error']:.1%} (at most 5%)")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
