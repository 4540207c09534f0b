from __future__ import annotations

import copy
import dataclasses
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.testing import assert_close

import ndgrad
from ndgrad import DiffBypass, EvolutionStrategy, FiniteDifference, ScoreFunction, diagnose
from ndgrad.diagnostics.advice import RULES
from ndgrad.diagnostics.diagnosis import Diagnosis
from ndgrad.diagnostics.estimates import Difference, Estimates, cosine, difference
from ndgrad.diagnostics.landscape import Landscape, steps
from ndgrad.diagnostics.problem import pose
from ndgrad.diagnostics.reference import Reference, difference_reference
from ndgrad.diagnostics.wording import percent
from ndgrad.testing import assert_mean

QUICK: dict[str, Any] = {"compare": False, "reference_evaluations": 40}


def point(B: int = 3, n: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(-0.8, 1.1, B * n, dtype=dtype).reshape(B, n)


def topics(d: Diagnosis) -> list[str]:
    return [advice.topic for advice in d.advice]


def text_of(d: Diagnosis, topic: str) -> str:
    return next(advice.text for advice in d.advice if advice.topic == topic)


# --- numbers with closed forms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("S", [3, 8])
def test_signal_to_noise_of_gaussian_pairs_on_a_linear_function(S: int) -> None:
    """Relative variance (n + 1)/S for one row: SNR = sqrt(S / (n + 1)), whatever sigma and v are."""
    B, n = 300, 5
    weight = torch.tensor([0.7, -1.2, 0.4, 2.0, -0.1], dtype=torch.float64)
    box = ndgrad.wrap(
        lambda z: (z @ weight).unsqueeze(-1), estimator=EvolutionStrategy(S, 0.3, directions="gaussian")
    )
    v = torch.full((B, 1), 1.7, dtype=torch.float64)
    d = diagnose(box, point(B, n), cotangent=v, repeats=12, **QUICK)
    square = float((1.7 * weight).square().sum())
    assert_mean(d.estimates.variance_per_row / square, (n + 1) / S, "relative variance")
    assert_mean(d.estimates.signal_per_row / square, 1.0, "signal")
    assert d.snr == pytest.approx(math.sqrt(S / (n + 1)), rel=0.02)
    assert d.evaluations == 2 * S + 1
    expected = math.sqrt(float(d.estimates.variance_per_row.sum()) / 12) / float(d.gradient.norm())
    assert d.standard_error == pytest.approx(expected)


def test_deterministic_gradient_has_no_noise() -> None:
    d = diagnose(
        ndgrad.wrap(torch.sin, estimator=FiniteDifference()), point(), loss=lambda y: 3 * y.sum(-1), **QUICK
    )
    assert math.isinf(d.snr)
    assert d.standard_error == 0
    assert d.evaluations == 9
    assert_close(d.gradient, 3 * torch.cos(point()), rtol=1e-7, atol=1e-7)
    assert d.smoothing is None
    assert d.sigma is None
    assert d.reference is not None
    assert d.reference.name == "f, by central differences"
    assert not d.bias.significant
    assert d.advice == ()
    assert "nothing to advise" in str(d)


@pytest.mark.parametrize(
    ("directions", "moment"), [("gaussian", 3.0), ("sphere", 3 * 4 / 6), ("rademacher", 1.0)]
)
def test_bias_of_a_cubic_is_sigma_squared_times_the_fourth_moment(directions: str, moment: float) -> None:
    """The smoothed gradient of x^3 is ``3 x^2 + sigma^2 E e^4``; at sigma / 2 it is nearer by three quarters."""
    sigma, x, v = 0.6, point(), torch.linspace(0.5, 1.5, 12, dtype=torch.float64).reshape(3, 4)
    box = ndgrad.wrap(lambda z: z**3, estimator=EvolutionStrategy(40, sigma, directions=directions))
    d = diagnose(box, x, cotangent=v, repeats=60, reference_evaluations=8000, compare=False)
    bias = sigma**2 * moment * v
    assert d.bias.significant
    assert d.bias.size == pytest.approx(float((3 * x**2 * v).norm()), rel=1e-6)
    assert d.bias.distance == pytest.approx(float(bias.norm()), abs=4 * d.bias.error)
    assert d.smoothing.distance == pytest.approx(0.75 * float(bias.norm()), abs=4 * d.smoothing.error)
    smaller = 3 * x**2 * v + bias / 4
    assert d.smoothing.size == pytest.approx(float(smaller.norm()), rel=0.1)
    assert "sigma too large" in topics(d)
    typed = float(text_of(d, "sigma too large").rpartition("=")[2])
    assert typed == pytest.approx(sigma * math.sqrt(0.05 / d.smoothing.relative), rel=0.05)


def test_unbiased_estimator_shows_no_bias() -> None:
    box = ndgrad.wrap(lambda z: z.square(), estimator=EvolutionStrategy(7, 0.3, directions="gaussian"))
    for seed in range(8):
        d = diagnose(box, point(), seed=seed, compare=False)
        assert not d.bias.significant
        assert not d.smoothing.significant
    assert "none seen" in str(d)


def test_difference_subtracts_noise_and_knows_what_is_significant() -> None:
    torch.manual_seed(0)
    var = torch.full((20, 3), 0.04, dtype=torch.float64)
    b = torch.ones(20, 3, dtype=torch.float64)
    found = [difference(b + 0.2 * torch.randn(20, 3, dtype=torch.float64), b, var) for _ in range(300)]
    assert sum(d.significant for d in found) <= 2
    assert found[0].error == pytest.approx(math.sqrt(60 * 0.04))
    shifted = [
        difference(b + 0.5 + 0.2 * torch.randn(20, 3, dtype=torch.float64), b, var) for _ in range(300)
    ]
    assert all(d.significant for d in shifted)
    assert_mean(torch.tensor([[d.distance**2] for d in shifted]), 60 * 0.25, "squared distance")
    assert shifted[0].relative == shifted[0].distance / math.sqrt(60)
    nothing = difference(b, 0 * b, 0 * var)
    assert math.isinf(nothing.relative)
    assert nothing.relative_error == 0
    assert difference(0 * b, 0 * b, 0 * var).relative == 0
    assert not difference(b, b * (1 + 1e-9), 0 * var).significant


def test_estimates_without_signal_or_variance() -> None:
    torch.manual_seed(0)
    assert Estimates(torch.zeros(4, 2, 3)).snr == 0
    assert math.isinf(Estimates(torch.ones(4, 2, 3)).snr)
    alternating = torch.tensor([1.0, -1.0, 1.0, -1.0]).reshape(4, 1, 1)
    assert Estimates(alternating).snr == 0
    assert cosine(torch.zeros(2, 3), torch.ones(2, 3)) == 0
    assert cosine(torch.ones(2, 3), -2 * torch.ones(2, 3)) == pytest.approx(-1)


def test_mean_reference_error_is_reported() -> None:
    """A smoothed reference of a noisy linear function: variance from its parts, closed form n noise^2/(2 sigma^2 S)."""
    noise, sigma, n, evaluations = 0.1, 0.4, 3, 1200
    box = ndgrad.wrap(
        lambda z: (2 * z).sum(-1, keepdim=True) + noise * torch.randn(len(z), 1, dtype=z.dtype),
        estimator=EvolutionStrategy(6, sigma),
    )
    B = 40
    d = diagnose(
        box, point(B, n), cotangent=torch.full((B, 1), 1.5), reference_evaluations=evaluations, compare=False
    )
    assert d.reference.name == "f smoothed over sigma = 0.4"
    pairs = evaluations // 2
    expected = (
        1.5**2 * noise**2 / (2 * sigma**2 * pairs)
    )  # of each entry; orthogonal blocks of 3 in 60 are exact
    assert_mean(d.reference.variance.flatten(), expected, "variance of the reference")
    assert d.landscape.noise == pytest.approx(1.5 * noise, rel=0.1)


# --- the reference ----------------------------------------------------------------------------------------------------


class Scaled(ndgrad.FlatEstimator):
    """An evolution strategy times a factor."""

    def __init__(self, sigma: float, factor: float) -> None:
        super().__init__()
        self.sigma, self.factor = sigma, factor

    def linearize_flat(self, f: Any, x: Tensor, y: Tensor) -> Any:
        inner = EvolutionStrategy(8, self.sigma).linearize_flat(f, x, y)
        return lambda v: self.factor * inner(v)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1e-4, torch.float32),
        (1e-3, torch.float32),
        (1.0, torch.float32),
        (1e5, torch.float32),
        (1e-6, torch.float64),
        (1e6, torch.float64),
    ],
)
def test_the_reference_steps_in_the_inputs_own_scale(scale: float, dtype: torch.dtype) -> None:
    """Everything about ``sin(x / s)`` at s x is that of sin at x, but for the units."""

    def verdict(estimator: ndgrad.Estimator) -> Diagnosis:
        box = ndgrad.wrap(lambda z: (z / scale).sin(), estimator=estimator)
        return diagnose(box, (scale * point()).to(dtype), compare=False, reference_evaluations=400)

    right = verdict(EvolutionStrategy(16, 0.05 * scale))
    assert right.reference.name == "f, by central differences"
    assert right.bias.relative < 0.005
    assert verdict(Scaled(0.05 * scale, 1.0)).bias.relative < 0.005
    wrong = verdict(Scaled(0.05 * scale, 1.1))
    assert wrong.bias.significant
    assert wrong.bias.relative == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e-3, torch.float32), (1e-4, torch.float32), (1e-6, torch.float64)]
)
def test_differences_with_steps_of_many_periods_are_found_out(scale: float, dtype: torch.dtype) -> None:
    x = (scale * point()).to(dtype)
    box = ndgrad.wrap(lambda z: (z / scale).sin(), estimator=FiniteDifference())
    d = diagnose(box, x, cotangent=torch.ones(3, 4, dtype=dtype), **QUICK)
    right = torch.cos(x.double() / scale) / scale
    assert d.bias.significant
    assert d.bias.relative == pytest.approx(float((d.gradient - right).norm() / right.norm()), rel=0.01)


