from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import one_hot

import ndgrad
from ndgrad import PerturbedOptimizer
from ndgrad.testing import assert_mean

ROWS = 20_000
SIGMA = 0.6
BASELINES = ["loo", "fx", None]


def rows(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).repeat(ROWS, 1).requires_grad_()


def best(scores: Tensor) -> Tensor:
    return one_hot(scores.argmax(1), scores.shape[1])


def cheapest(costs: Tensor) -> Tensor:
    return one_hot(costs.argmin(1), costs.shape[1])


def value_and_gradient(box: ndgrad.BlackBox, theta: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    y = box(theta)
    (grad,) = torch.autograd.grad(y, theta, v.expand_as(y))
    return y.detach(), grad


@pytest.mark.parametrize("baseline", BASELINES)
def test_gaussian_choice_of_two_closed_form(baseline: str | None) -> None:
    """The first is chosen with probability Phi((t1 - t2) / (sigma sqrt 2))."""
    torch.manual_seed(0)
    v = torch.tensor([1.3, -0.4], dtype=torch.float64)
    box = ndgrad.wrap(best, estimator=PerturbedOptimizer(5, SIGMA, baseline=baseline))
    y, grad = value_and_gradient(box, rows(0.5, 0.1), v)
    width = SIGMA * math.sqrt(2)
    normal = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    delta = torch.tensor(0.4 / width, dtype=torch.float64)
    p, slope = normal.cdf(delta), normal.log_prob(delta).exp() / width
    assert_mean(y, torch.stack([p, 1 - p]), "value")
    assert_mean(grad, (v[0] - v[1]) * torch.stack([slope, -slope]), "gradient")


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("sense", ["max", "min"])
def test_gumbel_choice_is_a_softmax(sense: str, baseline: str | None) -> None:
    torch.manual_seed(1)
    v = torch.tensor([1.3, -0.4, 0.2, 0.9], dtype=torch.float64)
    sign = 1.0 if sense == "max" else -1.0
    box = ndgrad.wrap(
        best if sense == "max" else cheapest,
        estimator=PerturbedOptimizer(6, SIGMA, noise="gumbel", sense=sense, baseline=baseline),
    )
    theta = rows(0.5, 0.1, -0.7, 0.3)
    y, grad = value_and_gradient(box, theta, v)
    p = (sign * theta[0].detach() / SIGMA).softmax(0)
    assert_mean(y, p, "value")
    assert_mean(grad, sign * p * (v - p @ v) / SIGMA, "gradient")


def test_gumbel_noise_of_the_wrong_sense_is_no_softmax() -> None:
    torch.manual_seed(2)
    theta = rows(0.5, 0.1, -0.7, 0.3).detach()
    y = PerturbedOptimizer(6, SIGMA, noise="gumbel", sense="min")(best, theta)
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_mean(y, (theta[0] / SIGMA).softmax(0), "value")


@pytest.mark.parametrize("baseline", BASELINES)
def test_lognormal_choice_of_two_closed_form(baseline: str | None) -> None:
    """The first of two costs is lower with probability Phi(log(t2 / t1) / (sigma sqrt 2))."""
    torch.manual_seed(3)
    v = torch.tensor([1.3, -0.4], dtype=torch.float64)
    box = ndgrad.wrap(cheapest, estimator=PerturbedOptimizer(5, SIGMA, noise="lognormal", baseline=baseline))
    y, grad = value_and_gradient(box, rows(0.5, 0.8), v)
    width = SIGMA * math.sqrt(2)
    normal = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    delta = torch.tensor(math.log(0.8 / 0.5) / width, dtype=torch.float64)
    p, slope = normal.cdf(delta), normal.log_prob(delta).exp() / width
    assert_mean(y, torch.stack([p, 1 - p]), "value")
    assert_mean(grad, (v[0] - v[1]) * torch.stack([-slope / 0.5, slope / 0.8]), "gradient")


def test_lognormal_mean_and_variance_of_the_identity() -> None:
    """Sample covariance of W = exp(sigma Z - sigma^2/2) and Z/sigma, from the moments of a normal variable."""
    torch.manual_seed(4)
    S, s2 = 6, SIGMA**2
    theta = rows(-1.7)
    (grad,) = torch.autograd.grad(
        PerturbedOptimizer(S, SIGMA, noise="lognormal")(lambda z: z + 3.0, theta),
        theta,
        torch.full((ROWS, 1), -0.7, dtype=torch.float64),
    )
    mu22 = (math.exp(s2) * (1 + 4 * s2) - 2 * (1 + s2) + 1) / s2
    variance = mu22 / S - (S - 2) / (S * (S - 1)) + math.expm1(s2) / s2 / (S * (S - 1))
    assert_mean(grad, -0.7, "gradient")
    assert_mean((grad / -0.7 - 1) ** 2, variance, "variance")


CORNERS = torch.tensor([[1.0, 0.2], [0.3, 1.1], [-0.9, 0.4], [-0.5, -0.8], [0.6, -0.7]], dtype=torch.float64)


def corner(theta: Tensor) -> Tensor:
    """Solve max <theta, y> over five corners by enumeration."""
    return CORNERS[(theta @ CORNERS.T).argmax(1)]


def test_a_linear_program_in_the_plane_by_quadrature() -> None:
    torch.manual_seed(5)
    center = torch.tensor([0.4, -0.3], dtype=torch.float64, requires_grad=True)
    axis = torch.linspace(-6 * SIGMA, 6 * SIGMA, 1201, dtype=torch.float64)
    u = torch.cartesian_prod(axis, axis) + center.detach()  # midpoints of small squares
    area = (axis[1] - axis[0]) ** 2
    density = torch.exp(-((u - center) ** 2).sum(1) / (2 * SIGMA**2)) / (2 * math.pi * SIGMA**2)
    mean = (density @ corner(u)) * area
    v = torch.tensor([0.8, -1.7], dtype=torch.float64)
    (expected,) = torch.autograd.grad(mean @ v, center)
    box = ndgrad.wrap(corner, estimator=PerturbedOptimizer(7, SIGMA))
    y, grad = value_and_gradient(box, rows(0.4, -0.3), v)
    assert_mean(y, mean.detach(), "value")
    assert_mean(grad, expected, "gradient")


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_gradient_uses_the_draws_of_the_value(baseline: str | None) -> None:
    torch.manual_seed(6)
    S, B, n = 4, 3, 5
    seen: list[Tensor] = []

    def f(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return torch.stack([z.sin().sum(1), z.prod(1) + 2.0], dim=1)

    theta = torch.randn(B, n, dtype=torch.float64, requires_grad=True)
    v = torch.randn(B, 2, dtype=torch.float64)
    y = PerturbedOptimizer(S, SIGMA, baseline=baseline)(f, theta)
    calls = 2 if baseline == "fx" else 1
    grads = [torch.autograd.grad(y, theta, v, retain_graph=True)[0] for _ in range(2)]
    assert len(seen) == calls
    draws = seen[0].reshape(S, B, n)
    values = f(draws.flatten(0, 1)).reshape(S, B, 2)
    torch.testing.assert_close(y.detach(), values.mean(0))
    expected = torch.zeros_like(theta)
    for s in range(S):
        others = [values[t] for t in range(S) if t != s]
        baselines = {"loo": sum(others) / (S - 1), "fx": f(theta.detach()), None: 0.0}
        weight = ((values[s] - baselines[baseline]) * v).sum(1, keepdim=True)
        expected += weight * (draws[s] - theta.detach()) / (SIGMA**2 * S)
    for grad in grads:
        torch.testing.assert_close(grad, expected)


def test_value_and_cost_without_gradient_and_in_eval_mode() -> None:
    box = ndgrad.wrap(best, estimator=PerturbedOptimizer(7, SIGMA, baseline="fx")).eval()
    with torch.no_grad():
        y = box(torch.full((5, 3), 0.5))
    assert box.num_evaluations == 35
    torch.testing.assert_close(y * 7, (y * 7).round())
    torch.testing.assert_close(y.sum(1), torch.ones(5))
    assert (y.max(1).values < 1).any()


def test_several_inputs_and_outputs() -> None:
    """Rows that are numbers, matrices and vectors; outputs in a dict, one of integers."""
    torch.manual_seed(7)
    a = torch.full((ROWS,), 0.5, dtype=torch.float64, requires_grad=True)
    b = torch.full((ROWS, 2, 1), -0.3, dtype=torch.float64, requires_grad=True)
    box = ndgrad.wrap(
        lambda a, b: {"sum": a + b.sum((1, 2)), "sign": (b[:, 0] > 0).long(), "b": 2 * b},
        estimator=PerturbedOptimizer(4, SIGMA),
    )
    y = box(a, b)
    v = [torch.full_like(t, c) for t, c in zip(y.values(), (0.4, 0.0, -0.9), strict=True)]
    grad_a, grad_b = torch.autograd.grad(list(y.values()), (a, b), v)
    assert_mean(y["sum"].detach().unsqueeze(1), -0.1, "value")
    assert_mean(grad_a.unsqueeze(1), 0.4, "gradient")
    assert_mean(grad_b.flatten(1), 0.4 - 1.8, "gradient")


def test_numpy_solver_and_empty_batch() -> None:
    box = ndgrad.wrap(lambda x: np.eye(3)[x.argmax(1)], estimator=PerturbedOptimizer(4, SIGMA))
    x = torch.zeros(0, 3, requires_grad=True)
    y = box(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 3)


def test_half_precision_is_lifted() -> None:
    """Noise, scores and their sums are float32; f sees rows in the dtype of its input."""
    torch.manual_seed(8)
    theta = torch.zeros(2000, 2, dtype=torch.bfloat16, requires_grad=True)
    y = PerturbedOptimizer(16, 0.5)(lambda z: z.float() @ torch.tensor([[1.5], [-0.5]]), theta)
    assert y.dtype == torch.float32
    (grad,) = torch.autograd.grad(y, theta, torch.full_like(y, 0.8))
    assert grad.dtype == torch.bfloat16
    assert_mean(grad.float(), torch.tensor([1.2, -0.4], dtype=torch.float64), "gradient")


def test_the_widest_input_decides_the_precision_of_the_noise() -> None:
    seen: list[Tensor] = []

    def f(a: Tensor, b: Tensor) -> Tensor:
        seen.append(b)
        return a

    PerturbedOptimizer(3, SIGMA)(f, torch.zeros(4, 1, dtype=torch.bfloat16), torch.zeros(4, 2))
    assert seen[0].dtype == torch.float32
    assert (seen[0] != seen[0].bfloat16()).any(), "noise of a float32 input was drawn in bfloat16"


def test_integer_outputs_become_floats() -> None:
    y = PerturbedOptimizer(3, SIGMA)(best, torch.zeros(2, 4, dtype=torch.float64))
    assert y.dtype == torch.float32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_samples": 0}, "num_samples must be"),
        ({"num_samples": 1}, "type baseline='fx'"),
        ({"sigma": 0.0}, "sigma must be"),
        ({"noise": "cauchy"}, "noise must be one of 'gaussian', 'gumbel', 'lognormal'"),
        ({"noise": "gumbel"}, "sense='max' if the function maximises.*sense='min'"),
        ({"sense": "minimise"}, "sense must be one of 'max', 'min'"),
        ({"noise": "gumbel", "sense": "minimise"}, "sense must be one of 'max', 'min'"),
        ({"baseline": "ema"}, "baseline must be"),
    ],
)
def test_bad_arguments(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerturbedOptimizer(**bad)


def test_lognormal_noise_refuses_zero() -> None:
    with pytest.raises(ValueError, match="some inputs are 0"):
        PerturbedOptimizer(3, noise="lognormal")(best, torch.tensor([[0.0, 1.0]]))


def test_repr() -> None:
    assert "sigma=0.3, noise='gumbel', sense='min'" in repr(
        PerturbedOptimizer(sigma=0.3, noise="gumbel", sense="min")
    )
