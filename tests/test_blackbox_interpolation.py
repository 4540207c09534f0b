from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import ndgrad
from ndgrad import BlackboxInterpolation
from ndgrad.testing import estimate

SENSES = ["min", "max"]
SOLUTIONS = torch.randint(
    0, 3, (9, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64
)  # (solutions, n)


def solve(sense: str) -> Callable[[Tensor], Tensor]:
    """Return an exact solver over a small set of solutions, by enumeration."""
    pick = torch.argmin if sense == "min" else torch.argmax
    return lambda theta: SOLUTIONS[pick(theta @ SOLUTIONS.T, 1)]


def optimum(theta: Tensor, sense: str) -> Tensor:
    products = theta @ SOLUTIONS.T
    return products.min(1).values if sense == "min" else products.max(1).values


def case(rows: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    theta = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    return theta, torch.randn(rows, 4, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("lambd", [0.3, 2.5])
@pytest.mark.parametrize("sense", SENSES)
def test_gradient_of_the_piecewise_affine_interpolation(sense: str, lambd: float) -> None:
    """Central differences of f_lambda, from optimal values alone: exact within a piece."""
    theta, v = case()
    grad = estimate(BlackboxInterpolation(sense, lambd), solve(sense), theta, v)

    def interpolation(t: Tensor) -> Tensor:
        if sense == "min":
            return (optimum(t + lambd * v, sense) - optimum(t, sense)) / lambd
        return (optimum(t, sense) - optimum(t - lambd * v, sense)) / lambd

    h = 1e-6
    steps = h * torch.eye(4, dtype=torch.float64)
    columns = [(interpolation(theta + e) - interpolation(theta - e)) / (2 * h) for e in steps]
    torch.testing.assert_close(grad, torch.stack(columns, 1), rtol=1e-6, atol=1e-7)
    assert (grad != 0).any(1).sum() > 10, "the test must see solutions change"


@pytest.mark.parametrize("sense", SENSES)
def test_the_second_solution_has_the_lower_linearised_loss(sense: str) -> None:
    """A descent step therefore leads to it; with the wrong sense it would be the higher loss."""
    theta, v = case()
    for told in SENSES:
        grad = estimate(BlackboxInterpolation(told, 2.5), solve(sense), theta, v)
        moved = grad.abs().sum(1) > 0
        toward = grad if told == "min" else -grad  # (other solution - this solution) / lambda
        change = (toward * v).sum(1)[moved]
        assert moved.sum() > 10
        assert (change < 0).all() if told == sense else (change > 0).all()


def test_scaling_the_cotangent_is_scaling_lambda() -> None:
    theta, v = case()
    scaled = estimate(BlackboxInterpolation("min", 0.5), solve("min"), theta, 3.0 * v)
    torch.testing.assert_close(
        scaled, 3.0 * estimate(BlackboxInterpolation("min", 1.5), solve("min"), theta, v)
    )
    linear = 3.0 * estimate(BlackboxInterpolation("min", 0.5), solve("min"), theta, v)
    assert (scaled - linear).abs().max() > 0.1, "the gradient is not linear in the cotangent"


@pytest.mark.parametrize("sense", SENSES)
def test_a_smooth_function_gives_the_jacobian_times_v(sense: str) -> None:
    """Not its transpose: outside linear problems this is no chain rule, as documented."""
    theta, v = case()
    matrix = torch.arange(16, dtype=torch.float64).reshape(4, 4) / 7
    grad = estimate(BlackboxInterpolation(sense, 0.8), lambda t: t @ matrix, theta, v)
    torch.testing.assert_close(grad, v @ matrix)


def test_every_backward_pass_solves_once_for_each_row() -> None:
    theta, v = case(7)
    box = ndgrad.wrap(solve("min"), estimator=BlackboxInterpolation("min"))
    y = box(theta.requires_grad_())
    torch.testing.assert_close(y.detach(), solve("min")(theta.detach()))
    for passes in (1, 2):
        torch.autograd.grad(y, theta, v * passes, retain_graph=True)
        assert box.num_evaluations == 7 * (1 + passes)


def test_rows_are_independent() -> None:
    theta, v = case()
    whole = estimate(BlackboxInterpolation("max", 2.5), solve("max"), theta, v)
    for row in (slice(3, 4), slice(17, 20)):
        part = estimate(BlackboxInterpolation("max", 2.5), solve("max"), theta[row], v[row])
        torch.testing.assert_close(part, whole[row])


def test_several_inputs_of_any_shape() -> None:
    """Costs in a dict of numbers and matrices; a NumPy solver of single points."""
    a = torch.tensor([0.4, -0.2], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[[1.0, 2.0, 3.0]], [[3.0, 1.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    box = ndgrad.wrap(
        lambda costs: {"a": float(costs["a"] < 0), "b": np.eye(3)[[costs["b"].argmin()]]},
        estimator=BlackboxInterpolation("min", 2.0),
        interface="numpy",
        batched=False,
        vectorize=True,
    )
    y = box({"a": a, "b": b})
    assert y["b"].shape == (2, 1, 3)
    loss = (y["a"] * torch.tensor([-0.7, 0.3])).sum() + 0.8 * y["b"][0, 0, 0]
    loss.backward()
    # costs move to 0.4 - 1.4 < 0 (chosen now) and to -0.2 + 0.6 > 0 (not chosen now)
    torch.testing.assert_close(a.grad, torch.tensor([0.5, -0.5], dtype=torch.float64))
    expected = torch.tensor([[[-0.5, 0.5, 0.0]], [[0.0, 0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(b.grad, expected)


def test_half_precision_is_lifted() -> None:
    theta = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    grad = estimate(
        BlackboxInterpolation("min", 3.0), lambda t: t.argsort(1).to(t.dtype), theta, torch.ones_like(theta)
    )
    assert grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("fn", "arrived"),
    [
        (lambda t: t.argmin(1), r"\[\(\)\]"),
        (lambda t: (t, t), r"\[\(4,\), \(4,\)\]"),
        (lambda t: t.reshape(-1, 2, 2), r"\[\(2, 2\)\]"),
    ],
)
def test_other_shapes_are_refused(fn: Callable[[Tensor], Tensor], arrived: str) -> None:
    box = ndgrad.wrap(fn, estimator=BlackboxInterpolation("min"))
    with pytest.raises(ValueError, match=rf"\[\(4,\)\].*shapes {arrived}.*indicator"):
        box(case()[0].requires_grad_())


def test_forward_probes_are_refused() -> None:
    box = ndgrad.wrap(solve("min"), estimator=BlackboxInterpolation("min"), evaluate_in="forward")
    with pytest.raises(ValueError, match="type evaluate_in='backward'"):
        box(case()[0].requires_grad_())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sense": "minimise"}, "sense must be one of 'max', 'min', got 'minimise'"),
        ({"sense": None}, "sense must be"),
        ({"sense": "min", "lambd": 0.0}, "lambd must be a positive"),
    ],
)
def test_bad_arguments(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlackboxInterpolation(**bad)


def test_repr() -> None:
    assert repr(BlackboxInterpolation("max", 3)) == "BlackboxInterpolation(sense='max', lambd=3.0)"