def test_every_input_has_its_own_step() -> None:
    def f(a: Tensor, b: Tensor) -> Tensor:
        return (1e6 * a).sin() + (1e-6 * b).cos()

    x = point()
    box = ndgrad.wrap(f, estimator=FiniteDifference(), argnums=(0, 1))
    problem = pose(box, (1e-6 * x, 1e6 * x), {}, cotangent=torch.ones(3, 4))
    size = torch.finfo(torch.float64).eps ** (1 / 3) * float(x.std(correction=0))
    assert steps(problem) == pytest.approx((1e-6 * size, 1e6 * size))
    slopes = problem.gradient(FiniteDifference(eps=steps(problem)))
    reference = difference_reference(problem, Landscape(1e-7, 1.0, 0.0, 0.0, None, slopes, False))
    assert reference is not None
    units = torch.tensor([1e6, 1e-6], dtype=torch.float64).repeat_interleave(4)
    right = torch.cat([x.cos(), -x.sin()], 1) * units
    assert_close(reference.gradient / units, right / units, rtol=0, atol=1e-9)
    assert (reference.variance.sqrt() / units < 1e-9).all()


def test_the_step_does_not_vanish_beside_inputs_far_from_zero() -> None:
    x = 1000 + 1e-3 * point(dtype=torch.float32)
    d = diagnose(ndgrad.wrap(torch.square, estimator=EvolutionStrategy(8, 10.0)), x, **QUICK)
    assert d.reference.name == "f, by central differences"
    assert d.bias.relative < 0.01


