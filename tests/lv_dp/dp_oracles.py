"""Independent solvers of the closed-contour problem and families of costs to try them on."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import torch
from torch import Tensor


def brute_force(costs: Tensor, delta: int) -> tuple[tuple[int, ...] | None, float]:
    """Try every contour in lexicographic order; returns the pointwise minimum of the optimal ones."""
    N, M = costs.shape
    table = costs.tolist()
    best, winners = math.inf, []
    for contour in itertools.product(range(M), repeat=N):
        if any(abs(contour[n] - contour[(n + 1) % N]) > delta for n in range(N)):
            continue
        energy = sum(table[n][v] for n, v in enumerate(contour))
        if math.isnan(energy) or energy == math.inf:
            continue
        if energy < best:
            best, winners = energy, []
        if energy == best:
            winners.append(contour)
    return (tuple(map(min, zip(*winners, strict=True))) if winners else None), best


def networkx_energy(costs: Tensor, delta: int) -> float:
    """Cheapest closed contour by Dijkstra on the layered graph, one start index at a time."""
    N, M = costs.shape
    table = (costs - costs.min()).tolist()  # Dijkstra wants non-negative weights
    graph = nx.DiGraph()
    for n in range(1, N + 1):
        for k, j in itertools.product(range(M), repeat=2):
            if abs(k - j) <= delta:
                graph.add_edge((n - 1, k), (n, j), weight=table[n % N][j])
    starts = range(M)
    energy = min(nx.dijkstra_path_length(graph, (0, s), (N, s)) for s in starts)
    return float(energy + N * costs.min())


def dense_algorithm_2(costs: Tensor, delta: int) -> Tensor:
    """The thesis' algorithm 2 on E(n, i, j) = h(n, i) + h(n+1, j), back-tracked down to line 2: (B, N)."""
    B, N, M = costs.shape
    index = torch.arange(M)
    far = (index[:, None] - index).abs() > delta
    following = costs.roll(-1, dims=1)
    E = (costs[:, :, :, None] + following[:, :, None, :]).masked_fill(far, torch.inf)  # (B, N, M, M)
    value, back = E[:, 0], []  # value (B, start i, k)
    for n in range(1, N - 1):
        value, argument = (value[:, :, :, None] + E[:, n, None]).min(dim=2)
        back.append(argument)  # (B, start i, k)
    total = value + E[:, N - 1].transpose(1, 2)  # (B, start i, last k)
    flat = total.flatten(1).argmin(dim=1)
    start, current = flat // M, flat % M
    contour, rows = [current], torch.arange(B)
    for argument in reversed(back):
        current = argument[rows, start, current]
        contour.append(current)
    return torch.stack([start, *reversed(contour)], dim=1)


def energy_of(costs: Tensor, contour: Tensor) -> Tensor:
    """Left-to-right sum from line 0 in the working precision: (B,)."""
    picked = costs.gather(2, contour[:, :, None])[:, :, 0]
    total = picked[:, 0].clone()
    for n in range(1, picked.shape[1]):
        total = total + picked[:, n]
    return total


def is_feasible(contour: Tensor, delta: int) -> bool:
    return bool(((contour - contour.roll(-1, dims=1)).abs() <= delta).all())


def family(name: str, B: int, N: int, M: int, seed: int = 0) -> Tensor:
    """Costs by kind: noise, ring, noisy_ring, integers, spiral."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(B, N, M, generator=generator)
    radius = 0.5 * M + 0.1 * M * torch.rand(B, 1, 1, generator=generator)
    ring = (torch.arange(M) - radius).square() / M
    match name:
        case "noise":
            return noise
        case "ring":
            return ring + 0.01 * noise
        case "noisy_ring":
            return ring + 0.5 * noise
        case "integers":
            return torch.randint(-2, 3, (B, N, M), generator=generator).float()
        case "spiral":  # the best open chain climbs from innermost to outermost and cannot close
            climb = torch.linspace(0, M - 1, N)[:, None]
            return (torch.arange(M) - climb).abs() - 3.0 * ((torch.arange(M) - climb).abs() < 1) + 0.1 * noise
    raise ValueError(name)
