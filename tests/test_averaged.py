from __future__ import annotations

import copy

import pytest
import torch

import ndgrad
from ndgrad import Averaged, DiffBypass, EvolutionStrategy, FiniteDifference, ScoreFunction
from ndgrad.testing import assert_mean, estimate


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_is_the_mean_of_the_repetitions() -> None:
    x, v = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    single = EvolutionStrategy(3, 0.3)
    torch.manual_seed(6)
    expected = torch.stack([estimate(copy.deepcopy(single), torch.sin, x, v) for _ in range(5)]).mean(0)
    torch.manual_seed(6)
    torch.testing.assert_close(estimate(Averaged(single, repeats=5), torch.sin, x, v), expected)


@pytest.mark.parametrize("repeats", [1, 4])
def test_divides_the_variance(repeats: int) -> None:
    """(n - 1)/S for one pair of random signs on a linear function, a quarter of it for four repetitions."""
    n, S = 5, 3
    x, v = torch.zeros(20_000, n, dtype=torch.float64), torch.full((20_000, 1), -0.7, dtype=torch.float64)
    slope = torch.randn(n, 1, dtype=torch.float64)
    estimator = Averaged(EvolutionStrategy(S, 0.3, directions="rademacher"), repeats)
    grads = estimate(estimator, lambda z: z @ slope, x, v)
    exact = -0.7 * slope[:, 0]
    assert_mean(grads, exact, "mean")
    spread = (grads - exact).square().sum(1, keepdim=True) / exact.square().sum()
    assert_mean(spread, (n - 1) / (S * repeats), "variance")


def test_several_inputs_and_evaluations() -> None:
    box = ndgrad.wrap(
        lambda a, b: a * b, estimator=Averaged(EvolutionStrategy(2, 0.3), repeats=3), argnums=(0, 1)
    )
    a, b = torch.randn(4, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    grads = torch.autograd.grad(box(a, b), (a, b), torch.randn(4, 2))
    assert [g.shape for g in grads] == [(4, 2), (4, 2)]
    assert box.num_evaluations == 4 + 3 * 4 * 4, "one value; three times two pairs"


def test_a_fitted_estimator_goes_on_fitting() -> None:
    estimator = Averaged(DiffBypass(torch.nn.Linear(3, 2), num_samples=4, fit_steps=7), repeats=3)
    assert not estimator.consistent
    assert estimator.wants_constant_inputs
    estimate(estimator, lambda z: z[:, :2] ** 2, torch.randn(4, 3), torch.randn(4, 2))
    assert estimator.estimator.bypass.fit.steps == 21
    right = Averaged(EvolutionStrategy(), 2)
    assert right.consistent
    assert not right.wants_constant_inputs


def test_hands_on_what_it_observes() -> None:
    estimator = Averaged(DiffBypass(torch.nn.Linear(3, 2), num_samples=0, fit_steps=7), repeats=2)
    rows = torch.randn(8, 3)
    estimator.observe((rows[:4],), (rows,), (rows[:, :2],))
    assert estimator.estimator.bypass.fit.steps == 7


def test_held_estimators_belong_to_one_function() -> None:
    single = EvolutionStrategy()
    ndgrad.wrap(torch.round, estimator=Averaged(single, 2))
    with pytest.raises(ValueError, match="already belongs"):
        ndgrad.wrap(torch.sign, estimator=single)
    with pytest.raises(ValueError, match="already belongs"):
        ndgrad.wrap(torch.sign, estimator=Averaged(single, 3))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="repeats"):
        Averaged(EvolutionStrategy(), 0)
    with pytest.raises(TypeError, match=r"VJPEstimator, such as EvolutionStrategy.*parentheses"):
        Averaged(FiniteDifference, 2)
    with pytest.raises(TypeError, match=r"estimator must be an ndgrad\.VJPEstimator"):
        Averaged(ScoreFunction(), 2)
    with pytest.raises(ValueError, match="or an instance, got 'averaged'"):
        ndgrad.wrap(torch.sign, estimator="averaged")


def test_a_value_of_its_own_is_refused() -> None:
    for bypass in (DiffBypass(forward="bypass"), DiffBypass(forward="bypass").eval()):
        with pytest.raises(ValueError, match=r"^estimator gives its gradient only.*'straight_through'"):
            Averaged(bypass, 2)


def test_repr() -> None:
    assert "repeats=3" in repr(Averaged(EvolutionStrategy(), 3))