def test_differences_that_change_with_the_step_are_no_reference() -> None:
    """Steps of 0.003 in float32 are half a period of ``sin(1000 x)``; the smoothed gradient is that of x."""
    box = ndgrad.wrap(lambda z: z + 0.2 * (1000 * z).sin(), estimator=EvolutionStrategy(40, 0.5))
    d = diagnose(box, point(dtype=torch.float32), compare=False)
    assert d.reference.name == "f smoothed over sigma = 0.5"
    assert not d.bias.significant


def test_rounding_is_part_of_the_reference() -> None:
    """In float32, differences of ``10 + x / 100`` are right to a few percent; they accuse nobody of more."""

    def with_step(eps: float, offset: float) -> Diagnosis:
        box = ndgrad.wrap(lambda z: offset + z / 100, estimator=FiniteDifference(eps=eps))
        return diagnose(box, point(20, 4, torch.float32), compare=False)

    d = with_step(1.0, 10.0)
    assert d.reference.name == "f, by central differences"
    assert not d.bias.significant
    error = (d.reference.gradient - d.gradient).square()
    assert 0.02 * d.reference.variance.sum() < error.sum() < d.reference.variance.sum()
    assert with_step(1.0, 60.0).reference.name.startswith("f smoothed")


# --- what the function is like ----------------------------------------------------------------------------------------


def test_sigma_too_small_says_where_values_first_differ() -> None:
    x = torch.tensor(
        [[0.2, 1.1, -0.3], [0.1, -0.2, 2.2]], dtype=torch.float64
    )  # 0.2 from the nearest step or more
    d = diagnose(ndgrad.wrap(torch.round, estimator=EvolutionStrategy(4, 0.001)), x, **QUICK)
    assert topics(d) == ["sigma too small"]
    assert d.landscape.still_rows == 1
    assert d.landscape.spread == 0
    assert 0.06 < d.landscape.moving_sigma < 0.3
    assert f"type sigma={d.landscape.moving_sigma:.2g}" in str(d)
    assert d.snr == 0
    assert d.comparisons == ()
    assert d.profile is None


def test_constant_output_is_told_from_a_small_sigma() -> None:
    d = diagnose(ndgrad.wrap(lambda z: 0 * z + 3, estimator=EvolutionStrategy(4, 0.1)), point(), **QUICK)
    assert topics(d) == ["constant output"]
    assert "nor at any width" in str(d)


