from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from laws_of_networks import assert_state_continues
from torch import Tensor, nn

import ndgrad
from ndgrad import ControlVariate, DiffBypass, EvolutionStrategy, FiniteDifference, FlatEstimator, Mixture
from ndgrad.testing import assert_mean, estimate

SIGMA = 0.3
Pull = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


class Jacobian(FlatEstimator):
    """A given Jacobian (n, m) plus noise of a given width: errors known beforehand."""

    def __init__(self, jacobian: Tensor, noise: float = 0.0) -> None:
        super().__init__()
        self.jacobian, self.noise = jacobian, noise

    def linearize_flat(self, f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Pull:
        noise = self.noise * torch.randn(len(x), *self.jacobian.shape, dtype=x.dtype)  # (B, n, m)
        return lambda v: torch.einsum("bnm,bm->bn", self.jacobian + noise, v)


def known(noise: float, bias: float, n: int = 4, m: int = 3) -> tuple[Mixture, Tensor, Tensor]:
    exact = torch.randn(n, m, dtype=torch.float64)
    wrong = exact + bias * torch.randn(n, m, dtype=torch.float64)
    return Mixture(Jacobian(exact, noise), Jacobian(wrong)), exact, wrong


def f(z: Tensor) -> Tensor:
    return z[:, :3].sin()


def points(B: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(B, 4, dtype=torch.float64), torch.randn(B, 3, dtype=torch.float64)


def test_the_weight_is_one_minus_variance_over_squared_distance() -> None:
    """V = noise^2 n m / 2 for the mean of two; the distance adds the squared bias."""
    mixture, exact, wrong = known(noise=0.8, bias=0.5)
    x, v = points(20_000)
    grads = estimate(mixture, f, x, v)
    V, squared_bias = 0.8**2 * exact.numel() / 2, (wrong - exact).square().sum()
    assert mixture.weight == pytest.approx(float(squared_bias / (V + squared_bias)), abs=0.01)
    error = (grads - v @ exact.T).square().sum(1, keepdim=True)
    assert_mean(
        error, V * squared_bias / (V + squared_bias), "error, less than V and less than the squared bias"
    )


def test_is_the_stated_combination() -> None:
    """Three parts computed by hand from the same draws."""
    mixture, exact, wrong = known(noise=0.8, bias=1.5)
    x, v = points()
    for _ in range(3):
        estimate(mixture, f, x, v)
    pool = mixture._pool
    torch.manual_seed(5)
    grad = estimate(mixture, f, x, v)
    torch.manual_seed(5)
    first, second, _ = (0.8 * torch.randn(3, 4, 3, dtype=torch.float64) for _ in range(3))
    cotangents = torch.randn(3, 3, dtype=torch.float64)
    u = exact + (first + second) / 2
    weight = 1 - pool[0] / pool[1]
    torch.testing.assert_close(grad, torch.einsum("bnm,bm->bn", (1 - weight) * wrong + weight * u, v))
    assert mixture.weight == weight
    variance = torch.einsum("bnm,bm->bn", (first - second) / 2, cotangents).square().sum()
    distance = torch.einsum("bnm,bm->bn", u - wrong, cotangents).square().sum()
    assert mixture._pool[0] == pytest.approx(0.9 * pool[0] + 0.1 * float(variance))
    assert mixture._pool[1] == pytest.approx(0.9 * pool[1] + 0.1 * float(distance))


def test_the_bias_is_the_stated_part() -> None:
    """With the weight of earlier calls the mean is b + lambda (truth - b), and the variance lambda^2 V."""
    mixture, exact, wrong = known(noise=0.8, bias=1.5)
    for _ in range(5):
        estimate(mixture, f, *points())
    x = torch.zeros(20_000, 4, dtype=torch.float64)
    v = torch.tensor([[0.7, -1.1, 0.4]], dtype=torch.float64).expand(20_000, -1)
    grads = estimate(mixture, f, x, v)
    weight = mixture.weight
    assert 0.1 < weight < 0.9
    mean = v[0] @ (wrong + weight * (exact - wrong)).T
    assert_mean(grads, mean, "mean")
    spread = (grads - mean).square().sum(1, keepdim=True)
    assert_mean(spread, weight**2 * 0.8**2 / 2 * 4 * float(v[0].square().sum()), "variance")


@pytest.mark.parametrize(("noise", "bias", "weight"), [(5.0, 0.0, 0.0), (0.0, 0.5, 1.0), (0.0, 0.0, 0.0)])
def test_limits(noise: float, bias: float, weight: float) -> None:
    """A right b is kept, a certain u taken; where they agree it does not matter, and nothing is divided by 0."""
    mixture, _, wrong = known(noise, bias)
    x, v = points(4000)
    for _ in range(2):
        grads = estimate(mixture, f, x, v)
    assert mixture.weight == pytest.approx(weight, abs=0.03)
    assert grads.isfinite().all()
    negative, _, wrong = known(noise=5.0, bias=0.0)
    negative._pool = (2.0, 1.0)
    torch.testing.assert_close(estimate(negative, f, x, v), v @ wrong.T)
    assert negative.weight == 0.0, "the positive part: never away from u"


def test_below_both_at_equal_evaluations() -> None:
    """Sixteen evaluations per row each, on a smooth function along a path."""
    matrix = torch.randn(12, 3) / 12**0.5
    waves = lambda z: torch.sin(2 * z @ matrix)  # noqa: E731

    def error(estimator: ndgrad.Estimator) -> float:
        torch.manual_seed(2)
        box = ndgrad.wrap(waves, estimator=estimator)
        x, total = torch.randn(8, 12), 0.0
        for _ in range(15):
            v = torch.randn(8, 3)
            z = x.clone().requires_grad_()
            (exact,) = torch.autograd.grad(waves(z), z, v)
            (grad,) = torch.autograd.grad(box(z), z, v)
            total += float((grad - exact).square().sum())
            x = x + 0.05 * torch.randn_like(x)
        assert box.num_evaluations == 15 * 8 * 17
        return total

    fitted = {"sigma": SIGMA, "fit_steps": 20, "replay": 5, "match": "difference"}
    biased = error(DiffBypass(num_samples=16, **fitted))
    unbiased = error(ControlVariate(num_samples=16, antithetic=False, **fitted))
    halves = ControlVariate(num_samples=8, antithetic=False, **fitted)
    assert error(Mixture(halves, DiffBypass(num_samples=0, **fitted))) < min(biased, unbiased)


def test_shares_the_evaluations_of_the_unbiased_part() -> None:
    """The network is fitted to them and to the value, in the right order of rows."""
    seen: list[tuple[Tensor, Tensor]] = []

    def loss(g: Tensor, y: Tensor) -> Tensor:
        seen.append(y)
        return (g - y).square().mean()

    biased = DiffBypass(nn.Linear(4, 3).double(), num_samples=0, fit_steps=1, loss=loss, replay=1)
    box = ndgrad.wrap(f, estimator=Mixture(EvolutionStrategy(2, SIGMA), biased))
    x, v = points()
    x.requires_grad_()
    torch.autograd.grad(box(x), x, v)
    assert box.num_evaluations == 3 + 2 * 4 * 3
    samples = biased.bypass.fit.replay[0]
    assert samples.inputs[0].shape == (27, 4)
    torch.testing.assert_close(samples.targets[0], f(samples.inputs[0]))
    torch.testing.assert_close(seen[0], samples.targets[0])
    deviation = samples.inputs[0].reshape(9, 3, 4) - x.detach()
    torch.testing.assert_close(deviation[-1], torch.zeros(3, 4, dtype=torch.float64))
    norms = deviation[:-1].norm(dim=2)
    torch.testing.assert_close(norms, torch.full((8, 3), SIGMA * 2, dtype=torch.float64))


def test_linear_in_the_cotangent_when_warmed() -> None:
    def build() -> Mixture:
        return Mixture(EvolutionStrategy(2, SIGMA), DiffBypass(nn.Linear(4, 3).double(), num_samples=0))

    mixture = build()
    x, v = points()
    for _ in range(3):
        estimate(mixture, f, x, v)

    def again(cotangent: Tensor) -> Tensor:
        torch.manual_seed(8)
        return estimate(copy.deepcopy(mixture), f, x, cotangent)

    w = 0.3 * v.flip(0)
    torch.testing.assert_close(again(2.5 * v - w), 2.5 * again(v) - again(w))


def test_eval_mode_leaves_the_pool_and_the_network() -> None:
    x, v = points()
    mixture = Mixture(EvolutionStrategy(2, SIGMA), DiffBypass(nn.Linear(4, 3).double(), num_samples=0))
    estimate(mixture, f, x, v)
    pool, steps = mixture._pool, mixture.biased.bypass.fit.steps
    mixture.eval()
    estimate(mixture, f, x, v)
    assert (mixture._pool, mixture.biased.bypass.fit.steps) == (pool, steps)
    unused = Mixture(EvolutionStrategy(2, SIGMA), FiniteDifference(eps=0.1)).eval()
    estimate(unused, f, x, v)
    assert unused._pool is None


def test_state_dict_continues_identically() -> None:
    def build() -> Mixture:
        parts = EvolutionStrategy(2, SIGMA), DiffBypass(num_samples=0, replay=2)
        return Mixture(*parts, generator=torch.Generator().manual_seed(5))

    assert_state_continues(build, f, *points())


def test_a_generator_isolates_the_random_cotangents() -> None:
    parts = FiniteDifference(eps=0.1), FiniteDifference("forward", eps=0.1)
    mixture = Mixture(*parts, generator=torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    estimate(mixture, f, *(t.clone() for t in (torch.ones(2, 4) * 0.3, torch.ones(2, 3) * 0.7)))
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)


def test_several_inputs() -> None:
    box = ndgrad.wrap(
        lambda a, b: (a * b, a.sum(1)),
        estimator=Mixture(EvolutionStrategy(4, SIGMA), DiffBypass(num_samples=0)),
        argnums=(0, 1),
    )
    a, b = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2, requires_grad=True)
    grads = torch.autograd.grad(box(a, b), (a, b), (torch.randn(3, 2), torch.randn(3)))
    assert [g.shape for g in grads] == [(3, 2), (3, 2)]


def test_constant_inputs_are_wanted_by_either() -> None:
    assert Mixture(EvolutionStrategy(), DiffBypass()).wants_constant_inputs
    assert Mixture(ControlVariate(), EvolutionStrategy()).wants_constant_inputs
    assert not Mixture(EvolutionStrategy(), FiniteDifference()).wants_constant_inputs


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="unbiased must be"):
        Mixture("evolution_strategy", DiffBypass())
    with pytest.raises(TypeError, match="biased must be"):
        Mixture(EvolutionStrategy(), DiffBypass)
    for decay in (-0.1, 1, True, "0.9"):
        with pytest.raises(ValueError, match="decay must be"):
            Mixture(EvolutionStrategy(), DiffBypass(), decay=decay)


