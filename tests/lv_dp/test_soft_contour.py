from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from applications.lv_dp.dynamic_programming import solve
from applications.lv_dp.soft_contour import log_marginals

CASES = [
    (4, 3, 1, 0.7),
    (5, 4, 1, 1.3),
    (3, 4, 2, 0.5),
    (1, 3, 0, 0.9),
    (2, 4, 1, 1.1),
    (4, 3, 0, 0.8),
    (4, 3, 5, 2.1),
]


def by_enumeration(costs: Tensor, delta: int, temperature: float) -> Tensor:
    """Sum the weights of all closed contours one by one: (N, M) -> probabilities (N, M)."""
    N, M = costs.shape
    total = torch.zeros(N, M, dtype=costs.dtype)
    for contour in product(range(M), repeat=N):
        if all(abs(contour[n] - contour[n - 1]) <= delta for n in range(N)):
            energy = sum(costs[n, v] for n, v in enumerate(contour))
            for n, v in enumerate(contour):
                total[n, v] += torch.exp(-energy / temperature)
    return total / total.sum(1, keepdim=True)


@pytest.mark.parametrize(("N", "M", "delta", "temperature"), CASES)
def test_marginals_are_those_of_all_contours(N: int, M: int, delta: int, temperature: float) -> None:
    costs = torch.randn(3, N, M, dtype=torch.float64)
    expected = torch.stack([by_enumeration(row, delta, temperature) for row in costs])
    torch.testing.assert_close(log_marginals(costs, delta, temperature).exp(), expected)


def test_gradients_are_exact() -> None:
    costs = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: log_marginals(c, 1, 0.6), (costs,))


def test_an_unreachable_index_has_no_gradient_of_nan() -> None:
    """With delta 0 a chain from one start reaches one index only: all others are sums over nothing."""
    costs = torch.randn(1, 5, 4, requires_grad=True)
    log_marginals(costs, 0).logsumexp(2).sum().backward()
    assert costs.grad is not None
    assert costs.grad.isfinite().all()


def test_a_low_temperature_leaves_the_best_contour() -> None:
    costs = torch.randn(6, 12, 9, dtype=torch.float64)
    cold = log_marginals(costs, 2, 1e-4)
    torch.testing.assert_close(cold.argmax(2), solve(costs, 2))
    assert cold.max(2).values.min() > -0.01


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="temperature > 0, got 1 and 0"):
        log_marginals(torch.zeros(1, 3, 3), 1, 0.0)