def test_piecewise_constant_output() -> None:
    x = point() + 0.03
    sampled = diagnose(ndgrad.wrap(torch.round, estimator=EvolutionStrategy(64, 0.5)), x, compare=False)
    assert sampled.landscape.flat == 1
    assert sampled.landscape.discontinuous
    assert "piecewise constant" in topics(sampled)
    assert "sigma too large" not in topics(sampled)
    assert sampled.reference.name == "f smoothed over sigma = 0.5"
    assert not sampled.bias.significant
    blind = diagnose(ndgrad.wrap(torch.round, estimator=FiniteDifference()), x, compare=False)
    assert topics(blind) == ["piecewise constant"]
    assert "type ndgrad.EvolutionStrategy(sigma=" in text_of(blind, "piecewise constant")
    assert blind.bias.relative == pytest.approx(1, abs=0.1)
    assert blind.landscape.sigma >= 0.05


def test_width_to_look_around_is_widened_for_an_estimator_without_one() -> None:
    """Steps of 50 in an input of deviation 0.6: a tenth of it sees nothing."""
    x = torch.linspace(-0.9, 0.9, 12, dtype=torch.float64).reshape(3, 4)
    d = diagnose(ndgrad.wrap(lambda z: torch.round(z / 50), estimator=FiniteDifference()), x, **QUICK)
    assert d.landscape.sigma > 5
    assert topics(d) == ["piecewise constant"]


def test_jumps_are_told_from_kinks_and_slopes() -> None:
    def jumps(f: Any) -> bool:
        box = ndgrad.wrap(f, estimator=EvolutionStrategy(4, 0.7))
        return diagnose(box, point(), **QUICK).landscape.jumps

    assert jumps(lambda z: z + 0.3 * torch.round(4 * z))
    assert jumps(lambda z: torch.floor(200 * z) / 200)
    assert not jumps(lambda z: z.abs() + torch.relu(z - 0.1))
    assert not jumps(torch.exp)
    assert not jumps(lambda z: torch.sin(9 * z))


def test_small_jumps_make_a_smoothed_reference() -> None:
    """Difference quotients of ``x + staircase`` see half of its trend; they must not be the reference."""
    box = ndgrad.wrap(lambda z: z + torch.round(8 * z) / 8, estimator=EvolutionStrategy(40, 0.5))
    d = diagnose(box, point(), compare=False)
    assert not d.landscape.piecewise_constant
    assert d.reference.name.startswith("f smoothed")
    assert not d.bias.significant


def test_noisy_function() -> None:
    def noisy(z: Tensor) -> Tensor:
        return z + 0.5 * torch.randn_like(z)

    v = torch.full((200, 2), 2.0, dtype=torch.float64)
    d = diagnose(ndgrad.wrap(noisy, estimator=EvolutionStrategy(9, 0.1)), point(200, 2), cotangent=v, **QUICK)
    assert d.landscape.noise == pytest.approx(2 * 0.5 * math.sqrt(2), rel=0.05)
    assert d.landscape.spread == pytest.approx(2 * math.sqrt(2 * (0.5**2 + 0.1**2)), rel=0.05)
    assert "type sigma=0.2" in text_of(d, "noisy function")
    mild = diagnose(ndgrad.wrap(noisy, estimator=EvolutionStrategy(9, 3.0)), point(), **QUICK)
    assert "type sigma" not in text_of(mild, "noisy function")
    differences = diagnose(ndgrad.wrap(noisy, estimator=FiniteDifference()), point(), **QUICK)
    assert "type ndgrad.EvolutionStrategy(sigma=" in text_of(differences, "noisy function")


def test_rounding_is_no_noise() -> None:
    """Values of one row differ in the last digits with the place of the row in the batch."""
    torch.manual_seed(0)
    weight = torch.randn(40, 3)
    box = ndgrad.wrap(lambda z: torch.tanh(z @ weight) + 100, estimator=EvolutionStrategy(4, 0.3))
    d = diagnose(box, torch.randn(7, 40), **QUICK)
    assert not d.landscape.noisy
    assert not d.landscape.jumps


def test_budget_below_dimension() -> None:
    box = ndgrad.wrap(lambda z: z.sum(-1, keepdim=True), estimator=EvolutionStrategy(5, 0.2))
    d = diagnose(box, point(2, 20), **QUICK)
    assert "budget below dimension" in topics(d)
    words = text_of(d, "budget below dimension")
    assert "5 draws in 20 inputs see at best 25 %" in words
    assert "n/S - 1 = 3)" in words
    assert "type num_samples=20" in words
    enough = diagnose(
        ndgrad.wrap(torch.sum, estimator=EvolutionStrategy(20, 0.2), batched=False), point(), **QUICK
    )
    assert "budget below dimension" not in topics(enough)


def test_noise_dominates_says_how_many_draws_would_do() -> None:
    """Relative variance n/S - 1 = 19 of one orthogonal pair in 20 inputs."""
    box = ndgrad.wrap(lambda z: z.sum(-1, keepdim=True), estimator=EvolutionStrategy(1, 0.2))
    d = diagnose(box, point(90, 20), cotangent=torch.ones(90, 1) * 0.7, repeats=50, **QUICK)
    assert d.snr == pytest.approx(1 / math.sqrt(19), rel=0.1)
    assert f"type num_samples={math.ceil(1 / d.snr**2)}" in text_of(d, "noise dominates")


