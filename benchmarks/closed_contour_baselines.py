"""What the closed-contour solver is measured against: the thesis' two algorithms, and an open chain.

All take costs (B, N, M) and ``delta`` and return indices (B, N). The thesis states its algorithms for pairwise
terms; here they are ``E(n, i, j) = h(n, i) + h(n+1, j)``, so that every ``h`` counts twice and the best contour
is that of the unary costs ``h``. Among equal optima they do not promise the innermost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def python_loops(costs: Tensor, delta: int) -> Tensor:
    """Algorithm 1 of the thesis: one start after the other, every pair of entries, in plain Python."""
    return torch.tensor([_best_contour(row, delta) for row in costs.tolist()])


def _best_contour(h: list[list[float]], delta: int) -> list[int]:
    return min((_best_from(h, start, delta) for start in range(len(h[0]))), key=lambda found: found[0])[1]


def _best_from(h: list[list[float]], start: int, delta: int) -> tuple[float, list[int]]:
    N, M = len(h), len(h[0])
    value = [h[0][i] if i == start else math.inf for i in range(M)]
    back = []
    for n in range(1, N):
        least, argument = [math.inf] * M, [0] * M
        for j in range(M):
            for i in range(M):
                if abs(i - j) <= delta and value[i] + h[n][j] < least[j]:
                    least[j], argument[j] = value[i] + h[n][j], i
        value = least
        back.append(argument)
    last = min((j for j in range(M) if abs(j - start) <= delta), key=value.__getitem__)
    contour = [last]
    for argument in reversed(back):
        contour.append(argument[contour[-1]])
    return value[last], contour[::-1]


def dense_algorithm_2(costs: Tensor, delta: int) -> Tensor:
    """Algorithm 2 of the thesis: all starts at once, as dense (B, M, M, M) tables.

    The way back stops at line 2, as in the thesis' listing; a published implementation goes one line further and
    overwrites v_0.
    """
    B, N, M = costs.shape
    index = torch.arange(M)
    far = (index[:, None] - index).abs() > delta
    E = costs[:, :, :, None] + costs.roll(-1, dims=1)[:, :, None, :]  # (B, N, M, M)
    E = E.masked_fill(far, torch.inf)
    value = E[:, 0]  # (B, start, k)
    back = []
    for n in range(1, N - 1):
        value, argument = (value[:, :, :, None] + E[:, n, None]).min(dim=2)  # over (B, start, k, j)
        back.append(argument)
    total = (value + E[:, N - 1].transpose(1, 2)).flatten(1)  # (B, start times last)
    best = total.argmin(dim=1)
    start, current = best // M, best % M
    contour, rows = [current], torch.arange(B)
    for argument in reversed(back):
        current = argument[rows, start, current]
        contour.append(current)
    return torch.stack([start, *reversed(contour)], dim=1)


def open_chain(costs: Tensor, delta: int) -> Tensor:
    """Plain Viterbi pass and way back without the closing constraint: what no closed solver can undercut."""
    B, N, _ = costs.shape
    border = costs.new_full((B, delta), torch.inf)
    value, values = costs[:, 0], []
    for n in range(1, N):
        bordered = torch.cat([border, value, border], dim=1)
        values.append(bordered)
        value = bordered.unfold(1, 2 * delta + 1, 1).amin(-1) + costs[:, n]
    current = value.argmin(1, keepdim=True)  # (B, 1)
    contour = [current]
    window = torch.arange(2 * delta + 1)
    for bordered in reversed(values):
        current = current - delta + bordered.gather(1, current + window).argmin(1, keepdim=True)
        contour.append(current)
    return torch.cat(contour[::-1], dim=1)
