"""The dynamic program in plain PyTorch, on any device: all live intervals of all rows advance as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from applications.lv_dp.dynamic_programming.rules import reject_low_costs

CHUNK_ELEMENTS = 1 << 22  # entries of the value table held at a time: 16 MiB in float32
FEW_STARTS = 1024  # starts of all rows that are sooner tried one by one than split any further
GUIDED_ROUNDS = 6  # rounds that split between the chain's ends; later ones halve, so the depth is bounded


def solve(costs: Tensor, delta: int) -> tuple[Tensor, Tensor]:
    """Solve every row of ``costs`` (B, N, M) with ``delta`` <= M-1; see the package's ``solve``."""
    reject_low_costs(costs)
    B, _, M = costs.shape
    columns = costs.permute(1, 2, 0).contiguous()  # (N, M, B): rows of the batch run fastest
    columns = columns.nan_to_num(nan=torch.inf, posinf=torch.inf)
    rows = torch.arange(B, device=costs.device)
    every = _Intervals(rows, torch.zeros_like(rows), torch.full_like(rows, M - 1))
    energy, paths = _relaxed(columns, every, delta)  # (B,), (B, N)
    open_ = ((paths[:, 0] - paths[:, -1]).abs() > delta) & energy.isfinite()
    if bool(open_.any()):
        between = (paths[:, 0] + paths[:, -1]) // 2
        energy[open_], start = _branch_and_bound(columns, every.select(open_), between[open_], delta)
        _, paths[open_] = _relaxed(columns, _Intervals(rows[open_], start, start), delta)
    return paths.masked_fill(energy.isinf()[:, None], 0), energy


@dataclass(frozen=True)
class _Intervals:
    """Subproblems: row ``row`` of the batch with its start index confined to lo .. hi (each (K,))."""

    row: Tensor
    lo: Tensor
    hi: Tensor

    def select(self, chosen: Tensor | slice) -> _Intervals:
        return _Intervals(self.row[chosen], self.lo[chosen], self.hi[chosen])


def _branch_and_bound(
    columns: Tensor, roots: _Intervals, middle: Tensor, delta: int
) -> tuple[Tensor, Tensor]:
    """Least energy of every root (K,), split at ``middle`` first, and the lowest start that attains it (K,)."""
    owner = torch.arange(roots.row.numel(), device=columns.device)  # the root of every live interval
    best = columns.new_full(owner.shape, torch.inf)
    start = torch.full_like(owner, columns.shape[1])
    owner, live = owner.repeat(2), _split(roots, middle)
    round_ = 1
    while int((live.hi - live.lo + 1).sum()) > FEW_STARTS:
        energy, chain = _relaxed(columns, live, delta)  # (K,), (K, N)
        first, last = chain[:, 0], chain[:, -1]
        finite = energy.isfinite()
        closed = ((first - last).abs() <= delta) & finite
        _keep_best(best, start, owner[closed], energy[closed], first[closed])
        tied = energy == best[owner]
        branch = finite & ~closed & ((energy < best[owner]) | (tied & (live.lo < start[owner])))
        # A contour that only rounding makes as good as a closed chain may start further in.
        further_in = closed & tied & (live.lo < first)
        middle = (first + last) // 2 if round_ < GUIDED_ROUNDS else (live.lo + live.hi) // 2
        halves, rest = _split(live.select(branch), middle[branch]), live.select(further_in)
        live = _Intervals(
            torch.cat([halves.row, rest.row]),
            torch.cat([halves.lo, rest.lo]),
            torch.cat([halves.hi, first[further_in] - 1]),
        )
        owner = torch.cat([owner[branch].repeat(2), owner[further_in]])
        round_ += 1
    owner, live = _single_starts(owner, live)
    _keep_best(best, start, owner, _energies(columns, live, delta), live.lo)
    return best, start


def _single_starts(owner: Tensor, live: _Intervals) -> tuple[Tensor, _Intervals]:
    """Every start of every interval as an interval of its own."""
    width = live.hi - live.lo + 1  # (K,)
    each = torch.arange(width.numel(), device=width.device).repeat_interleave(width)  # (total,)
    offset = torch.arange(each.numel(), device=width.device) - (width.cumsum(0) - width)[each]
    start = live.lo[each] + offset
    return owner[each], _Intervals(live.row[each], start, start)


