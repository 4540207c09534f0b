"""Exact closed-contour dynamic programming, batched, in plain PyTorch.

    minimise  sum_n c[n, v_n]   over v_n in {0 .. M-1}
    subject to |v_n - v_{n+1 mod N}| <= delta   for n = 0 .. N-1

An open chain is solved by one Viterbi pass.  The closing constraint between lines N-1 and 0 is met by branch
and bound over intervals of the start index v_0 (Appleton & Sun, "Circular shortest paths by branch and
bound", Pattern Recognition 2003): in an interval only the chain's two ends are confined, which bounds the
closed optimum from below, and when the best chain happens to close, the bound is attained.  Otherwise the
interval is split between the chain's two ends.  All live intervals of all rows advance as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22  # entries of the value table held at a time: 16 MiB in float32
GUIDED_ROUNDS = 6  # rounds that split between the chain's ends; later ones halve, so the depth is bounded


@overload
def solve(unary: Tensor, delta: int) -> Tensor: ...


@overload
def solve(unary: Tensor, delta: int, *, return_energy: Literal[True]) -> tuple[Tensor, Tensor]: ...


def solve(unary: Tensor, delta: int, *, return_energy: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Return the closed contour of least cost for every row of a batch.

    The energy is *defined* as the left-to-right sum from line 0 in the working precision: float64 for
    float64, else float32 (half precision is lifted).  Rounding is monotone, so the minimum is exact in that
    arithmetic.  Among equal optima the innermost is returned: optimal contours are closed under pointwise
    minimum, hence one lies pointwise below all others, whatever line is called 0.  (Contours whose sums are
    equal only by rounding are not ordered; which of them is returned is still the same on every run.)

    Args:
        unary: costs c (B, N, M), floating point, any strides.  ``+inf`` and NaN forbid an entry.
        delta: largest index step between neighbouring lines, >= 0; beyond M-1 it constrains nothing.
        return_energy: return ``(indices, energy)`` instead of the indices.

    Returns:
        indices (B, N) int64, and energy (B,) on request.  A row without any finite contour has energy
        ``+inf`` and all-zero indices.

    Raises:
        TypeError: ``unary`` is not a floating-point tensor, or delta is not an int.
        ValueError: not three dimensions, N or M is 0, delta < 0, or an entry is ``-inf``.

    Cost: one Viterbi pass, O(N M log delta), when the open chain closes by itself; at most 2M-1 passes.
    Working memory is bounded by a few times ``CHUNK_ELEMENTS`` beside the input's own size.

    Example:
        >>> costs = torch.tensor([[[0.0, 5.0, 9.0], [9.0, 5.0, 0.0], [0.0, 5.0, 9.0]]])
        >>> solve(costs, delta=1)
        tensor([[0, 1, 0]])
    """
    costs = _sanitise(unary, delta)  # (B, N, M)
    with torch.no_grad():
        indices, energy = _branch_and_bound(costs, min(delta, costs.shape[2] - 1))
    return (indices, energy) if return_energy else indices


def _sanitise(unary: Tensor, delta: int) -> Tensor:
    if not isinstance(unary, Tensor) or not unary.is_floating_point():
        kind = unary.dtype if isinstance(unary, Tensor) else type(unary).__name__
        raise TypeError(f"unary must be a floating-point tensor, got {kind}; pass unary.float()")
    if isinstance(delta, bool) or not isinstance(delta, int):
        raise TypeError(f"delta must be an int, got {type(delta).__name__}; pass int(delta)")
    if unary.ndim != 3 or unary.shape[1] < 1 or unary.shape[2] < 1:
        raise ValueError(f"unary must have shape (B, N >= 1, M >= 1), got {tuple(unary.shape)}")
    if delta < 0:
        raise ValueError(f"delta must be >= 0, got {delta}")
    costs = unary.detach()
    costs = costs if costs.dtype == torch.float64 else costs.float()
    if bool((costs == -torch.inf).any()):
        raise ValueError("unary holds -inf, which no sum can rank; use a large finite reward such as -1e6")
    return costs.nan_to_num(nan=torch.inf, posinf=torch.inf)


@dataclass(frozen=True)
class _Intervals:
    """Subproblems: row ``row`` of the batch with its start index confined to lo .. hi (each (K,))."""

    row: Tensor
    lo: Tensor
    hi: Tensor

    def select(self, chosen: Tensor | slice) -> _Intervals:
        return _Intervals(self.row[chosen], self.lo[chosen], self.hi[chosen])


def _branch_and_bound(costs: Tensor, delta: int) -> tuple[Tensor, Tensor]:
    B, N, M = costs.shape
    columns = costs.permute(1, 2, 0).contiguous()  # (N, M, B): rows of the batch run fastest
    best = costs.new_full((B,), torch.inf)
    paths = torch.zeros(B, N, dtype=torch.int64, device=costs.device)
    rows = torch.arange(B, device=costs.device)
    live = _Intervals(rows, torch.zeros_like(rows), torch.full_like(rows, M - 1))
    round_ = 0
    while live.row.numel():
        bound, chain = _relaxed(columns, live, delta)  # (K,), (K, N)
        first, last = chain[:, 0], chain[:, -1]
        closed = (first - last).abs() <= delta
        _keep_best(best, paths, live.row, bound, chain, closed)
        # A tied interval matters only if it may hold a start further in than the one found.
        hopeful = (bound < best[live.row]) | ((bound == best[live.row]) & (live.lo < paths[live.row, 0]))
        branch = hopeful & ~closed & bound.isfinite()
        middle = (first + last) // 2 if round_ < GUIDED_ROUNDS else (live.lo + live.hi) // 2
        live = _split(live.select(branch), middle[branch])
        round_ += 1
    return paths, best