def test_no_signal() -> None:
    box = ndgrad.wrap(lambda z: torch.randn(len(z), 1), estimator=EvolutionStrategy(4, 0.2))
    d = diagnose(box, point(1, 4, torch.float32), repeats=4, seed=1, **QUICK)
    assert d.snr == 0
    assert "type repeats=40" in text_of(d, "no signal")


def test_surrogate_with_good_values_and_a_wrong_slope() -> None:
    """A network that knows the rows apart but not the function around them."""

    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, z: Tensor) -> Tensor:
            return (10 * (z / 10).round()).sum(-1, keepdim=True) + 0.0 * self.weight * z.sum(-1, keepdim=True)

    x = torch.tensor([[-50.0, 10.0], [30.0, 0.0], [80.0, 20.0]])
    box = ndgrad.wrap(
        lambda z: z.sum(-1, keepdim=True), estimator=DiffBypass(Memory(), sigma=0.5, num_samples=6)
    )
    d = diagnose(box, x, **QUICK)
    assert d.value_error < 0.05
    assert d.gradient_error == pytest.approx(1.0, abs=0.05)
    words = text_of(d, "surrogate unfit")
    assert "wrong by 100 %" in words
    assert "although its values only by" in words
    assert "surrogate's gradient" in str(d)
    assert "biased" in topics(d)
    assert d.bias.relative == pytest.approx(1)
    panel = next(axis for axis in d.plot().axes if axis.get_title() == "noise and bias")
    assert "surrogate's differences" in [label.get_text() for label in panel.get_yticklabels()]


def test_fresh_and_trained_surrogate() -> None:
    torch.manual_seed(2)
    box = ndgrad.wrap(lambda z: 2 * z, estimator=DiffBypass(sigma=0.3, num_samples=12, fit_steps=40))
    x = point(3, 4, torch.float32)
    fresh = diagnose(box, x, repeats=4, **QUICK)
    assert "and its values by" in text_of(fresh, "surrogate unfit")
    for _ in range(30):
        box(x.requires_grad_()).sum().backward()
    trained = diagnose(box, x.detach(), repeats=4, **QUICK)
    assert "surrogate unfit" not in topics(trained)
    assert trained.bias.distance < fresh.bias.distance / 2
    assert DiffBypass(num_samples=1).num_samples == 1
    single = diagnose(
        ndgrad.wrap(lambda z: 2 * z, estimator=DiffBypass(num_samples=1)), x, repeats=3, **QUICK
    )
    assert single.gradient_error is not None  # the value's own row is a second sample


# --- comparisons ------------------------------------------------------------------------------------------------------


def test_comparison_has_closed_form_errors() -> None:
    """On a linear function: 0 for differences, sqrt(n/S - 1) for orthogonal pairs, sqrt((n + 1)/(S - 1)) for scores."""
    B, n, S = 200, 6, 3
    box = ndgrad.wrap(lambda z: z.sum(-1, keepdim=True), estimator=EvolutionStrategy(S, 0.2))
    d = diagnose(box, point(B, n), cotangent=torch.full((B, 1), 0.7), repeats=24, reference_evaluations=400)
    found = {c.name: c for c in d.comparisons}
    assert found["yours"].relative_error == pytest.approx(math.sqrt(n / S - 1), rel=0.03)
    assert found["evolution_strategy_pairs"].relative_error == pytest.approx(math.sqrt(n / S - 1), rel=0.03)
    assert found["evolution_strategy_single"].relative_error == pytest.approx(math.sqrt(6 / 5 - 1), rel=0.03)
    assert found["score_function"].relative_error == pytest.approx(math.sqrt(7 / 5), rel=0.05)
    assert found["finite_difference_forward"].relative_error < 1e-5
    assert found["finite_difference_forward"].cosine == pytest.approx(1)
    assert found["yours"].cosine == pytest.approx(math.sqrt(S / n), rel=0.03)
    assert found["yours"].agreement == pytest.approx(1)
    assert all(c.evaluations <= d.evaluations == 2 * S + 1 for c in d.comparisons)
    assert "finite_difference" not in found  # 2 n = 12 probes are too many
    assert not any(name.startswith("diff_bypass") for name in found)
    table = str(d)
    assert "at equal evaluations" in table
    assert "score_function" in table


# --- the call ---------------------------------------------------------------------------------------------------------


