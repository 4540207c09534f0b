"""Warmed by earlier calls wherever it matters: in its first call the estimator is an evolution strategy."""

from __future__ import annotations

import copy
import functools
import math
import pickle

import pytest
import torch
from given import STILL, Given
from laws_of_networks import (
    assert_calls_keep_their_network,
    assert_nothing_to_differentiate_is_zeros,
    assert_state_continues,
)
from torch import Tensor, nn

import ndgrad
from ndgrad import ControlVariate, EvolutionStrategy
from ndgrad.sampling import DIRECTIONS, FOURTH_MOMENT
from ndgrad.surrogates import MapSurrogate
from ndgrad.testing import assert_mean, estimate

SIGMA = 0.3
ROWS = 4000


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class PerRow(nn.Module):
    """A linear model of its own for each row: as many independent fits in one call as there are rows."""

    def __init__(self, rows: int, n: int, m: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(rows, n, m, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        B, n, _ = self.slope.shape
        return torch.einsum("sbn,bnm->sbm", z.reshape(-1, B, n), self.slope).flatten(0, 1)


def rows(values: list[float], count: int = ROWS) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(count, -1)


def summed(g: Tensor, f: Tensor) -> Tensor:
    return (g - f).square().sum() / 2


def per_row(n: int, m: int, count: int = ROWS, **options: object) -> ControlVariate:
    """Fit each row's model as well as its samples allow: 25 steps of descent on its own squared errors."""
    descent = functools.partial(torch.optim.SGD, lr=0.2)
    return ControlVariate(
        PerRow(count, n, m), SIGMA, loss=summed, optimizer=descent, fit_steps=25, replay=1, **options
    )


def warm(estimator: ControlVariate, f: object, x: Tensor, calls: int = 3) -> ControlVariate:
    """Make calls at inputs nearby, with cotangents that have nothing to do with the test's."""
    for _ in range(calls):
        estimate(estimator, f, x + 0.1 * torch.randn_like(x), torch.randn_like(f(x)))
    return estimator


CUBICS = [(law, pairs, 2) for law in DIRECTIONS for pairs in (True, False) if pairs or law != "sobol"]
CUBICS += [("orthogonal", True, 5)]


@pytest.mark.parametrize(("law", "antithetic", "S"), CUBICS)
def test_unbiased_in_training_for_a_cubic(law: str, antithetic: bool, S: int) -> None:
    """3 x^2 + sigma^2 E e^4 in the fourth call, with g of the first three; each row has fitted its own.

    Fitted on the draws that it is applied to, g would explain them away and the estimate shrink.
    """
    n = 4
    x, v = rows([0.3, -0.5, 0.8, 0.1]), rows([0.7, 1.3, -0.4, 0.9])
    estimator = per_row(n, n, num_samples=S, directions=law, antithetic=antithetic, surrogate_samples=6)
    warm(estimator, lambda z: z**3, x)
    assert (estimator.coefficient > 0.1).all(), "without a control variate this would test nothing"
    expected = v[0] * (3 * x[0] ** 2 + SIGMA**2 * FOURTH_MOMENT[law](n))
    assert_mean(estimate(estimator, lambda z: z**3, x, v), expected, "cubic")


def test_unbiased_in_training_for_a_step_function() -> None:
    """On the sphere in four dimensions the smoothed sign has slope 8/(3 pi) (1 - t^2/4)^1.5 / sigma, t = |x|/sigma."""
    x, v = rows([0.05, -0.2, 0.4, 0.5]), rows([1.9, -0.4, 0.8, 1.2])
    estimator = warm(per_row(4, 4, num_samples=2), torch.sign, x)
    assert (estimator.coefficient > 0.1).all()
    t = x[0].abs() / SIGMA
    expected = v[0] * 8 / (3 * math.pi) * (1 - t**2 / 4).clamp(min=0) ** 1.5 / SIGMA
    assert_mean(estimate(estimator, torch.sign, x, v), expected, "sign")


@pytest.mark.parametrize("law", DIRECTIONS)
def test_unbiased_whatever_the_network_is(law: str) -> None:
    """A curved g that has nothing to do with f, yet a coefficient far from 0: what is subtracted must be added back."""
    x, v = rows([0.3, -0.5, 0.8]), rows([0.7, -1.3])
    slope = torch.tensor([[1.5, 0.2], [-0.4, 0.8], [0.9, -1.1]], dtype=torch.float64)
    wrong = Given(lambda z: 2.5 * torch.sin(3 * z @ slope) + z[:, :2] ** 3)
    estimator = ControlVariate(
        wrong, SIGMA, num_samples=2, surrogate_samples=5, directions=law, optimizer=STILL
    )
    estimate(estimator, lambda z: z @ slope, x[:2], v[:2])  # so that there is a network
    estimator._moments = torch.tensor([[1.1, -0.7], [0.8, 0.9]], dtype=torch.float64)
    grads = estimate(estimator.eval(), lambda z: z @ slope, x, v)
    assert_mean(grads, v[0] @ slope.T, "linear f, curved g")


@pytest.mark.parametrize(
    ("options", "variance"),
    [
        ({}, lambda n, S: n / S - 1),
        ({"directions": "sphere"}, lambda n, S: (n - 1) / S),
        ({"directions": "gaussian"}, lambda n, S: (n + 1) / S),
        ({"antithetic": False}, lambda n, S: n / (S - 1) - 1),
        ({"antithetic": False, "directions": "gaussian"}, lambda n, S: (n + 1) / (S - 1)),
    ],
)
def test_the_variance_is_that_of_the_residual(options: dict[str, object], variance: object) -> None:
    """Linear f and g: the closed form of an evolution strategy, of f - c g, with c the regression of f on g."""
    n, S = 5, 3
    f_slope, g_slope = torch.randn(2, n, 2, dtype=torch.float64)
    g_slope = f_slope + 0.4 * g_slope
    f, g = (lambda z: z @ f_slope + 2.5), (lambda z: z @ g_slope)
    x, v = rows([0.2, -0.4, 0.9, 0.1, -1.2], 20_000), rows([0.7, -1.6], 20_000)
    estimator = ControlVariate(Given(g), SIGMA, S, fit_steps=1, replay=0, optimizer=STILL, **options)
    estimate(estimator, f, x[:2], v[:2])
    assert estimator.coefficient == 0.0
    estimate(estimator, f, x, v)
    c = (f_slope * g_slope).sum(0) / g_slope.square().sum(0)  # E <a, e><b, e> / E <b, e>^2
    # its error: the residual's slope relative to g's, over rows and samples; fewer for dependent samples
    error = (f_slope - c * g_slope).norm(dim=0) / g_slope.norm(dim=0) / len(x) ** 0.5
    assert ((estimator.coefficient - c).abs() < 5 * error).all()
    gradient = v[0] @ f_slope.T
    residual = (f_slope - estimator.coefficient * g_slope) @ v[0]
    grads = estimate(estimator.eval(), f, x, v)
    assert_mean(grads, gradient, "mean")
    spread = (grads - gradient).square().sum(1) / residual.square().sum()
    assert_mean(spread.unsqueeze(1), variance(n, S), "variance of the residual")
    assert residual.norm() < 0.6 * gradient.norm()


def test_an_exact_network_leaves_no_variance_on_a_quadratic() -> None:
    """In pairs a quadratic is linear, and its smoothed gradient its tangent: one pair in four dimensions is exact."""
    half = torch.randn(4, 4, dtype=torch.float64)
    f = lambda z: ((z @ (half + half.T)) * z).sum(1, keepdim=True)  # noqa: E731
    x, v = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    estimator = warm(ControlVariate(Given(f), SIGMA, 1, optimizer=STILL), f, x, calls=2)
    torch.testing.assert_close(estimator.coefficient, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(estimate(estimator, f, x, v), 2 * v * (x @ (half + half.T)))


def test_an_exact_network_leaves_the_variance_of_its_own_draws() -> None:
    """For random signs the odd part of x^3 is (3 x^2 + sigma^2) sigma e: sigma^2 e beyond the tangent, (n - 1)/T."""
    n, T = 5, 7
    x, v = rows([0.2, -0.4, 0.9, 0.1, -1.2], 20_000), rows([0.7, -1.6, 0.3, 0.5, 0.9], 20_000)
    estimator = ControlVariate(
        Given(lambda z: z**3), SIGMA, 2, surrogate_samples=T, directions="rademacher", optimizer=STILL
    )
    warm(estimator, lambda z: z**3, x[:3], calls=2)
    grads = estimate(estimator.eval(), lambda z: z**3, x, v)
    expected = v[0] * (3 * x[0] ** 2 + SIGMA**2)
    assert_mean(grads, expected, "mean")
    spread = (grads - expected).square().sum(1) / (SIGMA**2 * v[0]).square().sum()
    assert_mean(spread.unsqueeze(1), (n - 1) / T, "variance")


def test_less_error_than_an_evolution_strategy_where_the_network_can_learn() -> None:
    """A smooth function along a path, at equal evaluations; required is the fifth of its squared error."""
    matrix = torch.randn(12, 3) / 12**0.5

    def f(z: Tensor) -> Tensor:
        return torch.sin(2 * z @ matrix)

    def error(estimator: ndgrad.Estimator) -> float:
        torch.manual_seed(2)
        x, total = torch.randn(8, 12), 0.0
        for call in range(25):
            v = torch.randn(8, 3)
            z = x.clone().requires_grad_()
            (exact,) = torch.autograd.grad(f(z), z, v)
            difference = estimate(estimator, f, x, v) - exact
            total += float(difference.square().sum()) * (call >= 10)
            x = x + 0.05 * torch.randn_like(x)
        return total

    controlled = ControlVariate(sigma=SIGMA, num_samples=3, fit_steps=20)
    assert error(controlled) < 0.2 * error(EvolutionStrategy(3, SIGMA))


def sines(z: Tensor) -> Tensor:
    return torch.stack([torch.sin(2 * z).sum(1), z[:, 0] * z[:, 1]], 1)  # (R, 2)


def trained(**options: object) -> ControlVariate:
    settings = {"sigma": SIGMA, "num_samples": 2, "fit_steps": 2, "surrogate_samples": 3}
    return warm(ControlVariate(nn.Linear(3, 2).double(), **(settings | options)), sines, points()[0])


def points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randn(4, k, generator=generator, dtype=torch.float64) for k in (3, 2))


def again(estimator: ControlVariate, x: Tensor, v: Tensor) -> Tensor:
    torch.manual_seed(8)
    return estimate(copy.deepcopy(estimator), sines, x, v)


def test_rows_do_not_influence_each_other_within_a_call() -> None:
    x, v = points()
    other = torch.cat([x[:1], x[1:] + 0.7])
    estimator = trained()
    torch.testing.assert_close(again(estimator, other, v)[0], again(estimator, x, v)[0], rtol=0, atol=1e-12)


def test_linear_in_the_cotangent_when_warmed() -> None:
    x, v = points()
    estimator, w = trained(), 0.3 * v.flip(0)
    torch.testing.assert_close(
        again(estimator, x, 2.5 * v - w), 2.5 * again(estimator, x, v) - again(estimator, x, w)
    )


def test_the_first_call_is_an_evolution_strategy() -> None:
    x, v = points()
    for options in ({}, {"antithetic": False, "directions": "gaussian"}):
        grads = []
        for kind in (ControlVariate, EvolutionStrategy):
            torch.manual_seed(6)
            grads.append(estimate(kind(num_samples=3, sigma=SIGMA, **options), sines, x, v))
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize(("antithetic", "probes"), [(True, 6), (False, 3)])
def test_evaluations_of_every_call(antithetic: bool, probes: int) -> None:
    box = ndgrad.wrap(sines, estimator=ControlVariate(nn.Linear(3, 2), num_samples=3, antithetic=antithetic))
    x = torch.randn(4, 3, requires_grad=True)
    for call in range(1, 4):
        box(x).sum().backward()
        assert box.num_evaluations == 4 * call * (1 + probes)


def test_eval_mode_learns_nothing_and_stays_controlled() -> None:
    x, v = points()
    estimator = trained().eval()
    before = copy.deepcopy(estimator.state_dict()["_extra_state"])
    grad = again(estimator, x, v)
    torch.manual_seed(8)
    estimate(estimator, sines, x, v)
    after = estimator.state_dict()["_extra_state"]
    torch.testing.assert_close(after["fit"], before["fit"], rtol=0, atol=0)
    torch.testing.assert_close(after["moments"], before["moments"], rtol=0, atol=0)
    torch.testing.assert_close(grad, again(estimator.train(), x, v), rtol=0, atol=0)
    fresh = ControlVariate(nn.Linear(3, 2), num_samples=3).eval()
    assert estimate(fresh, sines, x.float(), v.float()).isfinite().all()
    assert fresh.bypass.fit is None


def test_the_fit_gets_all_pairs_and_the_value_and_keeps_earlier_calls() -> None:
    x, v = points()
    estimator = ControlVariate(nn.Linear(3, 2).double(), SIGMA, 2, replay=2)
    for _ in range(3):
        estimate(estimator, sines, x, v)
    assert len(estimator.bypass.fit.replay) == 2
    samples = estimator.bypass.fit.replay[-1]
    deviation = samples.inputs[0].reshape(5, 4, 3) - x
    torch.testing.assert_close(deviation[:2], -deviation[2:4])
    torch.testing.assert_close(deviation[4], torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(samples.targets[0], sines(samples.inputs[0]))


def test_the_coefficient_regresses_on_earlier_calls_with_their_own_networks() -> None:
    """0.9 of the old moments and 0.1 of the new; the first call has no network and gives none."""
    x, v = points()
    estimator = trained(num_samples=2)
    old = estimator._moments.clone()
    torch.manual_seed(5)
    eps = DIRECTIONS["orthogonal"](2, x, None)
    pairs = [
        (h((x + SIGMA * eps).flatten(0, 1)) - h((x - SIGMA * eps).flatten(0, 1))) / 2
        for h in (sines, copy.deepcopy(estimator.network))
    ]
    torch.manual_seed(5)
    estimate(estimator, sines, x, v)
    df, dg = (p.detach() for p in pairs)
    expected = 0.9 * old + 0.1 * torch.stack([(df * dg).mean(0), dg.square().mean(0)])
    torch.testing.assert_close(estimator._moments, expected)
    torch.testing.assert_close(estimator.coefficient, expected[0] / expected[1])


def test_a_flat_network_has_coefficient_zero() -> None:
    x, v = points()
    flat = ControlVariate(Given(lambda z: 0 * z[:, :2]), SIGMA, 3, optimizer=STILL)
    warm(flat, sines, x)
    torch.testing.assert_close(flat.coefficient, torch.zeros(2, dtype=torch.float64))
    torch.manual_seed(3)
    grad = estimate(flat, sines, x, v)
    torch.manual_seed(3)
    torch.testing.assert_close(grad, estimate(EvolutionStrategy(3, SIGMA), sines, x, v))


def test_probing_in_forward_keeps_each_call_s_network() -> None:
    assert_calls_keep_their_network(trained(), sines, *points())


def test_structured_and_several_inputs() -> None:
    """A convolutional network gets its maps as maps; several inputs are perturbed and fitted together."""
    estimator = ControlVariate(sigma=SIGMA, num_samples=2, fit_steps=1, surrogate_samples=2)
    x = torch.randn(2, 9, 10)
    for _ in range(3):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(estimator(torch.sign, x).square().sum() * 0.7, x)
        assert grad.shape == x.shape
    assert isinstance(estimator.network, MapSurrogate)

    f = lambda a, b: (a @ slope + b.flatten(1).sum(1, keepdim=True), b * 2)  # noqa: E731
    slope = torch.randn(3, 1, dtype=torch.float64)
    two = ControlVariate(sigma=SIGMA, num_samples=7, fit_steps=1, surrogate_samples=7)  # 3 + 4 inputs: exact
    a = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    v = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 2, 2, dtype=torch.float64)
    for _ in range(3):
        grads = torch.autograd.grad(two(f, a, b), (a, b), v)
        # g is curved, and is cancelled by the same 7 orthogonal directions only in the mean
    exact = v[0] @ slope.T, v[0].unsqueeze(2) + 2 * v[1]
    for grad, truth in zip(grads, exact, strict=True):
        assert grad.shape == truth.shape
        assert (grad - truth).norm() < 0.1 * truth.norm()


def test_class_logits_are_decoded() -> None:
    logits = nn.Sequential(nn.Linear(3, 10), nn.Unflatten(1, (5, 2)))  # (R, 5, 2)
    estimator = ControlVariate(logits, sigma=0.4, num_samples=3)
    for _ in range(3):
        grad = estimate(
            estimator, lambda z: z[:, :2].abs().round().clamp(max=4), torch.randn(4, 3), torch.randn(4, 2)
        )
    assert grad.shape == (4, 3)
    assert estimator.coefficient.shape == (2,)


def test_state_dict_continues_identically_even_in_a_default_network_not_yet_built() -> None:
    def build() -> ControlVariate:
        return ControlVariate(num_samples=3, replay=2, generator=torch.Generator().manual_seed(5))

    assert_state_continues(build, sines, *points())
    unused = ControlVariate(num_samples=3)
    unused.load_state_dict(ControlVariate(num_samples=3).state_dict())
    assert unused.coefficient == 0.0


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_go_on_alike_and_apart(clone: object) -> None:
    x, v = points()
    original = trained()
    twin = clone(original)
    torch.testing.assert_close(again(twin, x, v), again(original, x, v), rtol=0, atol=0)
    assert twin.network is not original.network


def test_to_another_dtype_and_back() -> None:
    x, v = points()
    estimator = trained()
    estimator.float()
    assert ControlVariate().float().network is None
    assert estimate(estimator, sines, x.float(), v.float()).dtype == torch.float32
    assert estimate(estimator, sines, x, v).dtype == torch.float64, (
        "network and coefficient follow the inputs"
    )


def test_empty_batch_and_hidden_parameters() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    estimator = ControlVariate(nn.Linear(3, 2))
    assert torch.autograd.grad(estimator(sines, x).sum(), x)[0].shape == (0, 3)
    assert list(estimator.parameters()) == []
    assert estimator.quality is None


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma": 0},
        {"num_samples": 0},
        {"surrogate_samples": 0},
        {"directions": "cube"},
        {"fit_steps": 0},
        {"replay": -1},
        {"match": "slope"},
        {"num_samples": 1, "antithetic": False},
    ],
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ControlVariate(**bad)


def test_nothing_to_differentiate() -> None:
    assert_nothing_to_differentiate_is_zeros(lambda: ControlVariate(num_samples=3))


def test_repr() -> None:
    assert "surrogate=default, sigma=0.3" in repr(ControlVariate(sigma=0.3))


def test_sobol_directions_need_pairs() -> None:
    with pytest.raises(ValueError, match=r"Sobol directions are not independent.*antithetic=True"):
        ControlVariate(antithetic=False, directions="sobol")
