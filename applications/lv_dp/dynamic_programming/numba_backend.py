"""The dynamic program on the CPU, compiled by numba: one row after the other, in a few kilobytes of scratch.

A row is copied into scratch of padded width, NaN turned into ``+inf`` on the way, so that inputs of any strides
are read once and every inner loop runs over contiguous memory with an infinite border: no index is ever clamped.
The loops are plain enough for LLVM to vectorise without reordering an addition.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from torch import Tensor, from_numpy

from applications.lv_dp.dynamic_programming.rules import lowest_cost, reject_low_costs

NODE_CAP = 24  # intervals that a row may bound before its remaining starts are tried one by one
_LANES = 16  # lines are padded to a multiple: the float32 lanes of the widest registers


def solve(costs: Tensor, delta: int) -> tuple[Tensor, Tensor]:
    """Solve every row of ``costs`` (B, N, M), on the CPU, with ``delta`` <= M-1; see the package's ``solve``."""
    table = costs.numpy(force=True)  # a view
    real = table.dtype.type
    B, N, _ = table.shape
    indices = np.zeros((B, N), np.int64)
    energies = np.empty(B, table.dtype)
    if not _solve_rows(table, delta, real(lowest_cost(costs)), real(np.inf), NODE_CAP, indices, energies):
        reject_low_costs(costs)
    return from_numpy(indices), from_numpy(energies)


@njit(cache=True, nogil=True)
def _solve_rows(table, delta, lowest, inf, node_cap, indices, energies):
    """Write ``indices`` (B, N) and ``energies`` (B,); False as soon as an entry is below ``lowest``."""
    B, N, M = table.shape
    width = (M + _LANES - 1) // _LANES * _LANES
    costs = np.full((N, width), inf)
    values = np.full((N, width + 2 * delta), inf)  # values[n, delta + v], the border stays infinite
    work = np.full((2, width + 2 * delta), inf)
    live = np.empty((node_cap + 2, 2), np.int64)
    bounds = np.empty(node_cap + 2, table.dtype)
    for b in range(B):
        if not _load(table, b, costs, lowest, inf):
            return False
        energies[b] = _solve_row(costs, values, work, live, bounds, M, delta, inf, node_cap, indices[b])
    return True


@njit(cache=True, nogil=True)
def _load(table, b, costs, lowest, inf):
    """Copy row ``b``; NaN becomes ``+inf``, because it compares less than nothing."""
    _, N, M = table.shape
    low = 0
    for n in range(N):
        for v in range(M):
            cost = table[b, n, v]
            costs[n, v] = cost if cost < inf else inf
            low += cost < lowest
    return low == 0


@njit(cache=True, nogil=True)
def _solve_row(costs, values, work, live, bounds, M, delta, inf, node_cap, path):
    """Write the best contour to ``path`` and return its energy."""
    energy = _relax(costs, values, work, 0, M - 1, M, delta, inf, path)
    if not energy < inf:
        path[:] = 0
        return inf
    if abs(path[0] - path[-1]) <= delta:
        return energy
    energy, start = _branch_and_bound(costs, values, work, live, bounds, M, delta, inf, node_cap, path)
    if not energy < inf:
        path[:] = 0
        return inf
    return _relax(costs, values, work, start, start, M, delta, inf, path)


@njit(cache=True, nogil=True)
def _branch_and_bound(costs, values, work, live, bounds, M, delta, inf, node_cap, path):
    """Least energy and, among its starts, the lowest; ``path`` holds the open chain of all starts."""
    best, start = inf, M
    live[0, 0], live[0, 1] = 0, M - 1
    count = _split(live, bounds, 0, 0, M - 1, path, -inf)
    nodes = 0
    while count:
        k = _most_promising(live, bounds, count)
        lo, hi, bound = live[k, 0], live[k, 1], bounds[k]
        count -= 1
        live[k, 0], live[k, 1], bounds[k] = live[count, 0], live[count, 1], bounds[count]
        if bound > best or (bound == best and lo > start):
            continue
        if nodes >= min(node_cap, M):
            for s in range(lo, hi + 1):
                energy = _relax(costs, values, work, s, s, M, delta, inf, path)
                if energy < best or (energy == best and s < start):
                    best, start = energy, s
            continue
        nodes += 1
        energy = _relax(costs, values, work, lo, hi, M, delta, inf, path)
        if energy == inf or energy > best or (energy == best and lo > start):
            continue
        if abs(path[0] - path[-1]) <= delta:
            best, start = energy, path[0]
            if start > lo:  # a contour that only rounding makes as good may start further in
                live[count, 0], live[count, 1], bounds[count] = lo, start - 1, energy
                count += 1
        else:
            count = _split(live, bounds, count, lo, hi, path, energy)
    return best, start