def test_nothing_is_changed() -> None:
    generator = torch.Generator().manual_seed(11)
    state = generator.get_state()
    estimator = DiffBypass(num_samples=3, fit_steps=2, replay=2, generator=generator)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    box = ndgrad.wrap(net, estimator=estimator)
    x = point().requires_grad_()
    box(x).sum().backward()
    x.grad = None
    before = copy.deepcopy(box.state_dict())
    quality, count, drawn = estimator.quality, box.num_evaluations, generator.get_state()
    assert not torch.equal(drawn, state)
    rng = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002 - what it must keep
    diagnose(box, x, repeats=3, reference_evaluations=40)
    assert torch.equal(torch.get_rng_state(), rng[0])
    assert (np.random.get_state()[1] == rng[1]).all()  # noqa: NPY002 - as above
    assert random.getstate() == rng[2]
    assert torch.equal(generator.get_state(), drawn)
    assert estimator.quality is quality
    assert box.num_evaluations == count
    assert x.grad is None
    after = box.state_dict()
    assert after.keys() == before.keys()
    for key, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(after[key], value)
    assert_close(
        after["estimator._extra_state"]["fit"]["network"], before["estimator._extra_state"]["fit"]["network"]
    )
    assert len(after["estimator._extra_state"]["fit"]["replay"]) == 1


def test_the_function_is_shared_not_copied() -> None:
    class Simulator:
        calls = 0

        def __call__(self, z: Tensor) -> Tensor:
            self.calls += 1
            return z.sin()

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("a simulator may have no copy")

    simulator = Simulator()
    diagnose(ndgrad.wrap(simulator, estimator=EvolutionStrategy(3, 0.1)), point(), **QUICK)
    assert simulator.calls > 0


def test_repeats_are_independent_and_reproducible() -> None:
    for generator in (None, torch.Generator().manual_seed(3)):
        box = ndgrad.wrap(
            torch.sin, estimator=EvolutionStrategy(3, 0.1, directions="gaussian", generator=generator)
        )
        first, second = (diagnose(box, point(), **QUICK) for _ in range(2))
        assert torch.equal(first.estimates.samples, second.estimates.samples)
        assert len(torch.unique(first.estimates.samples[:, 0, 0])) == 32
        other = diagnose(box, point(), seed=9, **QUICK)
        assert not torch.equal(first.estimates.samples, other.estimates.samples)


def test_default_cotangent_is_standard_normal_and_fixed() -> None:
    box = ndgrad.wrap(lambda z: 2 * z, estimator=FiniteDifference())
    x = point(500, 4)
    v = diagnose(box, x, repeats=2, **QUICK).gradient / 2
    assert_mean(v.flatten(), 0.0, "mean of v")
    assert_mean(v.square().flatten(), 1.0, "variance of v")
    assert_close(diagnose(box, x, repeats=2, **QUICK).gradient / 2, v, rtol=0, atol=0)


def test_loss_and_cotangent_agree() -> None:
    box = ndgrad.wrap(torch.sin, estimator=EvolutionStrategy(5, 0.1))
    by_loss = diagnose(box, point(), loss=lambda y: (y**2).sum(-1), **QUICK)
    by_cotangent = diagnose(box, point(), cotangent=2 * point().sin(), **QUICK)
    assert_close(by_loss.estimates.samples, by_cotangent.estimates.samples)


def test_containers_single_points_and_companions() -> None:
    def f(a: Tensor, options: dict[str, Tensor], scale: float = 1.0) -> dict[str, Tensor]:
        return {"u": scale * a.sum() * options["b"], "k": options["b"].sum()}

    box = ndgrad.wrap(f, estimator=EvolutionStrategy(12, 0.1), batched=False, argnums=(0, "options"))
    a, b = torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0, 1.0])
    v = {"u": torch.tensor([1.0, 0.5, -2.0]), "k": torch.tensor(3.0)}
    d = diagnose(box, a, {"b": b}, cotangent=v, scale=2.0, repeats=200, **QUICK)
    expected = torch.cat([(2 * b @ v["u"]).expand(2), 2 * a.sum() * v["u"] + 3.0]).unsqueeze(0)
    assert d.gradient.shape == (1, 5)
    assert_mean(d.estimates.samples, expected.double(), "gradient of a single point")
    by_loss = diagnose(
        box, a, {"b": b}, loss=lambda y: y["u"] @ v["u"] + 3 * y["k"], scale=2.0, repeats=200, **QUICK
    )
    assert_close(by_loss.estimates.samples, d.estimates.samples, rtol=1e-5, atol=1e-5)
    assert "1 row of 5 inputs" in str(d)


def test_a_family_is_judged_without_a_reference() -> None:
    box = ndgrad.wrap(lambda z: 3 * z, estimator=ScoreFunction(lambda p: Bernoulli(probs=p), num_samples=8))
    d = diagnose(box, torch.full((50,), 0.4), cotangent=torch.full((50,), 2.0), repeats=40)
    assert_mean(d.estimates.samples[:, :, 0], 6.0, "gradient of the mean")
    assert d.reference is None
    assert d.landscape is None
    assert "bias" not in str(d)
    both = ndgrad.wrap(torch.square, estimator=ScoreFunction(Normal, num_samples=6), argnums=(0, 1))
    many = diagnose(both, point(), point() * 0 + 0.5, repeats=3)
    assert many.gradient.shape == (3, 8)
    assert len(many.plot().axes) == 1


