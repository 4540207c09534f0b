"""`check_estimator` must fail for estimators that break one law each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ndgrad import Estimator, EvolutionStrategy, FlatEstimator, ScoreFunction, VJPEstimator
from ndgrad.autograd import attach
from ndgrad.sampling import gaussian
from ndgrad.testing import assert_mean, check_estimator, laws_of

Pull = Callable[[Tensor], Tensor]
SIGMA = 0.3


class Pairs(FlatEstimator):
    """A right estimator, with two places to break it."""

    def __init__(
        self,
        bend: Callable[[Tensor, Tensor], Tensor] = lambda grad, v: grad,
        centre: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        super().__init__()
        self.bend, self.centre = bend, centre

    def linearize_flat(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Pull:
        eps, centre = gaussian(4, x, None), self.centre(x)
        difference = (f(centre + SIGMA * eps) - f(centre - SIGMA * eps)) / (2 * SIGMA)
        return lambda v: self.bend(torch.einsum("sbm,bm,sbn->bn", difference, v, eps) / 4, v)


def broken(estimator: Estimator) -> list[str]:
    """Return the names of all laws that the estimator breaks."""
    names = []
    for law in laws_of(estimator):
        torch.manual_seed(0)
        try:
            law(copy.deepcopy(estimator), 5)
        except AssertionError:
            names.append(law.__name__.strip("_").replace("_", " "))
    return names


@pytest.mark.parametrize("num_inputs", [2, 3, 5, 8])
def test_a_right_one_passes(num_inputs: int) -> None:
    check_estimator(Pairs(), num_inputs=num_inputs)


class PairedPairs(Pairs):
    """Refuses functions whose outputs do not have the inputs' shape; consistent all the same."""

    paired = True

    def linearize_flat(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Pull:
        assert x.shape == y.shape
        return super().linearize_flat(f, x, y)


def test_paired_estimators_are_shown_paired_functions() -> None:
    for num_inputs in (2, 3, 5):
        check_estimator(PairedPairs(), num_inputs=num_inputs)
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


@pytest.mark.parametrize(
    ("laws", "centre"),
    [
        (["quadratic is unbiased"], torch.zeros_like),
        (["quadratic is unbiased"], lambda x: 2 * x),
        (["quadratic is unbiased"], torch.abs),
        (["rows are independent"], lambda x: x.roll(1, 0)),
        (["rows are independent"], lambda x: torch.cat([x[:1], x[:-1]])),
        (["rows are independent", "quadratic is unbiased"], lambda x: x[:1].expand_as(x)),
    ],
)
def test_probes_around_something_else_are_caught(laws: list[str], centre: Callable[[Tensor], Tensor]) -> None:
    assert broken(Pairs(centre=centre)) == laws


class FirstInput(VJPEstimator):
    """Has no gradient for any input but the first."""

    def linearize(self, f: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Any:
        x, *others = inputs
        eps = gaussian(4, x, None)
        both = [f(x + s * SIGMA * e, *others)[0] for e in eps for s in (1, -1)]
        slope = (torch.stack(both[::2]) - torch.stack(both[1::2])) / (2 * SIGMA)

        def pull(v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            grad = torch.einsum("sbm,bm,sbn->bn", slope, v[0], eps) / 4
            return grad, *map(torch.zeros_like, others)

        return pull


def test_an_input_without_gradient_is_caught() -> None:
    assert broken(FirstInput()) == ["two inputs have their gradients"]


class OneInput(Estimator):
    """Raises an error for a second input."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.right = error, Pairs()

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        if len(inputs) > 1:
            raise self.error
        return self.right(f, *inputs, evaluate_in=evaluate_in)


def test_a_second_input_may_be_refused_but_not_stumbled_over() -> None:
    check_estimator(OneInput(ValueError("one input")))
    with pytest.raises(AssertionError, match="two inputs raise RuntimeError: sizes must match"):
        check_estimator(OneInput(RuntimeError("sizes must match")))


class Stretched(Estimator):
    """Another estimator's gradient times a factor."""

    def __init__(self, inner: Estimator, factor: float) -> None:
        super().__init__()
        self.inner, self.factor, self.exact_value = inner, factor, inner.exact_value

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        y = self.inner(f, *inputs, evaluate_in=evaluate_in)
        return y.detach() + self.factor * (y - y.detach())


@pytest.mark.parametrize(
    "estimator",
    [
        EvolutionStrategy(1, 0.3),
        EvolutionStrategy(1, 0.01, antithetic=False, directions="gaussian", baseline=None),
        EvolutionStrategy(2, 0.3, antithetic=False),
        ScoreFunction(num_samples=3),
        ScoreFunction(lambda x: Independent(Normal(x, 0.05), 1), num_samples=2),
    ],
)
def test_a_wrong_factor_is_seen_through_the_noise(estimator: Estimator) -> None:
    check_estimator(Stretched(estimator, 1.0))
    for factor in (0.9, 1.1):
        with pytest.raises(
            AssertionError, match=r"affine is unbiased.*in lengths of the gradient.*errors off"
        ):
            check_estimator(Stretched(estimator, factor))


def test_what_is_too_noisy_to_be_judged_does_not_pass() -> None:
    noisy = Pairs(lambda grad, v: grad + 100 * torch.randn_like(grad) * v[:, :1])
    with pytest.raises(AssertionError, match=r"affine is unbiased.*too noisy to be judged.*wider sigma"):
        check_estimator(noisy)


class Delegate(Estimator):
    """An estimator around a right one, broken outside the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.right = EvolutionStrategy(3, SIGMA)


class Wasteful(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        f(*inputs)
        return self.right(f, *inputs, evaluate_in=evaluate_in)


class NoChoice(Delegate):
    def forward(self, f: Any, *inputs: Tensor) -> Any:
        return self.right(f, *inputs)


class AlwaysEarly(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return self.right(f, *inputs, evaluate_in="forward")


class AlwaysLate(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return self.right(f, *inputs)


class NotRefusing(Delegate):
    """Declares that it probes where the cotangent leads, and lets itself be told to do so before that is known."""

    linear = False

    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return self.right(f, *inputs, evaluate_in=evaluate_in)


class DoubleValue(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        return self.right(f, *inputs, evaluate_in=evaluate_in).double()


class SingleValue(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        y = self.right(f, *inputs, evaluate_in=evaluate_in)
        return y + (y.float() - y).detach()


class SingleRows(Delegate):
    def forward(self, f: Any, *inputs: Tensor, evaluate_in: Any = "backward") -> Any:
        def linearize(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> Any:
            f(x[0].float())
            return lambda v: (v[0].sum(1, keepdim=True) * x[0],)

        return attach(f, inputs, linearize, evaluate_in)


class SingleDifferences(FlatEstimator):
    """Takes the differences of values that it has rounded to float32."""

    def linearize_flat(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Pull:
        steps = 0.01 * torch.eye(x.shape[1], dtype=x.dtype).unsqueeze(1)
        slope = (f(x + steps).float() - y.float()).to(x.dtype) / 0.01
        return lambda v: torch.einsum("nbm,bm->bn", slope, v)


@pytest.mark.parametrize(
    ("estimator", "law"),
    [
        (NoChoice(), "probes when told to"),
        (AlwaysEarly(), "probes when told to"),
        (AlwaysLate(), "probes when told to"),
        (NotRefusing(), "probes when told to"),
        (DoubleValue(), "keeps dtype and shape"),
        (SingleValue(), "value is exact"),
        (Pairs(lambda grad, v: grad.float()), "is linear in the cotangent"),
        (SingleDifferences(), "is accurate in float64"),
    ],
)
def test_times_and_dtypes_have_a_law_each(estimator: Estimator, law: str) -> None:
    assert broken(estimator) == [law]


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
        (NoChoice(), "evaluate_in='backward'. raised TypeError"),
        (AlwaysEarly(), "called with 21 rows before the backward pass, for a value of 3"),
        (AlwaysLate(), "called with 18 rows in the backward pass"),
        (NotRefusing(), "must raise ValueError for evaluate_in='forward'"),
        (DoubleValue(), "value of a torch.float32 function has dtype torch.float64"),
        (SingleRows(), "keeps dtype and shape.*f was called with .*torch.float32"),
        (Pairs(lambda grad, v: grad.float()), "that of a float32 gradient"),
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


class NoFunction(VJPEstimator):
    """Returns a tensor in the place of the pullback."""

    def linearize(self, f: Any, inputs: Any, outputs: Any) -> Any:
        return inputs[0]


def test_whatever_goes_wrong_names_the_law() -> None:
    with pytest.raises(
        AssertionError, match=r"NoFunction breaks the law 'is reproducible': TypeError: 'Tensor'"
    ):
        check_estimator(NoFunction())


def test_an_instance_is_asked_for() -> None:
    with pytest.raises(TypeError, match="create it, with parentheses"):
        check_estimator(VJPEstimator)  # type: ignore[arg-type]