@njit(cache=True, nogil=True)
def _split(live, bounds, count, lo, hi, path, energy):
    middle = min(max((path[0] + path[-1]) // 2, lo), hi - 1)
    live[count, 0], live[count, 1], bounds[count] = lo, middle, energy
    live[count + 1, 0], live[count + 1, 1], bounds[count + 1] = middle + 1, hi, energy
    return count + 2


@njit(cache=True, nogil=True)
def _most_promising(live, bounds, count):
    least = 0
    for k in range(1, count):
        if bounds[k] < bounds[least] or (bounds[k] == bounds[least] and live[k, 0] < live[least, 0]):
            least = k
    return least


@njit(cache=True, nogil=True)
def _relax(costs, values, work, lo, hi, M, delta, inf, path):
    """Best chain that starts in lo .. hi and ends in lo-delta .. hi+delta, to ``path``; returns its energy."""
    N, width = costs.shape
    values[0, delta : delta + width] = inf
    values[0, delta + lo : delta + hi + 1] = costs[0, lo : hi + 1]
    _sweep(values, costs, work, delta)
    last = max(lo - delta, 0)
    for v in range(last + 1, min(hi + delta, M - 1) + 1):
        if values[N - 1, delta + v] < values[N - 1, delta + last]:
            last = v
    path[N - 1] = last
    for n in range(N - 2, -1, -1):  # entry v of a line lies at delta + v: the window around v begins at v
        begin = path[n + 1]
        least = begin
        for k in range(begin + 1, begin + 2 * delta + 1):
            if values[n, k] < values[n, least]:
                least = k
        path[n] = least - delta
    return values[N - 1, delta + last]


# The sweeps: every line after the first gets, at each entry, the least of the 2 delta + 1 values around it on the
# line before, plus the entry's cost.  Each line goes through ``work``: loops that read and write two rows of one
# array look dependent to LLVM and stay scalar.


@njit(cache=True, nogil=True)
def _sweep(values, costs, work, delta):
    if delta == 0:
        _sweep_0(values, costs, work)
    elif delta == 1:
        _sweep_1(values, costs, work)
    elif delta == 2:
        _sweep_2(values, costs, work)
    else:
        _sweep_wide(values, costs, work, delta)


@njit(cache=True, nogil=True)
def _least(a, b):
    return a if a < b else b  # one instruction; ``min`` asks about NaN first


@njit(cache=True, nogil=True)
def _sweep_0(values, costs, work):
    for n in range(1, costs.shape[0]):
        for v in range(costs.shape[1]):
            work[0, v] = values[n - 1, v]
        for v in range(costs.shape[1]):
            values[n, v] = work[0, v] + costs[n, v]


@njit(cache=True, nogil=True)
def _sweep_1(values, costs, work):
    for n in range(1, costs.shape[0]):
        for v in range(costs.shape[1]):
            pair = _least(values[n - 1, v], values[n - 1, v + 1])
            work[0, v] = _least(pair, values[n - 1, v + 2])
        for v in range(costs.shape[1]):
            values[n, v + 1] = work[0, v] + costs[n, v]


@njit(cache=True, nogil=True)
def _sweep_2(values, costs, work):
    for n in range(1, costs.shape[0]):
        for v in range(costs.shape[1]):
            pair = _least(values[n - 1, v], values[n - 1, v + 1])
            other = _least(values[n - 1, v + 2], values[n - 1, v + 3])
            work[0, v] = _least(_least(pair, other), values[n - 1, v + 4])
        for v in range(costs.shape[1]):
            values[n, v + 2] = work[0, v] + costs[n, v]


@njit(cache=True, nogil=True)
def _sweep_wide(values, costs, work, delta):
    """Windows by doubling.  Unsigned indices cannot count from the end; that test would bar vector code."""
    zero, one, border = np.uint64(0), np.uint64(1), np.uint64(delta)
    for n in range(1, costs.shape[0]):
        size = work.shape[1] - 3
        for v in range(size):
            pair = _least(values[n - 1, v], values[n - 1, v + 1])
            work[0, v] = _least(pair, _least(values[n - 1, v + 2], values[n - 1, v + 3]))
        row, reach = zero, np.uint64(4)
        while 2 * reach <= 2 * delta + 1:
            size -= reach
            for v in range(np.uint64(size)):
                work[one - row, v] = _least(work[row, v], work[row, v + reach])
            row = one - row
            reach += reach
        rest = 2 * border + one - reach
        line = np.uint64(n)
        for v in range(np.uint64(costs.shape[1])):
            values[line, v + border] = _least(work[row, v], work[row, v + rest]) + costs[line, v]