def test_a_bypass_in_another_language_is_judged_without_a_reference() -> None:
    estimator = DiffBypass(nn.Linear(4, 6), sigma=0.3, num_samples=4, forward="bypass")
    classes = ndgrad.wrap(lambda z: z.argmax(-1), estimator=estimator)
    d = diagnose(
        classes,
        point(3, 4, torch.float32),
        loss=lambda y: nn.functional.cross_entropy(y, torch.tensor([1, 0, 3])),
    )
    assert d.reference is None
    assert d.gradient.any()
    same = ndgrad.wrap(lambda z: z * 2, estimator=DiffBypass(sigma=0.3, num_samples=4, forward="bypass"))
    assert diagnose(same, point(), **QUICK).reference is not None


def test_evaluations_in_forward_are_counted() -> None:
    box = ndgrad.wrap(torch.sin, estimator=EvolutionStrategy(3, 0.1), evaluate_in="forward")
    d = diagnose(box, point(), repeats=4, **QUICK)
    assert d.evaluations == 7
    assert d.spent == _counted(box, repeats=4, **QUICK)


def _counted(box: ndgrad.BlackBox, **options: Any) -> int:
    rows = 0

    def counting(z: Tensor) -> Tensor:
        nonlocal rows
        rows += len(z)
        return z.sin()

    diagnose(
        ndgrad.wrap(counting, estimator=copy.deepcopy(box.estimator), evaluate_in="forward"),
        point(),
        **options,
    )
    return rows // 3


def test_errors() -> None:
    box = ndgrad.wrap(torch.sin, estimator=EvolutionStrategy(3, 0.1))
    with pytest.raises(TypeError, match=r"made by ndgrad.wrap, got Linear; for a model"):
        diagnose(nn.Linear(2, 2), point())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass one of them"):
        diagnose(box, point(), cotangent=point(), loss=torch.sum)
    with pytest.raises(ValueError, match="repeats must be an integer >= 2"):
        diagnose(box, point(), repeats=1)
    with pytest.raises(ValueError, match="reference_evaluations must be an integer >= 20"):
        diagnose(box, point(), reference_evaluations=19)
    with pytest.raises(ValueError, match=r"shapes of the outputs, \[\(3, 4\)\], got \[\(4, 3\)\]"):
        diagnose(box, point(), cotangent=point().T)
    with pytest.raises(ValueError, match="differentiable torch function"):
        diagnose(box, point(), loss=lambda y: y.detach().sum())
    with pytest.raises(ValueError, match="no argument can be differentiated"):
        diagnose(ndgrad.wrap(lambda k: k, estimator=FiniteDifference()), torch.tensor([1, 2]))


# --- words and figures ------------------------------------------------------------------------------------------------


def test_rules_are_silent_about_what_was_not_measured() -> None:
    samples = torch.ones(3, 2, 4) + 0.01 * torch.arange(3.0).reshape(3, 1, 1)
    bare = Diagnosis("E", Estimates(samples), 5, 50, None, None, False)
    assert [rule(bare) for rule in RULES] == [None] * len(RULES)
    weak = dataclasses.replace(
        bare, consistent=True, estimates=Estimates(samples * torch.tensor([1.0, -0.5, 1.6]).reshape(3, 1, 1))
    )
    (advice,) = [found for rule in RULES if (found := rule(weak)) is not None]
    assert advice.topic == "noise dominates"
    assert "num_samples" not in advice.text


def test_noise_without_spread() -> None:
    landscape = Landscape(0.1, 0.0, 0.2, 0.0, None, None, False)
    d = Diagnosis("E", Estimates(torch.ones(3, 2, 4)), 5, 50, 4, 0.1, True, landscape=landscape)
    (advice,) = [found for rule in RULES if (found := rule(d)) is not None]
    assert "inf of what they vary by" in advice.text
    assert math.isnan(landscape.flat)


def test_percent() -> None:
    assert [percent(x) for x in (0.12345, 1.0, 0.0, 200.0, math.inf, math.nan, 0.00012)] == [
        "12 %", "100 %", "0 %", "> 9999 %", "inf", "nan", "0.012 %",
    ]  # fmt: skip


def test_zero_mean_with_noise_has_infinite_standard_error() -> None:
    d = Diagnosis("E", Estimates(torch.tensor([1.0, -1.0]).reshape(2, 1, 1)), 5, 50, 4, 0.1, True)
    assert math.isinf(d.standard_error)
    assert dataclasses.replace(d, estimates=Estimates(torch.zeros(2, 1, 1))).standard_error == 0


