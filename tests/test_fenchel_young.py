from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import one_hot

import ndgrad
from ndgrad import FenchelYoungLoss
from ndgrad.testing import assert_mean

ROWS, SIGMA = 20_000, 0.6
SENSES = ["min", "max"]


def choose(sense: str) -> Any:
    pick = torch.argmin if sense == "min" else torch.argmax
    return lambda theta: one_hot(pick(theta, 1), theta.shape[1])


def repeat(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).repeat(ROWS, 1)


def value_and_gradient(loss: FenchelYoungLoss, theta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    values = loss(theta.requires_grad_(), target)
    (grad,) = torch.autograd.grad(values, theta, torch.full_like(values, -1.7))
    return values.detach().unsqueeze(1), grad / -1.7


@pytest.mark.parametrize("sense", SENSES)
def test_gumbel_loss_is_cross_entropy_at_a_temperature(sense: str) -> None:
    torch.manual_seed(0)
    theta, target = repeat(0.5, 0.1, -0.7, 0.3), repeat(0.0, 1.0, 0.0, 0.0)
    sign = 1.0 if sense == "max" else -1.0
    loss = FenchelYoungLoss(choose(sense), sense, 5, SIGMA, "gumbel")
    logits = sign * theta[0] / SIGMA
    values, grad = value_and_gradient(loss, theta, target)
    assert_mean(values, -SIGMA * logits.log_softmax(0)[1], "value")
    assert_mean(grad, sign * (logits.softmax(0) - target[0]), "gradient")


@pytest.mark.parametrize("sense", SENSES)
def test_gaussian_choice_of_two_closed_form(sense: str) -> None:
    """E max(t1 + sigma Z1, t2 + sigma Z2) = t1 P + t2 (1 - P) + a phi, a = sigma sqrt 2; a target between both."""
    torch.manual_seed(1)
    theta, target = repeat(0.5, 0.1), repeat(0.3, 0.7)
    sign = 1.0 if sense == "max" else -1.0
    a, t = SIGMA * math.sqrt(2), sign * theta[0]
    normal = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    delta = (t[0] - t[1]) / a
    P, phi = normal.cdf(delta), normal.log_prob(delta).exp()
    values, grad = value_and_gradient(FenchelYoungLoss(choose(sense), sense, 4, SIGMA), theta, target)
    assert_mean(values, t[0] * P + t[1] * (1 - P) + a * phi - t @ target[0], "value")
    assert_mean(grad, sign * (torch.stack([P, 1 - P]) - target[0]), "gradient")


def test_the_variance_is_that_of_the_mean_solution() -> None:
    torch.manual_seed(2)
    S = 4
    theta, target = repeat(0.5, 0.1, -0.7), repeat(0.0, 1.0, 0.0)
    _, grad = value_and_gradient(FenchelYoungLoss(choose("max"), "max", S, SIGMA, "gumbel"), theta, target)
    p = (theta[0].detach() / SIGMA).softmax(0)
    assert_mean((grad - (p - target[0])) ** 2, p * (1 - p) / S, "variance")


def test_the_wrong_sense_falls_while_the_solution_gets_worse() -> None:
    """The classical defect: the gradient has the wrong sign."""
    torch.manual_seed(3)
    theta, target = repeat(0.5, 0.1), repeat(0.0, 1.0)
    _, right = value_and_gradient(FenchelYoungLoss(choose("max"), "max", 4, SIGMA), theta, target)
    _, wrong = value_and_gradient(FenchelYoungLoss(choose("max"), "min", 4, SIGMA), theta.detach(), target)
    assert right.mean(0)[1] < 0 < wrong.mean(0)[1]


def test_rows_of_any_shape_and_a_numpy_solver() -> None:
    """Each row is a matrix; the solver sees single points through ndgrad.wrap."""
    torch.manual_seed(4)
    solver = ndgrad.wrap(
        lambda scores: np.eye(3)[scores.argmax(1)],  # (2, 3): a choice of three, twice
        batched=False,
        vectorize=True,
    )
    loss = FenchelYoungLoss(solver, "max", 3, SIGMA, "gumbel")
    theta = torch.tensor([[0.2, 0.5, -0.3], [0.1, 0.0, 0.4]], dtype=torch.float64).repeat(1500, 1, 1)
    target = torch.eye(3, dtype=torch.float64)[[2, 0]].repeat(1500, 1, 1)
    values = loss(theta.requires_grad_(), target)
    assert values.shape == (1500,)
    assert solver.num_evaluations == 4500
    (grad,) = torch.autograd.grad(values, theta, torch.linspace(0.5, 1.5, 1500, dtype=torch.float64))
    assert solver.num_evaluations == 4500, "the backward pass uses the solutions of the value"
    logits = theta[0].detach() / SIGMA
    assert_mean(
        values.detach().unsqueeze(1),
        -SIGMA * (logits.log_softmax(1)[0, 2] + logits.log_softmax(1)[1, 0]),
        "value",
    )
    weights = torch.linspace(0.5, 1.5, 1500, dtype=torch.float64)[:, None, None]
    assert_mean((grad / weights).flatten(1), (logits.softmax(1) - target[0]).flatten(), "gradient")


def test_the_target_is_a_constant_and_no_gradient_costs_one_value() -> None:
    solver = ndgrad.wrap(choose("max"))
    loss = FenchelYoungLoss(solver, "max", 3)
    theta, target = torch.zeros(2, 4), torch.ones(2, 4, requires_grad=True)
    assert not loss(theta, target).requires_grad
    assert solver.num_evaluations == 6


def test_a_solver_may_change_its_input() -> None:
    def destructive(theta: Tensor) -> Tensor:
        y = choose("max")(theta)
        theta.zero_()
        return y

    torch.manual_seed(5)
    theta, target = torch.randn(3, 4), torch.ones(3, 4)
    values = []
    for solver in (choose("max"), destructive):
        loss = FenchelYoungLoss(solver, "max", 3, generator=torch.Generator().manual_seed(0))
        values.append(loss(theta, target))
    torch.testing.assert_close(*values)


def test_second_derivatives_are_refused() -> None:
    theta = torch.randn(3, 4, requires_grad=True)
    values = FenchelYoungLoss(choose("max"), "max", 3)(theta, torch.ones(3, 4))
    (grad,) = torch.autograd.grad(values.sum(), theta, create_graph=True)
    with pytest.raises(ndgrad.SecondDerivativeError):
        grad.sum().backward()


def test_half_precision_and_generators() -> None:
    def one() -> Tensor:
        loss = FenchelYoungLoss(choose("max"), "max", 3, generator=torch.Generator().manual_seed(0))
        theta = torch.zeros(3, 4, dtype=torch.bfloat16, requires_grad=True)
        loss(theta, torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
        assert theta.grad is not None
        return theta.grad

    state = torch.get_rng_state()
    first = one()
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    torch.manual_seed(5)
    torch.testing.assert_close(one(), first, rtol=0, atol=0)
    assert first.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"solver": 3}, TypeError, "needs a callable solver, got int"),
        (
            {"solver": ndgrad.wrap(torch.sign, estimator="perturbed_optimizer")},
            ValueError,
            "PerturbedOptimizer returns a mean over noise",
        ),
        ({"sense": "best"}, ValueError, "sense must be"),
        ({"num_samples": 0}, ValueError, "num_samples must be"),
        ({"sigma": -0.1}, ValueError, "sigma must be"),
        ({"noise": "lognormal"}, ValueError, "noise must be one of 'gaussian', 'gumbel'"),
    ],
)
def test_bad_arguments(bad: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FenchelYoungLoss(**({"solver": torch.sign, "sense": "max"} | bad))


def test_bad_shapes() -> None:
    loss = FenchelYoungLoss(choose("max"), "max")
    with pytest.raises(ValueError, match=r"one shape, got \(2, 3\) and \(2, 1\)"):
        loss(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="indicator"):
        FenchelYoungLoss(lambda z: z.argmax(1), "max")(torch.zeros(2, 3), torch.zeros(2, 3))


def test_repr() -> None:
    assert "sense='min', num_samples=4, sigma=0.3, noise='gumbel'" in repr(
        FenchelYoungLoss(torch.sign, "min", 4, 0.3, "gumbel")
    )
