from __future__ import annotations

import copy
import io
import math
from statistics import median

import pytest
import torch
from torch import Tensor

from ndgrad import AdaptiveSigma, EvolutionStrategy, LeastSquares
from ndgrad.testing import assert_mean, estimate


def follow(sigma: AdaptiveSigma, f: object, calls: int, spread: float = 0.0) -> list[float]:
    """Return the factor after each call."""
    torch.manual_seed(0)
    estimator = EvolutionStrategy(8, sigma)
    point = 0.3 + spread * torch.randn(16, 4, dtype=torch.float64)
    factors = []
    for _ in range(calls):
        estimate(estimator, f, point, torch.full((16, 1), 0.7, dtype=torch.float64))
        factors.append(sigma.factor)
    return factors


def total(z: Tensor) -> Tensor:
    return z.sum(1, keepdim=True)


def observe(sigma: AdaptiveSigma, ratio: float | None) -> float:
    """Show it values with the given ratio of even to odd response, None for all equal; return the next factor."""
    odd, even = (0.0, 0.0) if ratio is None else (0.7, 0.7 * math.sqrt(ratio))
    y, ones = torch.full((3, 2), 4.0, dtype=torch.float64), torch.ones(5, 3, 2, dtype=torch.float64)
    sigma.observe(y + (even + odd) * ones, y + (even - odd) * ones, y)
    return sigma.factor


def test_the_rule_step_by_step() -> None:
    sigma = AdaptiveSigma(0.3, rate=1.5)
    steps = [
        (0.4, 1),  # the first call widens
        (0.2, 2),  # fell: goes on
        (0.5, 3),  # rose, but not to three times the lowest
        (0.61, 2),  # to more: turns
        (0.9, 1),  # compared with the value at the turn
        (0.5, 0),
        (1.4, -1),
        (None, 0),  # all equal: widens
        (7.0, 1),  # nothing to compare with
        (22.0, 0),
    ]
    for ratio, power in steps:
        assert observe(sigma, ratio) == pytest.approx(1.5**power)


def test_turns_at_the_limits() -> None:
    sigma = AdaptiveSigma(0.3, limits=(0.5, 3.0), rate=2.0)
    assert [observe(sigma, 0.4) for _ in range(8)] == [2.0, 3.0, 1.5, 0.75, 0.5, 1.0, 2.0, 3.0]


def test_widens_until_it_sees_steps() -> None:
    """Steps of 1/4 about 1/4 apart; at a hundredth of that, all values are equal."""
    stairs = lambda z: total(torch.round(4 * torch.tanh(z)) / 4)  # noqa: E731
    factors = follow(AdaptiveSigma(1e-3, limits=(0.01, 1e5)), stairs, 120, spread=1.0)
    assert 1e-3 * min(factors[-60:]) > 0.05
    assert 1e-3 * max(factors[-60:]) < 5.0


def test_widens_against_noise_where_nothing_is_curved() -> None:
    noise = torch.Generator().manual_seed(1)
    f = lambda z: total(z) + 0.5 * torch.randn(len(z), 1, dtype=z.dtype, generator=noise)  # noqa: E731
    assert median(follow(AdaptiveSigma(0.01), f, 80)[-20:]) > 30


def test_narrows_where_nothing_is_noisy() -> None:
    assert median(follow(AdaptiveSigma(0.2), lambda z: total(torch.exp(z)), 40)[-10:]) < 0.02