def test_figure_has_a_panel_for_everything_measured() -> None:
    box = ndgrad.wrap(torch.sin, estimator=EvolutionStrategy(9, 0.2))
    full = diagnose(box, point(), reference_evaluations=60, repeats=4)
    figure = full.plot()
    assert isinstance(figure, Figure)
    assert [axis.get_title() for axis in figure.axes] == [
        f"along the gradient of row {full.profile.row}", "mean of 4 estimates, ± standard error", "noise and bias",
        "one estimate, 19 evaluations per row",
    ]  # fmt: skip
    figure.canvas.draw()
    assert len(diagnose(box, point(), repeats=4, **QUICK).plot().axes) == 4  # three panels and an empty place
    many = diagnose(
        ndgrad.wrap(torch.sin, estimator=EvolutionStrategy(300, 0.2)), point(4, 150), repeats=2, **QUICK
    )
    assert len(many.plot().axes[1].lines[0].get_xdata()) == 300


def test_figure_of_a_gradient_without_signal() -> None:
    x = torch.tensor([[0.2, 1.1, -0.3], [0.1, -0.2, 2.2]])
    flat = diagnose(ndgrad.wrap(torch.round, estimator=EvolutionStrategy(4, 0.001)), x, **QUICK)
    figure = flat.plot()
    assert [axis.get_title() for axis in figure.axes] == [
        "mean of 32 estimates, ± standard error",
        "noise and bias",
    ]
    labels = [text.get_text() for text in figure.axes[1].texts]
    assert labels[0] == "no signal"
    assert "none seen" in labels
    figure.canvas.draw()


def test_profile_is_the_function_along_its_gradient() -> None:
    box = ndgrad.wrap(lambda z: (z**2).sum(-1, keepdim=True), estimator=FiniteDifference())
    x = point()
    d = diagnose(box, x, cotangent=torch.full((3, 1), 1.5), **QUICK)
    p = d.profile
    row = int(x.norm(dim=1).argmax())
    assert p.row == row
    norm = float(x[row].norm())
    assert p.slope == pytest.approx(3 * norm, rel=1e-5)
    assert p.reference_slope == pytest.approx(3 * norm, rel=1e-5)
    assert_close(p.value, 1.5 * (2 * norm * p.distance + p.distance**2), rtol=1e-4, atol=1e-6)


def test_names_of_the_result() -> None:
    assert isinstance(diagnose(ndgrad.wrap(torch.sin), point(), **QUICK), ndgrad.Diagnosis)
    assert Reference("f", torch.zeros(1), torch.zeros(1)).name == "f"
    assert Difference(1.0, 0.5, 2.0, True).relative_error == 0.25


# --- failures --------------------------------------------------------------------------------------------------------


def flaky(fraction: float = 0.1) -> Any:
    """A linear function that fails at random."""
    generator = torch.Generator().manual_seed(5)

    def fn(z: Tensor) -> Tensor:
        lost = torch.rand(len(z), 1, generator=generator) < fraction
        return torch.where(
            lost, torch.nan, z @ torch.tensor([[0.7, -1.2], [0.4, 2.0], [0.3, -0.1], [1.0, 0.6]]).double()
        )

    return fn


@pytest.mark.parametrize(
    "estimator",
    [
        EvolutionStrategy(40, 0.3),
        ScoreFunction(lambda t: Normal(t, 0.3), num_samples=40),
        ndgrad.PerturbedOptimizer(40, 0.3),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_failures_are_skipped_as_the_module_does_and_values_tried_again(estimator: Any) -> None:
    """The differences that others are compared with need every evaluation, and are not NaN."""
    box = ndgrad.wrap(flaky(), estimator=estimator, on_error="skip", retries=20, min_success=0.0)
    d = diagnose(box, point(), repeats=8)
    assert math.isfinite(d.snr)
    assert math.isfinite(d.standard_error)
    if d.landscape is not None:
        assert d.landscape.slopes is not None
        assert d.landscape.slopes.isfinite().all()
        assert math.isfinite(d.landscape.spread)


@pytest.mark.parametrize("make", [EvolutionStrategy, ndgrad.LeastSquares])
@pytest.mark.parametrize(
    ("sigma", "num_inputs"),
    [
        (lambda: ndgrad.AdaptiveSigma(0.1), 1),
        (lambda: ndgrad.AdaptiveSigma((0.1, 0.1)), 2),
        (lambda: torch.tensor([0.06, 0.1281]), 1),  # root mean square 0.1
        (lambda: (0.1, torch.tensor([0.1, 0.1])), 2),
    ],
)
def test_every_kind_of_width_is_diagnosed(make: Any, sigma: Any, num_inputs: int) -> None:
    x = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    box = ndgrad.wrap(lambda *x: sum(x).sin().sum(1), estimator=make(4, sigma()), argnums=range(num_inputs))
    found = diagnose(box, *[x] * num_inputs, repeats=4, reference_evaluations=40)
    assert found.sigma == pytest.approx(0.1, rel=1e-3)
