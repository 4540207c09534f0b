from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ndgrad import EvolutionStrategy, LeastSquares
from ndgrad.sampling import DIRECTIONS
from ndgrad.testing import assert_mean, estimate

ROWS = 20_000
SIGMA = 0.3


def rows(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(ROWS, -1)


@pytest.mark.parametrize("directions", ["orthogonal", "gaussian"])
@pytest.mark.parametrize("S", [3, 8])
def test_equal_to_the_pseudo_inverse(directions: str, S: int) -> None:
    """An independent solution of the fit, on a function that is not linear, with widths of their own."""
    n, m, B = 5, 2, 3
    x, v = torch.randn(B, n, dtype=torch.float64), torch.randn(B, m, dtype=torch.float64)
    matrix, sigma = torch.randn(n, m, dtype=torch.float64), torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    f = lambda z: torch.sin(z) @ matrix  # noqa: E731
    torch.manual_seed(1)
    grad = estimate(LeastSquares(S, sigma, directions), f, x, v)
    torch.manual_seed(1)
    eps = DIRECTIONS[directions](S, x, None)
    for b in range(B):
        w = ((f(x[b] + sigma * eps[:, b]) - f(x[b] - sigma * eps[:, b])) / 2) @ v[b]
        expected = torch.linalg.pinv(eps[:, b]) @ w / sigma * max(1, n / S)
        torch.testing.assert_close(grad[b], expected)


def test_equal_to_orthogonal_pairs_up_to_n_and_for_full_blocks() -> None:
    x, v = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    for S in (2, 5, 15):
        grads = []
        for estimator in (LeastSquares(S, SIGMA), EvolutionStrategy(S, SIGMA)):
            torch.manual_seed(6)
            grads.append(estimate(estimator, torch.sin, x, v))
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("directions", ["orthogonal", "gaussian"])
@pytest.mark.parametrize("S", [4, 7, 30])
def test_exact_on_affine_functions_with_enough_samples(directions: str, S: int) -> None:
    x, v = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    matrix = torch.randn(4, 2, dtype=torch.float64)
    grad = estimate(LeastSquares(S, SIGMA, directions), lambda z: z @ matrix - 2.0, x, v)
    torch.testing.assert_close(grad, v @ matrix.T)


@pytest.mark.parametrize(
    ("directions", "n", "S", "factor"),
    [
        ("orthogonal", 5, 2, 5 / 2),
        ("orthogonal", 5, 13, (2 / 2 + 3 / 3) / 5),  # k = 2, r = 3
        ("gaussian", 9, 3, 81 / (3 * 5)),
        ("gaussian", 4, 12, 4 / 7),
    ],
)
def test_variance_with_noise(directions: str, n: int, S: int, factor: float) -> None:
    """The documented closed form: factor tau^2 / (2 sigma^2) of noise beside n/S - 1 of projection."""
    torch.manual_seed(5)
    tau, noise = 0.4, torch.Generator().manual_seed(3)
    g = torch.linspace(-0.7, 1.1, n, dtype=torch.float64)
    f = lambda z: z @ g.unsqueeze(1) + tau * torch.randn(len(z), 1, dtype=z.dtype, generator=noise)  # noqa: E731
    grads = estimate(LeastSquares(S, SIGMA, directions), f, rows([0.2] * n), rows([-0.6]))
    assert_mean(grads, -0.6 * g, "mean")
    spread = (grads + 0.6 * g).square().sum(1, keepdim=True)
    expected = 0.36 * (factor * tau**2 / (2 * SIGMA**2) + max(0, n / S - 1) * g.square().sum())
    assert_mean(spread, expected, "variance")


def test_quadratic_bias_cancels_and_cubic_is_of_second_order() -> None:
    x, v = torch.full((2, 3), 0.7, dtype=torch.float64), torch.full((2, 3), -0.4, dtype=torch.float64)
    quadratic = estimate(LeastSquares(5, SIGMA, "gaussian"), torch.square, x, v)
    torch.testing.assert_close(quadratic, v * 2 * x)
    errors = []
    for sigma in (0.02, 0.01):
        torch.manual_seed(2)
        errors.append(estimate(LeastSquares(5, sigma, "gaussian"), lambda z: z**3, x, v) - v * 3 * x**2)
    torch.testing.assert_close(errors[0], 4 * errors[1])


def test_empty_inputs() -> None:
    for shape in ((3, 0), (0, 4)):
        grad = estimate(
            LeastSquares(2), lambda z: z.sum(1, keepdim=True), torch.zeros(shape), torch.ones(shape[0], 1)
        )
        assert grad.shape == shape


@pytest.mark.parametrize(
    "bad", [{"num_samples": 0}, {"sigma": -0.1}, {"sigma": torch.zeros(2)}, {"directions": "rademacher"}]
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LeastSquares(**bad)


def test_repr() -> None:
    assert repr(LeastSquares(4, 0.3)) == "LeastSquares(num_samples=4, sigma=0.3, directions='orthogonal')"
