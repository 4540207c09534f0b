from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Categorical,
    Cauchy,
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
)

import ndgrad
from ndgrad import ScoreFunction, SecondDerivativeError
from ndgrad.testing import assert_mean

ROWS = 20_000
BASELINES = ["loo", "fx", None]


def rows(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).repeat(ROWS, 1).requires_grad_()


def independent_bernoulli(p: Tensor) -> Distribution:
    return Independent(Bernoulli(probs=p), 1)


@pytest.mark.parametrize("baseline", BASELINES)
def test_bernoulli_closed_form(baseline: str | None) -> None:
    """E z0 (2 z1 + 1) + 3 = p0 (2 p1 + 1) + 3."""
    torch.manual_seed(0)
    p = rows(0.3, 0.6)
    box = ndgrad.wrap(
        lambda z: z[:, 0] * (2 * z[:, 1] + 1) + 3,
        estimator=ScoreFunction(independent_bernoulli, num_samples=4, baseline=baseline),
    )
    y = box(p)
    assert box.num_evaluations == ROWS * (4 + (baseline == "fx"))
    assert_mean(y.detach().unsqueeze(1), 0.3 * 2.2 + 3, "value")
    (grad,) = torch.autograd.grad(y, p, torch.full_like(y, -1.7))
    assert_mean(grad, -1.7 * torch.tensor([2.2, 0.6], dtype=torch.float64), "gradient")
    assert box.num_evaluations == ROWS * (4 + (baseline == "fx")), "backward must use the draws of the value"


def test_categorical_closed_form() -> None:
    """The draw is an index: another shape and dtype than its logits."""
    torch.manual_seed(1)
    table = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    logits = rows(0.2, -0.5, 0.4)
    box = ndgrad.wrap(
        lambda z: table[z], estimator=ScoreFunction(lambda t: Categorical(logits=t), num_samples=5)
    )
    y = box(logits)
    probs = logits[:1].detach().softmax(1)[0]
    assert_mean(y.detach().unsqueeze(1), probs @ table, "value")
    (grad,) = torch.autograd.grad(y, logits, torch.full_like(y, 0.8))
    assert_mean(grad, 0.8 * probs * (table - probs @ table), "gradient")


@pytest.mark.parametrize("baseline", BASELINES)
def test_learned_scale_closed_form(baseline: str | None) -> None:
    """E z^2 = mu^2 + s^2, so the gradients are 2 mu and 2 s."""
    torch.manual_seed(2)
    mu, scale = rows(0.7), rows(0.4)
    box = ndgrad.wrap(
        lambda z: z**2,
        estimator=ScoreFunction(lambda m, s: Independent(Normal(m, s), 1), num_samples=6, baseline=baseline),
    )
    y = box(mu, scale)
    grads = torch.autograd.grad(y, (mu, scale), torch.full_like(y, 1.3))
    assert_mean(torch.cat(grads, 1), 1.3 * torch.tensor([1.4, 0.8], dtype=torch.float64), "gradient")


def test_default_gaussian_variance_of_a_family() -> None:
    """One learned mean: Var of (z^2 - b) (z - mu)/s^2, by leave-one-out against none: the baseline must do its work."""
    spreads = []
    for baseline in ("loo", None):
        torch.manual_seed(3)
        mu = rows(0.7)
        estimator = ScoreFunction(lambda m: Independent(Normal(m, 0.4), 1), num_samples=8, baseline=baseline)
        (grad,) = torch.autograd.grad(
            estimator(lambda z: z + 5.0, mu), mu, torch.full((ROWS, 1), 1.3, dtype=torch.float64)
        )
        spreads.append(grad)
    S, c = 8, (0.7 + 5.0) / 0.4
    for grad, variance in zip(spreads, (2 / (S - 1), (2 + c**2) / S), strict=True):
        assert_mean(((grad - 1.3) / 1.3) ** 2, variance, "variance")