def test_a_value_of_its_own_is_refused() -> None:
    for bypass in (DiffBypass(forward="bypass"), DiffBypass(forward="bypass").eval()):
        with pytest.raises(ValueError, match=r"^biased gives its gradient only.*forward='straight_through'"):
            Mixture(EvolutionStrategy(), bypass)
        with pytest.raises(ValueError, match=r"^unbiased gives its gradient only"):
            Mixture(bypass, EvolutionStrategy())
    assert not bypass.training


def test_an_empty_batch_teaches_nothing() -> None:
    mixture, _, _ = known(noise=0.1, bias=5.0)
    untouched = copy.deepcopy(mixture)
    empty = torch.zeros(0, 4, dtype=torch.float64)
    assert estimate(mixture, f, empty, torch.zeros(0, 3, dtype=torch.float64)).shape == (0, 4)
    x, v = points()
    for estimator in (mixture, untouched):
        torch.manual_seed(2)
        estimate(estimator, f, x, v)
    assert mixture.get_extra_state() == untouched.get_extra_state()
    assert mixture.weight == untouched.weight > 0.9
    estimate(mixture, f, empty, torch.zeros(0, 3, dtype=torch.float64))
    assert mixture.get_extra_state() == untouched.get_extra_state()


def test_repr() -> None:
    assert "decay=0.7" in repr(Mixture(EvolutionStrategy(), DiffBypass(), decay=0.7))
