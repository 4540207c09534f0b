from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import ndgrad
from ndgrad import check_gradients


def with_gradient(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``x sin x`` as an autograd Function whose right gradient is changed."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * torch.sin(x)

        @staticmethod
        def backward(ctx: Any, v: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return change(v * (torch.sin(x) + x * torch.cos(x)))

    return Changed.apply


def one_entry(g: Tensor) -> Tensor:
    g = g.clone()
    g[1, 2] *= 1.1
    return g


def point(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-1.3, 1.7, 12, dtype=dtype).reshape(3, 4)


FAULTS = {
    "10 % too large": (lambda g: 1.1 * g, "1.100 times"),
    "1 % too small": (lambda g: 0.99 * g, "0.990 times"),
    "factor 2 missing": (lambda g: g / 2, "0.500 times"),
    "sign": (lambda g: -g, "wrong sign"),
    "zero": (lambda g: 0 * g, "gradient is 0 where"),
    "one entry 10 % too large": (one_entry, "no common factor"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fault", FAULTS)
def test_taylor_names_the_fault(fault: str, dtype: torch.dtype) -> None:
    change, words = FAULTS[fault]
    result = check_gradients(with_gradient(change), point(dtype))
    assert result.passed is False
    assert not result
    assert words in result.verdict
    assert result.slope < 1.3
    if dtype == torch.float64:
        assert result.slope == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_taylor_passes_a_right_gradient_with_slope_two(dtype: torch.dtype) -> None:
    result = check_gradients(with_gradient(lambda g: g), point(dtype))
    assert result
    assert result.slope == pytest.approx(2.0, abs=0.35 if dtype == torch.float32 else 0.01)
    assert result.standard_error == 0
    assert result.relative_error < (1e-3 if dtype == torch.float32 else 1e-9)
    assert result.repeats == 1
    assert "the gradient is right" in str(result)
    assert "largest remainder" in str(result)


def test_remainders_are_those_of_the_formula() -> None:
    """For x^2 the remainder is ``h^2 sum v d^2``, whatever the gradient's rounding."""
    x = point()[:1]
    result = check_gradients(lambda z: z.square().sum(), x, seed=3)
    h, r = result.steps, result.remainders
    assert r.shape == (4, len(h))
    assert_close(r[:, :8] / h[:8] ** 2, (r[:, :1] / h[0] ** 2).expand(4, 8), rtol=1e-5, atol=0)
    assert (r[:, 0] > 0).all()


@pytest.mark.parametrize("fault", FAULTS)
def test_finite_differences_find_the_fault(fault: str) -> None:
    change, _ = FAULTS[fault]
    result = check_gradients(with_gradient(change), point(), "finite_difference")
    assert result.passed is False
    right = check_gradients(with_gradient(lambda g: g), point(), "finite_difference")
    assert right
    assert right.relative_error < 1e-8
    assert "agrees" in str(right)
    assert "largest remainder" not in str(right)


def test_finite_differences_name_the_entry() -> None:
    result = check_gradients(with_gradient(one_entry), point(), "finite_difference")
    assert "in 1 of 12 entries: [6]:" in result.verdict
    many = check_gradients(with_gradient(lambda g: -g), point(), "finite_difference")
    assert "and 9 more" in many.verdict
    g = torch.autograd.grad(
        (point_value := with_gradient(lambda g: g)(x := point().requires_grad_())).sum(), x
    )[0]
    assert point_value.shape == g.shape
    assert result.relative_error == pytest.approx(
        float(result.remainders.max() / _v_times(g).norm()), rel=1e-6
    )


def _v_times(g: Tensor) -> Tensor:
    """The gradient that the check sees, whose v is the first draw under its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return g * torch.randn(g.shape, dtype=torch.float64)


def test_linear_and_constant_functions() -> None:
    linear = check_gradients(nn.Linear(4, 2, dtype=torch.float64), point())
    assert linear
    assert math.isinf(linear.slope)
    assert "remainder vanishes" in linear.verdict
    constant = check_gradients(torch.round, point() * 0.9)
    assert constant
    assert "constant around x" in constant.verdict


def test_piecewise_linear_passes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2)).double()
    assert check_gradients(net, point())


def test_networks_with_dropout_and_statistics_are_checked_with_fixed_draws_and_not_changed() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)
    ).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert check_gradients(net, point())
    assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


def test_several_inputs_and_outputs_and_static_arguments() -> None:
    def f(a: Tensor, options: dict[str, Any], index: Tensor) -> dict[str, Tensor]:
        return {"x": a * options["b"].sum(), "y": a[:, index].sin(), "n": index}

    b = torch.tensor([0.7, -1.9], dtype=torch.float32)
    result = check_gradients(f, (point(), {"b": b, "name": "b"}, torch.tensor([2, 0])))
    assert result
    assert len(result.remainders) == 4
    assert check_gradients(
        f, (point(), {"b": b}, torch.tensor([2])), "finite_difference"
    ).remainders.shape == (14,)


def test_small_and_zero_inputs_have_their_own_scale() -> None:
    for x in (1e-6 * point(), torch.zeros(3, 4, dtype=torch.float64)):
        size = float(x.abs().max()) or 1.0
        assert check_gradients(lambda z: torch.exp(z * 0.3 / size), x).slope == pytest.approx(2, abs=0.02)  # noqa: B023


def box(estimator: ndgrad.Estimator, f: Callable[[Tensor], Tensor] = torch.exp) -> ndgrad.BlackBox:
    return ndgrad.wrap(f, estimator=estimator)


def scaled(factor: float) -> ndgrad.Estimator:
    class Scaled(ndgrad.FlatEstimator):
        """Gaussian evolution strategy, times a factor."""

        def linearize_flat(self, f: Any, x: Tensor, y: Tensor) -> Any:
            eps = torch.randn(32, *x.shape, dtype=x.dtype)
            w = (f(x + 0.01 * eps) - f(x - 0.01 * eps)) / 0.02
            return lambda v: factor * ((w * v).sum(-1, keepdim=True) * eps).mean(0)

    return Scaled()


def test_a_random_gradient_is_judged_by_its_mean() -> None:
    right = check_gradients(box(scaled(1.0)), point(), repeats=400)
    assert right.passed is True
    assert right.repeats == 400
    assert 0 < right.standard_error < 0.03
    wrong = check_gradients(box(scaled(1.2)), point(), repeats=400)
    assert wrong.passed is False
    assert "times the derivative" in wrong.verdict
    assert wrong.relative_error == pytest.approx(0.2, abs=3 * wrong.standard_error + 0.03)


def test_an_estimator_with_its_own_generator_draws_anew_for_each_estimate() -> None:
    estimator = ndgrad.EvolutionStrategy(1, 0.1, generator=torch.Generator().manual_seed(3))
    assert check_gradients(box(estimator), point()[:1], repeats=5).repeats == 5


def test_noise_that_hides_the_slope_is_said() -> None:
    result = check_gradients(box(scaled(1.0)), point(), repeats=8, tolerance=0.15)
    assert result.passed is None
    assert not result
    assert "noise hides the slope; type repeats=" in result.verdict
    needed = int(result.verdict.rpartition("=")[2])
    assert check_gradients(box(scaled(1.0)), point(), repeats=needed, tolerance=0.15).passed is True


def test_standard_error_is_that_of_the_mean() -> None:
    """Along d, relative to |g scale|: Gaussian pairs have covariance (|g|^2 I + g g^T)/S for one row."""
    x = torch.tensor([[0.3, -0.8, 1.1]], dtype=torch.float64)
    weight = torch.tensor([0.9, -1.6, 0.4], dtype=torch.float64)
    T, S = 600, 32
    result = check_gradients(box(scaled(1.2), lambda z: (z @ weight).unsqueeze(-1)), x, repeats=T, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        v = torch.randn(1, 1, dtype=torch.float64)
        torch.manual_seed(5)
        d = torch.randn(4, 3, dtype=torch.float64) * x.square().mean().sqrt()
    g = 1.2 * weight * v.squeeze()
    variance = ((g @ g) * (d * d).sum(1) + (d @ g) ** 2) / (S * T)  # (D,)
    size = max(float((g * x.square().mean().sqrt()).norm()), float((d @ g / 1.2).abs().max()))
    assert result.standard_error == pytest.approx(float(variance.max().sqrt()) / size, rel=0.12)


def test_small_smoothing_passes_and_large_smoothing_does_not() -> None:
    x = torch.tensor([[0.4, 1.2, -0.7]], dtype=torch.float64)
    sharp = check_gradients(box(ndgrad.EvolutionStrategy(3, sigma=0.05)), x)
    assert sharp.passed is True
    wide = check_gradients(box(ndgrad.EvolutionStrategy(3, sigma=1.0)), x)
    assert wide.passed is False
    assert "sigma is too large" in wide.verdict


def test_random_gradient_by_finite_differences() -> None:
    right = check_gradients(box(scaled(1.0)), point()[:1], "finite_difference", repeats=200)
    assert right.passed
    assert "mean of 200 estimates agrees" in right.verdict
    wrong = check_gradients(box(scaled(1.5)), point()[:1], "finite_difference", repeats=200)
    assert wrong.passed is False
    flat = check_gradients(torch.round, 0.9 * point(), "finite_difference")
    assert flat.relative_error == 0


def test_deterministic_black_box() -> None:
    x = point()
    assert check_gradients(box(ndgrad.FiniteDifference()), x).slope == pytest.approx(2, abs=0.02)


def test_estimators_keep_their_state() -> None:
    module = box(ndgrad.DiffBypass(num_samples=3, fit_steps=1, generator=torch.Generator().manual_seed(4)))
    check_gradients(module, point(), repeats=3)
    assert module.num_evaluations == 0
    assert module.estimator.network is None
    assert module.estimator.generator.initial_seed() == 4


def test_too_coarse_for_float32_is_said() -> None:
    """A large offset drowns the remainder in rounding."""
    result = check_gradients(lambda x: 3e4 + x.sin() + 0.2 * x, point(torch.float32))
    assert result.passed is not False
    steep = check_gradients(lambda x: 300 + 0.3 * x.square().sin(), point(torch.float32), seed=1)
    assert steep.passed is None
    assert "float64" in steep.verdict


METHODS = ["taylor", "finite_difference"]


def differentiated(f: Callable[..., Tensor], *factors: float) -> Callable[..., Tensor]:
    """``f`` as an autograd Function whose right gradient in each input is multiplied by a factor."""

    class Changed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            ctx.save_for_backward(*inputs)
            return f(*inputs)

        @staticmethod
        def backward(ctx: Any, v: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
                grads = torch.autograd.grad(f(*inputs), inputs, v)
            return tuple(factor * g for factor, g in zip(factors, grads, strict=True))

    return Changed.apply


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_that_is_not_finite_is_wrong_and_names_the_entries(method: str) -> None:
    def one_nan(g: Tensor) -> Tensor:
        g = g.clone()
        g[1, 2] = math.nan
        return g

    result = check_gradients(with_gradient(one_nan), point(), method)
    assert result.passed is False
    assert result.repeats == 1
    assert "the gradient is not finite in 1 of 12 entries: [6]: nan" in str(result)
    infinite = check_gradients(with_gradient(lambda g: g.abs() / 0), point(), method)
    assert infinite.passed is False
    assert "in 12 of 12 entries: [0]: inf, [1]: inf, [2]: inf, and 9 more" in infinite.verdict
    trap = check_gradients(lambda x: torch.where(x > 0, x.sqrt(), 0 * x.detach()), point(), method)
    assert trap.passed is False
    assert "[0]: nan" in trap.verdict


@pytest.mark.parametrize("method", METHODS)
def test_an_estimate_that_is_not_finite_is_wrong(method: str) -> None:
    def now_and_then(g: Tensor) -> Tensor:
        return torch.where(torch.rand_like(g) < 0.1, torch.nan, 1.5 * g)

    result = check_gradients(with_gradient(now_and_then), point()[:1], method, repeats=30)
    assert result.passed is False
    assert result.repeats == 30
    assert "the mean of 30 estimates is not finite" in result.verdict


@pytest.mark.parametrize("method", METHODS)
def test_a_function_that_is_not_finite_is_undecided(method: str) -> None:
    result = check_gradients(torch.log, torch.tensor([-0.1, 1.0, 2.0], dtype=torch.float64), method)
    assert result.passed is None
    assert "the function is not finite at x" in str(result)


def test_close_to_the_end_of_the_domain() -> None:
    """A tenth of the inputs' size leads out of it: taylor takes shorter steps, differences have one step only."""
    near = torch.tensor([0.01, 1.0, 2.0], dtype=torch.float64)
    right = check_gradients(torch.log, near)
    assert right.passed is True
    assert right.slope == pytest.approx(2, abs=0.05)
    wrong = check_gradients(differentiated(torch.log, 1.1), near)
    assert wrong.passed is False
    assert wrong.relative_error == pytest.approx(0.1, rel=0.1)
    x = torch.tensor([1e-9, 1.0, 2.0], dtype=torch.float64)
    assert check_gradients(torch.log, x).passed is None
    outside = check_gradients(torch.log, x, "finite_difference")
    assert outside.passed is None
    assert "not finite" in outside.verdict
    wrong = check_gradients(differentiated(torch.log, 1.1), x, "finite_difference")
    assert wrong.passed is False
    assert "in 2 of 3 entries: [1]:" in wrong.verdict


@pytest.mark.parametrize("factor", [2.0, 1.1, 0.0, -1.0])
def test_slope_two_of_curvature_alone_is_undecided(factor: float) -> None:
    """A thousandth from the optimum of ``100 + |x - a|^2``, float32 resolves the curvature but not the gradient."""
    a = point()
    x = a + 1e-3 * torch.cos(17 * a)

    def f(z: Tensor) -> Tensor:
        return 100 + (z - a.to(z.dtype)).square().sum(1)

    result = check_gradients(differentiated(f, factor), x.float())
    assert result.slope > 1.8
    assert result.passed is None
    assert "slope" in result.verdict
    assert "curvature outweighs the gradient" in result.verdict
    assert "float64" in result.verdict
    assert check_gradients(differentiated(f, factor), x).passed is False
    assert check_gradients(f, x).passed is True


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "1000 + sin": lambda x: 1000 + x.sin(),
    "1e6 + x": lambda x: 1e6 + x,
    "small slope": lambda x: 100 + x.sum(1) / 100,
    "sum of squares": lambda x: (x - 30).square().sum(),
    "offset beside none": lambda x: torch.cat([x.sin(), 3e4 + 0.002 * x]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", VALUES)
def test_differences_know_the_rounding_of_large_values(name: str, dtype: torch.dtype) -> None:
    f, rows = VALUES[name], 10 if name == "sum of squares" else 3
    for seed in range(3):
        x = torch.randn(rows, 20, generator=torch.Generator().manual_seed(seed)).to(dtype)
        right = check_gradients(f, x, "finite_difference", seed=seed)
        assert right.passed is (None if dtype == torch.float32 else True), right.verdict
        wrong = check_gradients(differentiated(f, -1.0), x, "finite_difference", seed=seed)
        assert wrong.passed is not True
        if dtype == torch.float64:
            assert wrong.passed is False
        else:
            assert "central differences would hide errors of up to" in right.verdict
            assert "pass x in float64" in right.verdict


@pytest.mark.parametrize("factor", [1.1, 0.0, -1.0])
def test_differences_compare_every_input_in_its_own_units(factor: float) -> None:
    torch.manual_seed(0)
    a, b = 1e-6 * torch.randn(4, 2, dtype=torch.float64), 1e6 * torch.randn(4, 3, dtype=torch.float64)

    def f(a: Tensor, b: Tensor) -> Tensor:
        return (1e6 * a).sin().sum(1) + (1e-6 * b).cos().sum(1)

    assert check_gradients(f, (a, b), "finite_difference").passed is True
    result = check_gradients(differentiated(f, 1.0, factor), (a, b), "finite_difference")
    assert result.passed is False
    assert "in 12 of 20 entries: [8]:" in result.verdict
    assert result.relative_error > 0.02


def test_differences_find_one_entry_of_many_in_float32() -> None:
    """Rows that an entry does not touch add nothing to the rounding of its difference."""
    x = torch.linspace(0.5, 1.5, 800).reshape(200, 4)

    def one_row(z: Tensor) -> Tensor:
        factor = torch.ones_like(z)
        factor[1, 2] = 1.02
        return (z.detach() * (1 - factor) + z * factor).square().sum(1)

    assert check_gradients(lambda z: z.square().sum(1), x, "finite_difference").passed is True
    result = check_gradients(one_row, x, "finite_difference")
    assert result.passed is False
    assert "in 1 of 800 entries: [6]:" in result.verdict


def test_differences_with_steps_of_whole_periods_are_undecided() -> None:
    result = check_gradients(torch.sin, 1e6 * point(torch.float32), "finite_difference")
    assert result.passed is None


def test_noise_of_two_estimates_hides_the_difference() -> None:
    result = check_gradients(box(scaled(1.0)), point()[:1], "finite_difference", repeats=2)
    assert result.passed is None
    assert "pass more repeats" in result.verdict


def test_errors() -> None:
    with pytest.raises(ValueError, match="method must be one of 'taylor'"):
        check_gradients(torch.sin, point(), "secant")
    with pytest.raises(ValueError, match="repeats must be an integer >= 2"):
        check_gradients(torch.sin, point(), repeats=1)
    with pytest.raises(ValueError, match="tolerance must be a positive"):
        check_gradients(torch.sin, point(), tolerance=0)
    with pytest.raises(ValueError, match="at least one floating tensor"):
        check_gradients(torch.sin, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="at least one tensor to have a gradient"):
        check_gradients(lambda x: float(x.sum()), point())
    with pytest.raises(ValueError, match=r"the path is cut.*ndgrad\.trace"):
        check_gradients(lambda x: x.detach() ** 2, point())