def test_no_grad_still_draws() -> None:
    box = ndgrad.wrap(lambda z: z, estimator=ScoreFunction(independent_bernoulli, num_samples=7))
    with torch.no_grad():
        y = box(torch.full((5, 2), 0.5))
    assert box.num_evaluations == 35
    torch.testing.assert_close(y * 7, (y * 7).round())


def test_callable_baseline() -> None:
    torch.manual_seed(4)
    x = rows(0.2, -0.4, 0.9)
    estimator = ScoreFunction(num_samples=3, sigma=0.3, baseline=lambda x: x.sum(1, keepdim=True) + 5.0)
    v = torch.full((ROWS, 1), -0.7, dtype=torch.float64)
    (grad,) = torch.autograd.grad(estimator(lambda z: z.sum(1, keepdim=True) + 5.0, x), x, v)
    assert_mean(grad, -0.7, "gradient")
    # exact baseline at x: the variance of forward Gaussian differences, (n + 1)/S of |g|^2 = n v^2
    assert_mean((grad + 0.7).square().sum(1, keepdim=True), (3 + 1) / 3 * 3 * 0.49, "variance")


@pytest.mark.parametrize("family", [None, lambda x: Normal(x, 0.3)])
def test_one_callable_baseline_serves_all_outputs(family: Callable[..., Distribution] | None) -> None:
    """As if each had been given its own: exact for both outputs here, so that a constant f has gradient 0."""
    x = torch.randn(3, 2, requires_grad=True)
    for baseline in (
        lambda x: x.new_full((len(x), 1), 5.0),
        lambda x: (x.new_full((), 5.0), x.new_full((1, 2), 5.0)),
    ):
        estimator = ScoreFunction(family, num_samples=4, baseline=baseline)
        first, second = estimator(lambda z: (z[:, :1] * 0 + 5.0, z * 0 + 5.0), x)
        (grad,) = torch.autograd.grad(first.sum() + 0.7 * second.sum(), x)
        assert (grad == 0).all()


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (
            lambda x: x.new_zeros(len(x), 1),
            r"broadcast to the output, \(3,\), but has shape \(3, 1\); .* \(3,\)",
        ),
        (lambda x: x.new_zeros(2), r"broadcast to the output, \(3,\), but has shape \(2,\)"),
        (lambda x: (x[:, 0], x[:, 0], x[:, 0]), r"one for each of the 1 outputs, but returned 3"),
    ],
)
def test_baselines_that_do_not_fit(baseline: Callable[..., object], message: str) -> None:
    for samples in (3, 5):  # with 3 samples, (3, 3) - (3, 1) would pass for numbers of rows
        y = ScoreFunction(num_samples=samples, baseline=baseline)(
            lambda z: z.sum(1), torch.ones(3, 2, requires_grad=True)
        )
        with pytest.raises(ValueError, match=message):
            y.sum().backward()


@pytest.mark.parametrize("cache_size", [0, 1])
def test_transforms_with_a_cache(cache_size: int) -> None:
    """The cache would return the noise that a draw was made from, a constant, in the place of its inverse."""
    torch.manual_seed(6)
    x = rows(0.2, -0.4)

    def family(mean: Tensor) -> Distribution:
        shift = AffineTransform(mean, 0.5, cache_size=cache_size)
        return TransformedDistribution(Normal(torch.zeros_like(mean), 1.0), [shift])

    y = ScoreFunction(family, num_samples=4)(lambda z: 3 * z, x)
    (grad,) = torch.autograd.grad(y, x, torch.full_like(y, -0.7))
    assert_mean(grad, -2.1, "gradient")


def test_the_mean_is_evaluated_for_a_gradient_only() -> None:
    estimator = ScoreFunction(independent_bernoulli, num_samples=7, baseline="fx")
    box = ndgrad.wrap(lambda z: z, estimator=estimator)
    p = torch.full((5, 2), 0.5, requires_grad=True)
    with torch.no_grad():
        box(p)
    box(p.detach())
    assert box.num_evaluations == 2 * 35
    box(p).sum().backward()
    assert box.num_evaluations == 2 * 35 + 40


