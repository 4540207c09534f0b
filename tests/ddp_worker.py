"""What each rank of `test_torch_distributed` runs; a module of its own, which spawned processes import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import ndgrad

B, n, m, S = 6, 4, 3, 8
STEPS = 3


def stairs(x: Tensor) -> Tensor:
    return torch.round(4 * x) / 4


def model(estimator: ndgrad.Estimator) -> nn.Sequential:
    torch.manual_seed(0)  # the same weights on every rank; DDP would send those of rank 0 anyway
    return nn.Sequential(nn.Linear(n, m), ndgrad.wrap(stairs, estimator=estimator), nn.Linear(m, 1)).double()


def batch(step: int) -> Tensor:
    return torch.randn(B, n, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def loss_of(net: nn.Module, x: Tensor) -> Tensor:
    return (net(x) - x.sum(1, keepdim=True)).square().mean()


def generator(rank: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + rank)


def estimators(rank: int, world_size: int) -> dict[str, ndgrad.Estimator]:
    return {
        "es": ndgrad.EvolutionStrategy(S // world_size, 0.3, generator=generator(rank)),
        "adaptive": ndgrad.EvolutionStrategy(
            S // world_size, ndgrad.AdaptiveSigma(0.1), generator=generator(rank)
        ),
        "bypass": ndgrad.DiffBypass(
            sigma=0.3, num_samples=4, fit_steps=2, replay=1, generator=generator(rank)
        ),
    }


def run(rank: int, world_size: int, folder: str) -> None:
    """Train with both ways to give rows to the ranks, and write what the tests compare into ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    results = {
        rows: {name: train(each, rows) for name, each in estimators(rank, world_size).items()}
        for rows in ("split", "same")
    }
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def train(estimator: ndgrad.Estimator, rows: str) -> dict[str, Any]:
    """Take some steps: with "split" rows each rank has a part of the batch, with the "same" all of it."""
    net = DistributedDataParallel(model(estimator))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    gradients = []
    for step in range(STEPS):
        x = batch(step)
        optimizer.zero_grad()
        part = x.chunk(dist.get_world_size())[dist.get_rank()]
        loss_of(net, part if rows == "split" else x).backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        optimizer.step()
    return {
        "parameters": [p.detach() for p in net.parameters()],
        "gradients": gradients,
        "state": net.module.state_dict(),
        "num_evaluations": net.module[1].num_evaluations,
    }
