"""A linear layer trained through a staircase by the bypass, its evaluations kept in the folder ``cache``.

Everything else that is needed to go on is in one file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import ndgrad
from benchmarks.killed import announced

FILE = Path("run/checkpoint.pt")
STEPS, EVERY = 30, 5


def staircase(x: NDArray[Any]) -> NDArray[Any]:
    """Count stairs."""
    return np.round(4 * np.tanh(x)) / 4


def state(model: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float]) -> dict[str, Any]:
    """Return what a checkpoint must hold."""
    return {
        "model": model.state_dict(),  # the bypass' network, optimiser and replay are in it
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "losses": losses,
    }


def save(path: Path, content: dict[str, Any]) -> None:
    """Write beside the old file, then put the new one in its place."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Take one step on fresh data."""
    x = torch.randn(16, 5)
    target = torch.from_numpy(staircase(x.numpy())).sum(1, keepdim=True)
    loss: Tensor = (model(x) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def score(model: nn.Module) -> float:
    """Return the error on a fixed grid."""
    x = torch.linspace(-2, 2, 500).reshape(100, 5)
    with torch.no_grad():
        error = float(model.eval()(x).square().mean())
    model.train()
    return error


def main() -> None:
    """Train, or go on."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    estimator = ndgrad.DiffBypass(num_samples=4, fit_steps=3, replay=2)
    box = ndgrad.wrap(staircase, estimator=estimator, cache="cache", cache_key="staircase")
    model = nn.Sequential(nn.Linear(5, 3), box, nn.Linear(3, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses: list[float] = []
    FILE.parent.mkdir(exist_ok=True)
    if FILE.exists():
        found = torch.load(FILE, weights_only=True)
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["random"])
        losses = found["losses"]
    write, train, evaluate = (
        announced(phase, function)
        for phase, function in (("writing a checkpoint", save), ("training", step), ("evaluation", score))
    )
    while len(losses) < STEPS:
        losses.append(train(model, optimizer))
        if len(losses) % EVERY == 0:
            evaluate(model)
            write(FILE, state(model, optimizer, losses))


if __name__ == "__main__":
    main()