def _keep_best(
    best: Tensor, paths: Tensor, row: Tensor, bound: Tensor, chain: Tensor, closed: Tensor
) -> None:
    """Store each row's best closed chain in ``best`` and ``paths``: least energy, then least start index."""
    candidate = (closed & bound.isfinite()).nonzero()[:, 0]
    row, bound, chain = row[candidate], bound[candidate], chain[candidate]
    least = best.scatter_reduce(0, row, bound, "amin")
    start = torch.where(best == least, paths[:, 0], torch.iinfo(torch.int64).max)
    won = bound == least[row]
    start.scatter_reduce_(0, row[won], chain[won, 0], "amin")
    won &= chain[:, 0] == start[row]  # intervals of one row are disjoint: at most one winner each
    best.copy_(least)
    paths[row[won]] = chain[won]


def _split(parents: _Intervals, middle: Tensor) -> _Intervals:
    """Cut lo .. hi into lo .. middle and middle+1 .. hi, both non-empty (one start alone always closes)."""
    middle = torch.minimum(middle.clamp_min(parents.lo), parents.hi - 1)
    return _Intervals(
        torch.cat([parents.row, parents.row]),
        torch.cat([parents.lo, middle + 1]),
        torch.cat([middle, parents.hi]),
    )


def _relaxed(columns: Tensor, intervals: _Intervals, delta: int) -> tuple[Tensor, Tensor]:
    """Best open chains, starts in lo .. hi, ends in lo-delta .. hi+delta: energies (K,), chains (K, N)."""
    N, M, _ = columns.shape
    size = max(1, CHUNK_ELEMENTS // (N * (M + 2 * delta)))
    K = intervals.row.numel()
    parts = [_chains(columns, intervals.select(slice(k, k + size)), delta) for k in range(0, K, size)]
    return torch.cat([energy for energy, _ in parts]), torch.cat([chain for _, chain in parts])


def _chains(columns: Tensor, intervals: _Intervals, delta: int) -> tuple[Tensor, Tensor]:
    N, M, B = columns.shape
    every_row = intervals.row.numel() == B and bool((intervals.row[1:] > intervals.row[:-1]).all())
    costs = columns if every_row else columns[:, :, intervals.row]  # (N, M, K)
    index = torch.arange(M, device=columns.device)[:, None]  # (M, 1)
    forbidden_start = (index < intervals.lo) | (index > intervals.hi)  # (M, K)
    forbidden_end = (index < intervals.lo - delta) | (index > intervals.hi + delta)
    values = costs.new_full((N, M + 2 * delta, costs.shape[2]), torch.inf)  # the border stays infinite
    inner = values[:, delta : delta + M]  # (N, M, K)
    inner[0] = costs[0].masked_fill(forbidden_start, torch.inf)
    for n in range(1, N):
        torch.add(sliding_minimum(values[n - 1], 2 * delta + 1), costs[n], out=inner[n])
    ends = inner[N - 1].masked_fill(forbidden_end, torch.inf)  # (M, K)
    last = ends.argmin(dim=0)  # (K,), the lowest of equals, which min(dim) does not promise
    return ends.gather(0, last[None])[0], _trace(values, last, delta)


def sliding_minimum(values: Tensor, width: int) -> Tensor:
    """Minimum over every window of ``width`` consecutive entries of dimension 0, by doubling: O(log width).

    Example:
        >>> sliding_minimum(torch.tensor([[4.0], [2.0], [3.0], [5.0]]), 3)[:, 0]
        tensor([2., 2.])
    """
    reach = 1
    while 2 * reach <= width:
        values = torch.minimum(values[:-reach], values[reach:])
        reach *= 2
    rest = width - reach
    return torch.minimum(values[:-rest], values[rest:]) if rest else values


def _trace(values: Tensor, last: Tensor, delta: int) -> Tensor:
    """Walk back from the last line, always to the lowest of the best predecessors: (K, N)."""
    N = values.shape[0]
    offsets = torch.arange(2 * delta + 1, device=values.device)[:, None]  # (2 delta + 1, 1)
    chain = last.new_empty(N, last.numel())
    chain[N - 1] = last
    for n in range(N - 2, -1, -1):
        # Entry v of the line lies at v + delta of its bordered copy: the window around v begins at v there.
        window = values[n].gather(0, chain[n + 1] + offsets)  # (2 delta + 1, K)
        # Below 0 only where the whole window is infinite, and such a chain is dropped by its energy.
        torch.add(chain[n + 1] - delta, window.argmin(dim=0), out=chain[n]).clamp_min_(0)
    return chain.T