def test_settles_where_the_response_is_most_linear() -> None:
    """``g z + c |z|^2 / 2`` with noise tau: with fixed norms the ratio has a minimum in closed form.

    odd^2 = sigma^2 |g + c x|^2 + tau^2 / 2, even^2 = (c sigma^2 n / 2)^2 + 3 tau^2 / 2.
    """
    c, tau, n, noise = 1.3, 0.05, 4, torch.Generator().manual_seed(2)
    f = lambda z: (  # noqa: E731
        total(z + c * z**2 / 2) + tau * torch.randn(len(z), 1, dtype=z.dtype, generator=noise)
    )
    slope = n * (1 + 0.3 * c) ** 2
    grid = torch.logspace(-3, 1, 4001, dtype=torch.float64)
    odd, even = grid**2 * slope + tau**2 / 2, (c * grid**2 * n / 2) ** 2 + 1.5 * tau**2
    best = float(grid[(even / odd).argmin()])
    for start in (0.1 * best, 10 * best):
        found = start * median(follow(AdaptiveSigma(start), f, 120)[-60:])
        assert best / 1.6 < found < 1.6 * best


def test_the_estimate_belongs_to_the_width_of_its_call() -> None:
    """The cubic's 3 x^2 + 3 sigma^2 shows the width: that of the first call first, the changed one then."""
    torch.manual_seed(3)
    sigma = AdaptiveSigma(0.4, rate=2.0)
    estimator = EvolutionStrategy(4, sigma, directions="gaussian")
    x, v = (torch.full((20_000, 1), t, dtype=torch.float64) for t in (0.5, -0.6))
    widths = []
    for _ in range(3):
        widths.append(0.4 * sigma.factor)
        grads = estimate(estimator, lambda z: z**3, x, v)
        assert_mean(grads, -0.6 * (0.75 + 3 * widths[-1] ** 2), f"sigma={widths[-1]}")
    assert len(set(widths)) > 1


def test_least_squares_use_it_too() -> None:
    sigma = AdaptiveSigma((0.3, torch.tensor([0.1, 0.2])), rate=2.0)
    a, b = torch.zeros(3, 1, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    LeastSquares(4, sigma)(lambda a, b: torch.round(a), a, b).sum().backward()
    assert sigma.factor == 2.0


def test_no_change_in_eval_mode() -> None:
    sigma = AdaptiveSigma(0.3)
    estimator = EvolutionStrategy(2, sigma).eval()
    estimate(estimator, torch.round, torch.zeros(2, 3), torch.full((2, 3), 0.5))
    assert sigma.factor == 1.0


def test_no_change_by_an_empty_batch() -> None:
    sigma = AdaptiveSigma(0.1)
    empty = torch.zeros(0, 4, dtype=torch.float64)
    for estimator in (EvolutionStrategy(3, sigma), LeastSquares(3, sigma)):
        estimate(estimator, total, empty, empty[:, :1])
    assert sigma.get_extra_state() == AdaptiveSigma(0.1).get_extra_state()


def test_state() -> None:
    """Factor, direction and the lowest ratio: all are needed to go on in the same way."""
    sigma = AdaptiveSigma(0.02, rate=1.5)
    for ratio in (0.4, 0.2, 0.1, 0.7):  # the last turns
        observe(sigma, ratio)
    file = io.BytesIO()
    torch.save(EvolutionStrategy(8, sigma).state_dict(), file)
    file.seek(0)
    restored = AdaptiveSigma(0.02, rate=1.5)
    EvolutionStrategy(8, restored).load_state_dict(torch.load(file, weights_only=True))
    for each in (sigma, restored, copy.deepcopy(sigma).to(torch.float16)):
        assert [observe(each, ratio) for ratio in (1.0, 2.2)] == pytest.approx([1.5, 1.5**2])


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma": 0.0},
        {"limits": (0.0, 2.0)},
        {"limits": (1.5, 2.0)},
        {"limits": (0.1, 0.5)},
        {"rate": 1.0},
        {"rate": -2.0},
    ],
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdaptiveSigma(**bad)


def test_pairs_are_needed() -> None:
    with pytest.raises(ValueError, match="antithetic=True"):
        EvolutionStrategy(4, AdaptiveSigma(), antithetic=False)


def test_repr() -> None:
    assert "(sigma): AdaptiveSigma(initial=0.05" in repr(EvolutionStrategy(4, AdaptiveSigma()))
