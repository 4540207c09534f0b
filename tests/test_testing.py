"""`check_estimator` must fail for estimators that break one law each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ndgrad import Estimator, EvolutionStrategy, FlatEstimator, ScoreFunction
from ndgrad.autograd import attach
from ndgrad.sampling import gaussian
from ndgrad.testing import assert_mean, check_estimator

Pull = Callable[[Tensor], Tensor]
SIGMA = 0.3


class Pairs(FlatEstimator):
    """A right estimator, with one place to break it."""

    def __init__(self, bend: Callable[[Tensor, Tensor], Tensor] = lambda grad, v: grad) -> None:
        super().__init__()
        self.bend = bend

    def linearize_flat(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Pull:
        eps = gaussian(4, x, None)
        difference = (f(x + SIGMA * eps) - f(x - SIGMA * eps)) / (2 * SIGMA)
        return lambda v: self.bend(torch.einsum("sbm,bm,sbn->bn", difference, v, eps) / 4, v)


def test_a_right_one_passes() -> None:
    check_estimator(Pairs())


class PairedPairs(Pairs):
    """Refuses functions whose outputs do not have the inputs' shape; consistent all the same."""

    paired = True

    def linearize_flat(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Pull:
        assert x.shape == y.shape
        return super().linearize_flat(f, x, y)


def test_paired_estimators_are_shown_paired_functions() -> None:
    check_estimator(PairedPairs())
    with pytest.raises(AssertionError, match="affine is unbiased"):
        check_estimator(PairedPairs(lambda grad, v: 1.1 * grad))


def test_a_mean_over_draws_of_a_family_passes() -> None:
    check_estimator(ScoreFunction(lambda x: Independent(Normal(x, SIGMA), 1), num_samples=3))


@pytest.mark.parametrize(
    ("law", "bend"),
    [
        ("affine is unbiased", lambda grad, v: 1.1 * grad),
        ("affine is unbiased", lambda grad, v: grad * SIGMA),
        ("affine is unbiased", lambda grad, v: -grad),
        ("constant has no gradient", lambda grad, v: grad + 0.1 * v.sum(1, keepdim=True)),
        ("is linear in the cotangent", lambda grad, v: grad * v.norm()),
        ("rows are independent", lambda grad, v: grad + 1e-3 * grad.mean(0)),
        ("is linear in the cotangent", lambda grad, v: grad / 0),
    ],
)
def test_a_bent_gradient_is_caught(law: str, bend: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError, match=law):
        check_estimator(Pairs(bend))


class Delegate(Estimator):
    """An estimator around a right one, broken outside the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.right = EvolutionStrategy(3, SIGMA)


class Wasteful(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        f(*inputs)
        return self.right(f, *inputs, evaluate_in=evaluate_in)


class WrongValue(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return self.right(f, *inputs) * 1.001


class SilentSecondDerivative(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        x = inputs[0]
        slope = 0.4 * torch.ones_like(x).sum()  # a constant Jacobian, differentiable any number of times
        return (
            f(x.detach())
            + slope * (x - x.detach()).sum(1, keepdim=True) ** 1
            + 0 * (x - x.detach()).pow(2).sum()
        )


class BiasedMean(Delegate):
    """Declares that its value is a mean, which then must be that of a centred law."""

    exact_value = False

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return self.right(f, *inputs) + 0.01


class UnevenMean(Delegate):
    exact_value = False

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        if not inputs[0].requires_grad:
            f(torch.cat(inputs * 2))
        return self.right(f, *inputs)


class NeverStill(Delegate):
    """Declares that it is not linear, and moves without a cotangent."""

    linear = False

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return attach(f, inputs, lambda x, y: lambda v: (0.1 + v[0].sum(1, keepdim=True) * x[0],))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (BiasedMean(), "affine value is unbiased"),
        (UnevenMean(), "costs one call without gradient.*no gradient was needed"),
        (NeverStill(), r"no cotangent no gradient.*a cotangent of 0 has the gradient \[0.1"),
        (Wasteful(), "costs one call without gradient.*no gradient was needed"),
        (WrongValue(), "value is exact"),
        (SilentSecondDerivative(), "refuses second derivatives.*SecondDerivativeError"),
    ],
)
def test_other_broken_laws(estimator: Estimator, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_estimator(estimator)


def test_the_global_random_state_is_put_back() -> None:
    state = torch.get_rng_state()
    check_estimator(Pairs())
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_assert_mean() -> None:
    samples = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) + 3.0
    assert_mean(samples, 3.0, "right")
    with pytest.raises(AssertionError, match="standard errors off"):
        assert_mean(samples, 3.1, "wrong")
