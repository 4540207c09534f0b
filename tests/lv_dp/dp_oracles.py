"""Independent solvers of the closed-contour problem and families of costs to try them on."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import torch
import torch.nn.functional as F
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


def enumeration(costs: Tensor, delta: int) -> tuple[Tensor, Tensor]:
    """The rule that all backends share, without bounds: every start on its own, indices (B, N), energy (B,).

    The best open chain of all starts is taken if it closes, else the chain of the lowest best start.
    """
    costs = costs.nan_to_num(nan=torch.inf, posinf=torch.inf)
    B, N, M = costs.shape
    delta = min(delta, M - 1)
    index = torch.arange(M)
    chosen = torch.cat([torch.ones(1, M, dtype=torch.bool), torch.eye(M, dtype=torch.bool)])  # (1+M, M)
    within = torch.cat([chosen[:1], (index[:, None] - index).abs() <= delta])  # ends that close
    lines = [costs[:, None, 0].masked_fill(~chosen, torch.inf)]  # of (B, 1+M, M)
    for n in range(1, N):
        windows = F.pad(lines[-1], (delta, delta), value=torch.inf).unfold(2, 2 * delta + 1, 1)
        lines.append(windows.amin(3) + costs[:, None, n])
    ends = lines[-1].masked_fill(~within, torch.inf)
    energies = ends.amin(2)  # (B, 1+M)
    last = (ends == energies[..., None]).int().argmax(2)
    chain = [last]
    for n in range(N - 2, -1, -1):
        near = (chain[0][..., None] - index).abs() <= delta  # (B, 1+M, M)
        window = lines[n].masked_fill(~near, torch.inf)
        best = near & (window == window.amin(2, keepdim=True))
        chain.insert(0, best.int().argmax(2))
    chains = torch.stack(chain, dim=2)  # (B, 1+M, N)
    closes = (chains[:, 0, 0] - chains[:, 0, -1]).abs() <= delta
    start = (energies[:, 1:] == energies[:, 1:].amin(1, keepdim=True)).int().argmax(1) + 1
    pick = torch.where(closes, 0, start)
    energy = energies[torch.arange(B), pick]
    return chains[torch.arange(B), pick].masked_fill(energy.isinf()[:, None], 0), energy


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
    """Costs by kind: noise, ring, noisy_ring, integers, spiral, and kinds with holes or sums tied by rounding."""
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
        case "tied":
            return torch.randint(0, 2, (B, N, M), generator=generator).float()
        case "tenths":  # exactly tied sums round to different numbers, and different sums to one
            return torch.randint(-9, 10, (B, N, M), generator=generator) / 10
        case (
            "coarse"
        ):  # so dear that most sums tie by rounding, and lower starts tie with the one found first
            return noise + 3e6
        case "absorbed":  # one line makes sums equal that differed before it
            return noise + 2e7 * (torch.arange(N) == N // 2)[:, None]
        case "inf20" | "inf50" | "inf90":
            holes = torch.rand(B, N, M, generator=generator) < float(name[3:]) / 100
            return noise.masked_fill(holes, torch.inf)
        case "nan":
            return noise.masked_fill(torch.rand(B, N, M, generator=generator) < 0.2, torch.nan)
    raise ValueError(name)
