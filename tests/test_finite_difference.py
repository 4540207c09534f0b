from __future__ import annotations

import pytest
import torch

from ndgrad import FiniteDifference
from ndgrad.testing import estimate


def cubic_error(method: str, eps: float | None, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.tensor([[0.7, -1.3, 2.1]], dtype=dtype)
    v = torch.tensor([[1.4, -0.6, 0.9]], dtype=dtype)
    return estimate(FiniteDifference(method, eps), lambda z: z**3, x, v) - v * 3 * x**2


def test_closed_forms_of_the_cubic() -> None:
    h, x = 0.2, torch.tensor([[0.7, -1.3, 2.1]], dtype=torch.float64)
    v = torch.tensor([[1.4, -0.6, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(cubic_error("central", h), v * h**2)
    torch.testing.assert_close(cubic_error("forward", h), v * (3 * x * h + h**2))


@pytest.mark.parametrize(("method", "order"), [("central", 2), ("forward", 1)])
def test_order_of_the_bias(method: str, order: int) -> None:
    ratio = cubic_error(method, 1e-3) / cubic_error(method, 5e-4)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0**order), rtol=2e-2, atol=0)


def test_central_differences_are_the_default() -> None:
    assert FiniteDifference().method == "central"


@pytest.mark.parametrize(
    ("dtype", "method", "tolerance"),
    [
        (torch.float64, "central", 1e-9),
        (torch.float64, "forward", 1e-6),
        (torch.float32, "central", 2e-4),
        (torch.float32, "forward", 5e-3),
    ],
)
def test_default_step_suits_the_dtype(dtype: torch.dtype, method: str, tolerance: float) -> None:
    assert cubic_error(method, None, dtype).abs().max() < tolerance


def test_default_step_grows_with_the_input() -> None:
    x, v = torch.tensor([[3e4, -2e-3]]), torch.tensor([[0.5, 0.5]])
    grad = estimate(FiniteDifference(), torch.square, x, v)
    torch.testing.assert_close(grad, x, rtol=1e-3, atol=1e-5)


def test_the_realised_step_is_divided_by() -> None:
    """With h = 1e-3 beside 1000 float32 realises a step 2 % off; a linear function must not notice."""
    x, v = torch.tensor([[1000.1, -3000.3]]), torch.tensor([[0.5, 1.5]])
    grad = estimate(FiniteDifference(eps=1e-3), lambda z: z, x, v)
    torch.testing.assert_close(grad, v)


def test_a_step_that_vanishes_is_refused() -> None:
    with pytest.raises(ValueError, match="vanishes"):
        estimate(FiniteDifference(eps=1e-3), lambda z: z, torch.tensor([[1e6]]), torch.tensor([[0.5]]))


def test_blocks_give_the_same_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    x, v = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    matrix = torch.randn(7, 4, dtype=torch.float64)
    whole = estimate(FiniteDifference(), lambda z: torch.sin(z) @ matrix, x, v)
    monkeypatch.setattr("ndgrad.estimators.finite_difference._MAX_BLOCK", 50)
    torch.testing.assert_close(estimate(FiniteDifference(), lambda z: torch.sin(z) @ matrix, x, v), whole)
    torch.testing.assert_close(whole, torch.cos(x) * (v @ matrix.T), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "bad", [{"method": "backward"}, {"eps": 0.0}, {"eps": -0.1}, {"eps": float("inf")}, {"eps": True}]
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FiniteDifference(**bad)


def test_no_inputs_no_columns() -> None:
    assert estimate(
        FiniteDifference(), lambda z: z.sum(1, keepdim=True), torch.zeros(3, 0), torch.full((3, 1), 0.5)
    ).shape == (3, 0)


def test_repr() -> None:
    assert "method='forward', eps=0.1" in repr(FiniteDifference("forward", 0.1))