def test_a_family_without_mean_has_no_value_there() -> None:
    families = {
        "Categorical": lambda x: Categorical(logits=x.reshape(3, 2)),
        "Cauchy": lambda x: Cauchy(x, 1.0),
        "TransformedDistribution": lambda x: TransformedDistribution(
            Normal(x, 1.0), [AffineTransform(0.0, 2.0)]
        ),
    }
    for name, family in families.items():
        estimator = ScoreFunction(family, num_samples=3, baseline="fx")
        with pytest.raises(ValueError, match=rf"{name} has no finite mean; type baseline='loo'"):
            estimator(lambda z: z * 1.0, torch.zeros(3, 2, requires_grad=True))
        ScoreFunction(family, num_samples=3)(lambda z: z * 1.0, torch.zeros(3, 2, requires_grad=True))


def test_parameters_in_the_distribution_are_trained() -> None:
    torch.manual_seed(5)
    scale = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
    estimator = ScoreFunction(lambda m: Independent(Normal(m, scale), 1), num_samples=8)
    mu = rows(0.7).detach()
    estimator(lambda z: z**2, mu).mean().backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, torch.tensor(0.8, dtype=torch.float64), rtol=0, atol=0.05)


def test_several_inputs_and_outputs() -> None:
    torch.manual_seed(6)
    a, b = rows(0.5), rows(0.1, -0.2)
    box = ndgrad.wrap(
        lambda a, b: {"sum": a[:, 0] + b.sum(1), "b": 2 * b},
        estimator=ScoreFunction(num_samples=6, sigma=0.3),
    )
    y = box(a, b)
    grads = torch.autograd.grad(
        [y["sum"], y["b"]], (a, b), [torch.full((ROWS,), 0.4), torch.full((ROWS, 2), -0.9)]
    )
    assert_mean(torch.cat(grads, 1), torch.tensor([0.4, -1.4, -1.4], dtype=torch.float64), "gradient")


def test_rows_may_be_single_numbers() -> None:
    torch.manual_seed(7)
    x = torch.full((ROWS,), 0.3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(
        ScoreFunction(num_samples=4, sigma=0.2)(lambda z: 3 * z, x),
        x,
        torch.full((ROWS,), 0.5, dtype=torch.float64),
    )
    assert_mean(grad.unsqueeze(1), 1.5, "gradient")


def test_family_refuses_second_derivatives() -> None:
    p = torch.full((4, 2), 0.4, requires_grad=True)
    y = ScoreFunction(independent_bernoulli, num_samples=3)(lambda z: z.sum(1), p)
    (grad,) = torch.autograd.grad(y.square().sum(), p, create_graph=True)
    with pytest.raises(SecondDerivativeError):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("family", "error", "message"),
    [
        (lambda p: p, TypeError, "must return a torch.distributions"),
        (lambda p, q: Normal(p, q), TypeError, "argnums"),
        (lambda p: Independent(Normal(p, 0.5), 2), ValueError, "batch shape"),
    ],
)
def test_bad_families(family: Callable[..., Distribution], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ScoreFunction(family, num_samples=3)(lambda z: z, torch.full((4, 2), 0.4, requires_grad=True))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"distribution": independent_bernoulli, "sigma": 0.2}, "belong to the default"),
        ({"distribution": independent_bernoulli, "generator": torch.Generator()}, "belong to the default"),
        ({"num_samples": 1}, "num_samples >= 2"),
        ({"baseline": "ema"}, "baseline must be"),
        ({"sigma": -1.0}, "sigma must be"),
    ],
)
def test_bad_arguments(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScoreFunction(**bad)


def test_repr() -> None:
    assert "sigma=0.3" in repr(ScoreFunction(sigma=0.3))
    assert "independent_bernoulli" in repr(ScoreFunction(independent_bernoulli))