def _keep_best(best: Tensor, start: Tensor, owner: Tensor, energy: Tensor, first: Tensor) -> None:
    """Update the least energy and its lowest start of every owner by closed chains (each (K,))."""
    least = best.scatter_reduce(0, owner, energy, "amin")
    start.masked_fill_(least < best, torch.iinfo(torch.int64).max)
    won = energy == least[owner]
    start.scatter_reduce_(0, owner[won], first[won], "amin")
    best.copy_(least)


def _split(parents: _Intervals, middle: Tensor) -> _Intervals:
    """Cut lo .. hi into lo .. middle and middle+1 .. hi, both non-empty (one start alone always closes)."""
    middle = torch.minimum(middle.clamp_min(parents.lo), parents.hi - 1)
    return _Intervals(
        torch.cat([parents.row, parents.row]),
        torch.cat([parents.lo, middle + 1]),
        torch.cat([middle, parents.hi]),
    )


def _chunks(columns: Tensor, intervals: _Intervals, delta: int) -> list[_Intervals]:
    N, M, _ = columns.shape
    size = max(1, CHUNK_ELEMENTS // (N * (M + 2 * delta)))
    return [intervals.select(slice(k, k + size)) for k in range(0, max(intervals.row.numel(), 1), size)]


def _relaxed(columns: Tensor, intervals: _Intervals, delta: int) -> tuple[Tensor, Tensor]:
    """Best open chains, starts in lo .. hi, ends in lo-delta .. hi+delta: energies (K,), chains (K, N)."""
    parts = [_chains(columns, chunk, delta) for chunk in _chunks(columns, intervals, delta)]
    return torch.cat([energy for energy, _ in parts]), torch.cat([chain for _, chain in parts])


def _chains(columns: Tensor, intervals: _Intervals, delta: int) -> tuple[Tensor, Tensor]:
    N, M, _ = columns.shape
    values = columns.new_full((N, M + 2 * delta, intervals.row.numel()), torch.inf)
    energy, last = _sweep(columns, intervals, delta, values.unbind())
    return energy, _trace(values, last, delta)


def _energies(columns: Tensor, intervals: _Intervals, delta: int) -> Tensor:
    """Compute the energies (K,) of ``_relaxed`` alone; one line of values is held at a time."""
    N, M, _ = columns.shape
    parts = []
    for chunk in _chunks(columns, intervals, delta):
        line = columns.new_full((M + 2 * delta, chunk.row.numel()), torch.inf)
        parts.append(_sweep(columns, chunk, delta, [line] * N)[0])
    return torch.cat(parts)


def _sweep(
    columns: Tensor, intervals: _Intervals, delta: int, lines: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Fill the N ``lines`` (M + 2 delta, K), whose borders stay infinite; least end value and its entry (K,)."""
    _, M, B = columns.shape
    K = intervals.row.numel()
    index = torch.arange(M, device=columns.device)[:, None]  # (M, 1)
    every_row = K == B and bool((intervals.row[1:] > intervals.row[:-1]).all())
    chosen = intervals.row.expand(M, K)
    for n, column in enumerate(columns.unbind()):  # (M, B)
        cost = column if every_row else column.gather(1, chosen)  # (M, K)
        inner = lines[n][delta : delta + M]
        if n == 0:
            inner.copy_(cost.masked_fill((index < intervals.lo) | (index > intervals.hi), torch.inf))
        else:
            torch.add(sliding_minimum(lines[n - 1], 2 * delta + 1), cost, out=inner)
    forbidden_end = (index < intervals.lo - delta) | (index > intervals.hi + delta)
    least, last = inner.masked_fill(forbidden_end, torch.inf).min(dim=0)  # the first of equals
    return least, last


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
    offsets = torch.arange(2 * delta + 1, device=values.device)[:, None]  # (2 delta + 1, 1)
    chain = [last]
    for line in reversed(values.unbind()[:-1]):
        # Entry v of the line lies at v + delta of its bordered copy: the window around v begins at v there.
        window = line.gather(0, chain[-1] + offsets)  # (2 delta + 1, K)
        # Below 0 only where the whole window is infinite, and such a chain is dropped by its energy.
        chain.append((chain[-1] + window.min(dim=0).indices).sub_(delta).clamp_min_(0))
    return torch.stack(chain[::-1], dim=1)
