"""The dynamic program on CUDA devices, in Triton: a relaxed pass per row, then every start of the rows left open.

All starts instead of branch and bound: a device tries them at once, and the host need not wait between launches.
A program holds a block of starts times all M entries in registers and walks along the lines.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from applications.lv_dp.dynamic_programming.rules import reject_low_costs

_BLOCK_ENTRIES = 1024  # starts times entries that one program holds


def solve(costs: Tensor, delta: int) -> tuple[Tensor, Tensor]:
    """Solve every row of ``costs`` (B, N, M) with ``delta`` <= M-1; see the package's ``solve``."""
    reject_low_costs(costs)
    if costs.shape[0] == 0:
        return torch.zeros(costs.shape[:2], dtype=torch.int64, device=costs.device), costs[:, 0, 0]
    with torch.cuda.device_of(costs):  # kernels run on the current device
        return _solve(costs, delta)


def _solve(costs: Tensor, delta: int) -> tuple[Tensor, Tensor]:
    B, N, M = costs.shape
    paths = torch.zeros(B, N, dtype=torch.int64, device=costs.device)
    values = costs.new_empty(B, N, M)
    innermost = paths.new_zeros(B, 1)

    nothing_done = torch.zeros(B, dtype=torch.bool, device=costs.device)
    relaxed = _chains(costs, innermost, innermost + (M - 1), nothing_done, delta, values, paths)  # (B,)
    done = ((paths[:, 0] - paths[:, -1]).abs() <= delta) | relaxed.isinf()

    every_start = torch.arange(M, device=costs.device).repeat(B, 1)  # (B, M)
    energies = _sweep(costs, every_start, every_start, done, delta, None)  # (B, M), inf where done
    start = energies.argmin(dim=1, keepdim=True)  # (B, 1), the lowest of equals
    closed = _chains(costs, start, start, done, delta, values, paths)  # (B,)
    energy = torch.where(done, relaxed, closed)
    return paths.masked_fill(energy.isinf()[:, None], 0), energy


def _chains(
    costs: Tensor, lo: Tensor, hi: Tensor, done: Tensor, delta: int, values: Tensor, paths: Tensor
) -> Tensor:
    """Energies (B,) of the best chains that start in lo .. hi (each (B, 1)); ``paths`` (B, N) gets the chains."""
    B, N, M = costs.shape
    energies = _sweep(costs, lo, hi, done, delta, values)
    window = triton.next_power_of_2(2 * delta + 1)
    _trace_kernel[(B,)](values, lo, hi, done, paths, delta, N, M, window, triton.next_power_of_2(M))
    return energies[:, 0]


def _sweep(costs: Tensor, lo: Tensor, hi: Tensor, done: Tensor, delta: int, values: Tensor | None) -> Tensor:
    """Energies (B, K) of the best chains that start in lo .. hi (each (B, K)) and end in lo-delta .. hi+delta.

    With ``values`` (B, N, M), and K = 1, the least energy up to every entry is kept for the way back.
    """
    B, N, M = costs.shape
    K = lo.shape[1]
    entries = triton.next_power_of_2(M)
    block = min(triton.next_power_of_2(K), max(1, _BLOCK_ENTRIES // entries))
    energies = costs.new_full((B, K), torch.inf)
    doublings = max(0, delta - 1).bit_length()
    _sweep_kernel[(B, triton.cdiv(K, block))](
        costs, *costs.stride(), lo, hi, done, energies, energies if values is None else values,
        K, delta, N, M, block, entries, delta > 0, doublings, values is not None,
    )  # fmt: skip
    return energies


@triton.jit
def _sweep_kernel(
    costs, stride_b, stride_n, stride_v, lo, hi, done, energies, values, K, delta,
    N: tl.constexpr, M: tl.constexpr, STARTS: tl.constexpr, ENTRIES: tl.constexpr,
    WINDOW: tl.constexpr, DOUBLINGS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    if tl.load(done + b) == 0:
        k = tl.program_id(1) * STARTS + tl.arange(0, STARTS)
        v = tl.arange(0, ENTRIES)
        first = tl.load(lo + b * K + k, mask=k < K, other=M)[:, None]  # (STARTS, 1)
        final = tl.load(hi + b * K + k, mask=k < K, other=-1)[:, None]
        entry = tl.zeros((STARTS, ENTRIES), tl.int32) + v[None, :]
        line = costs + b * stride_b + v[None, :] * stride_v  # (1, ENTRIES)
        inside = v[None, :] < M
        cost = tl.load(line, mask=inside, other=float("inf"))
        cost = tl.where(cost == cost, cost, float("inf"))  # NaN forbids, too
        value = tl.where((entry >= first) & (entry <= final), cost, float("inf"))
        if KEEP:
            tl.store(values + b * N * M + entry, value, mask=entry < M)
        for n in range(1, N):
            if WINDOW:  # radius 1, then each step joins two windows of the last radius
                below = tl.gather(value, tl.maximum(entry - 1, 0), 1)
                above = tl.gather(value, tl.minimum(entry + 1, ENTRIES - 1), 1)
                value = tl.minimum(value, tl.minimum(below, above))
            for j in tl.static_range(DOUBLINGS):
                shift = tl.minimum(2 << j, delta) - tl.minimum(1 << j, delta)
                below = tl.gather(value, tl.maximum(entry - shift, 0), 1)
                above = tl.gather(value, tl.minimum(entry + shift, ENTRIES - 1), 1)
                value = tl.minimum(below, above)
            cost = tl.load(line + n * stride_n, mask=inside, other=float("inf"))
            value += tl.where(cost == cost, cost, float("inf"))
            if KEEP:
                tl.store(values + (b * N + n) * M + entry, value, mask=entry < M)
        ends = (entry >= first - delta) & (entry <= final + delta)
        energy = tl.min(tl.where(ends, value, float("inf")), 1)
        tl.store(energies + b * K + k, energy, mask=k < K)


@triton.jit
def _trace_kernel(
    values, lo, hi, done, paths, delta,
    N: tl.constexpr, M: tl.constexpr, WINDOW: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    """Walk back from the lowest best end, always to the lowest of the best predecessors."""
    b = tl.program_id(0).to(tl.int64)
    if tl.load(done + b) == 0:
        v = tl.arange(0, ENTRIES)
        ends = (v >= tl.load(lo + b) - delta) & (v <= tl.load(hi + b) + delta) & (v < M)
        total = tl.load(values + (b * N + N - 1) * M + v, mask=ends, other=float("inf"))
        current = tl.min(tl.where(ends & (total == tl.min(total, 0)), v, M), 0)
        tl.store(paths + b * N + N - 1, current)
        for back in range(1, N):
            n = N - 1 - back
            u = current - delta + tl.arange(0, WINDOW)
            near = (u >= 0) & (u < M) & (u <= current + delta)
            value = tl.load(values + (b * N + n) * M + u, mask=near, other=float("inf"))
            current = tl.min(tl.where(near & (value == tl.min(value, 0)), u, M), 0)
            tl.store(paths + b * N + n, current)
