"""Failed evaluations, rows of NaN, in every estimator that can do without them.

Probes fail by draws of their own; S_b is the number of samples that row b has left.
"""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable

import pytest
import torch
from given import STILL, Given
from laws_of_networks import assert_state_continues
from registry import SAMPLING, VARIANTS
from torch import Tensor, nn
from torch.distributions import Independent, Normal

import ndgrad
from ndgrad import (
    AdaptiveSigma,
    Averaged,
    ControlVariate,
    DiffBypass,
    EvolutionStrategy,
    FiniteDifference,
    GuidedEvolutionStrategy,
    ImplicitMLE,
    LeastSquares,
    Mixture,
    PerturbedOptimizer,
    ScoreFunction,
    StraightThrough,
    TooManyFailuresError,
)
from ndgrad.estimator import Rows, unable_to_skip
from ndgrad.fitting import Batch
from ndgrad.missing import came_back, good_samples, leave_one_out, less_baseline, reweigh
from ndgrad.replay import Samples
from ndgrad.testing import assert_mean, estimate

SIGMA = 0.3
S = 20  # with one probe in five lost, no row of the tests loses all
ROWS = 3000

SKIPPING = {n: v for n, v in VARIANTS.items() if v.make(num_samples=3, sigma=SIGMA).skips_failures}
CONSISTENT = {n: v for n, v in SKIPPING.items() if v.make(num_samples=3, sigma=SIGMA).consistent}
CLOSED_FORM = {n: v for n, v in CONSISTENT.items() if v.variance is not None and not n.startswith("averaged")}


class Failing:
    """A function whose probes fail; the value at the B inputs themselves, a call of B rows, does not.

    ``lost`` has a mask (S or 2S, B) for each call with probes.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], num_rows: int, rate: float = 0.2) -> None:
        self.f, self.num_rows, self.rate = f, num_rows, rate
        self.generator = torch.Generator().manual_seed(17)
        self.lost: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        if len(z) == self.num_rows:
            return self.f(z)
        shape = len(z) // self.num_rows, self.num_rows
        self.lost.append(self.fail(shape))
        return lose(self.f(z), self.lost[-1])

    def fail(self, shape: tuple[int, int]) -> Tensor:
        return torch.rand(shape, generator=self.generator) < self.rate

    def kept(self, paired: bool, call: int = 0) -> Tensor:
        """Mark the samples that are complete, (S, B)."""
        lost = self.lost[call]
        return ~(lost.unflatten(0, (2, -1)).any(0) if paired else lost)


class Chosen(Failing):
    """A function of which the given samples fail around the given input."""

    def __init__(self, f: Callable[[Tensor], Tensor], num_rows: int, row: int, samples: slice) -> None:
        super().__init__(f, num_rows)
        self.row, self.samples = row, samples

    def fail(self, shape: tuple[int, int]) -> Tensor:
        mask = torch.zeros(shape, dtype=torch.bool)
        mask[self.samples, self.row] = True
        return mask


def lose(y: Tensor, mask: Tensor) -> Tensor:
    y = y.clone()
    y[mask.flatten()] = torch.nan
    return y


def rows(values: list[float], count: int = ROWS) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(count, -1)


def small(name: str, dtype: torch.dtype = torch.float64) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """Return a smooth function, four inputs and cotangents."""
    x = torch.linspace(-0.83, 1.1, 20, dtype=dtype).reshape(4, 5)
    paired = VARIANTS[name].make(num_samples=3, sigma=SIGMA).paired
    f = torch.sin if paired else lambda z: torch.stack([z.sin().sum(1), z.square().mean(1) + 2], 1)
    return f, x, torch.linspace(1.7, -0.6, f(x).numel(), dtype=dtype).reshape(f(x).shape)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def test_which_estimators_skip() -> None:
    cannot = {"BlackboxInterpolation", "FiniteDifference", "StraightThrough"}
    assert {each.__name__ for each in ndgrad.ESTIMATORS.values() if not each.skips_failures} == cannot
    assert {"averaged-gaussian", "mixture"} <= SKIPPING.keys()


def test_what_an_estimator_holds_must_skip_too() -> None:
    difference, straight = FiniteDifference(), StraightThrough()
    averaged = Averaged(difference, 2)
    assert unable_to_skip(Averaged(EvolutionStrategy(3, SIGMA), 2)) == []
    assert unable_to_skip(averaged) == [averaged, difference]
    mixture = Mixture(EvolutionStrategy(3, SIGMA), straight)
    assert unable_to_skip(mixture) == [mixture, straight]
    assert not Mixture(FiniteDifference(), DiffBypass()).skips_failures


@pytest.mark.parametrize("name", SKIPPING)
def test_nothing_changes_where_nothing_fails(name: str) -> None:
    f, x, v = small(name)
    grads = []
    for function in (f, Failing(f, len(x), rate=0.0)):
        estimator = VARIANTS[name].make(num_samples=7, sigma=SIGMA)
        torch.manual_seed(3)
        grads.append([estimate(estimator, function, x, v) for _ in range(2)])
    torch.testing.assert_close(*grads, rtol=0, atol=0)


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_affine_mean_and_variance(name: str) -> None:
    """The variance is the closed form with S_b samples, fewer than inputs: at most one block of directions."""
    variant, n = VARIANTS[name], S + 4
    matrix = torch.randn(n, 2, dtype=torch.float64)
    x, v = rows(torch.linspace(-0.7, 1.2, n).tolist()), rows([0.7, -1.6])
    gradient = v[0] @ matrix.T  # (n,)
    value = 2.5  # of <v, f(x)>, relative to sigma |gradient|
    offset = value * SIGMA * gradient.norm() * v[0] / v[0].square().sum() - x[0] @ matrix
    f = Failing(lambda z: z @ matrix + offset, ROWS)
    grads = estimate(variant.make(num_samples=S, sigma=SIGMA), f, x, v)
    assert_mean(grads, gradient, "affine mean")
    left = f.kept(paired=len(f.lost[0]) == 2 * S).sum(0).tolist()  # S_b
    assert min(left) < max(left)
    exact = torch.tensor([variant.variance(n, count, value) for count in left])
    spread = (grads - gradient).square().sum(1) / gradient.square().sum()  # (rows,)
    assert_mean((spread / exact).unsqueeze(1), 1.0, "affine variance")


@pytest.mark.parametrize("name", [n for n in CONSISTENT if n not in CLOSED_FORM])
def test_affine_mean(name: str) -> None:
    matrix = torch.randn(4, 2, dtype=torch.float64)
    x, v = rows([0.2, -0.4, 0.9, 0.1]), rows([0.7, -1.6])
    f = Failing(lambda z: z @ matrix + 3.0, ROWS)
    grads = estimate(VARIANTS[name].make(num_samples=S, sigma=SIGMA), f, x, v)
    assert_mean(grads, v[0] @ matrix.T, "affine mean")


@pytest.mark.parametrize("name", [n for n in SAMPLING if n in SKIPPING])
def test_quadratic_mean(name: str) -> None:
    half = torch.randn(4, 4, dtype=torch.float64)
    q = half + half.T
    x, v = rows([0.3, -0.7, 0.5, 1.1]), rows([-1.3])
    f = Failing(lambda z: ((z @ q) * z).sum(1, keepdim=True) + 1.7, ROWS)
    grads = estimate(VARIANTS[name].make(num_samples=S, sigma=SIGMA), f, x, v)
    assert_mean(grads, 2 * v[0] * (q @ x[0]), "quadratic")


def test_variance_of_several_blocks() -> None:
    """Block j, with r_j directions left, projects on a random r_j-dimensional space, independently of the others."""
    n, num_samples = 5, 13
    g = torch.linspace(-0.7, 1.1, n, dtype=torch.float64)
    f = Failing(lambda z: z @ g.unsqueeze(1) - 4.0, ROWS)
    grads = estimate(EvolutionStrategy(num_samples, SIGMA), f, rows([0.2] * n), rows([-0.6]))
    assert_mean(grads, -0.6 * g, "mean")
    kept = f.kept(paired=True).double()
    blocks = torch.stack([part.sum(0) for part in kept.split(n)])  # (3, B): r_j
    exact = (n / kept.sum(0)) ** 2 * (blocks / n * (1 - blocks / n)).sum(0)
    spread = (grads + 0.6 * g).square().sum(1) / (0.36 * g.square().sum())
    assert_mean((spread - exact).unsqueeze(1), 0.0, "variance")


def test_averaged_repetitions_lose_samples_of_their_own() -> None:
    g = torch.linspace(-0.7, 1.1, 5, dtype=torch.float64)
    f = Failing(lambda z: z @ g.unsqueeze(1), ROWS)
    estimator = Averaged(EvolutionStrategy(S, SIGMA, directions="gaussian"), 2)
    grads = estimate(estimator, f, rows([0.2] * 5), rows([-0.6]))
    assert_mean(grads, -0.6 * g, "mean")
    exact = sum((5 + 1) / f.kept(paired=True, call=k).sum(0) for k in range(2)) / 4
    spread = (grads + 0.6 * g).square().sum(1) / (0.36 * g.square().sum())
    assert_mean((spread / exact).unsqueeze(1), 1.0, "variance")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CONSISTENT)
def test_failures_of_one_row_leave_the_others_alone(name: str, dtype: torch.dtype) -> None:
    """Bit for bit. The row itself changes."""
    f, x, v = small(name, dtype)
    grads = []
    for function in (f, Chosen(f, len(x), row=1, samples=slice(2, 5))):
        torch.manual_seed(3)
        grads.append(estimate(VARIANTS[name].make(num_samples=11, sigma=SIGMA).to(dtype), function, x, v))
    others = [0, 2, 3]
    torch.testing.assert_close(grads[0][others], grads[1][others], rtol=0, atol=0)
    assert (grads[0][1] != grads[1][1]).any()
    assert grads[1].isfinite().all()


@pytest.mark.parametrize("name", SKIPPING)
def test_a_row_without_samples_is_refused(name: str) -> None:
    f, x, v = small(name)
    with pytest.raises(TooManyFailuresError, match=r"row 2 .* only [01] came back"):
        estimate(VARIANTS[name].make(num_samples=3, sigma=SIGMA), Chosen(f, 4, 2, slice(None)), x, v)


LEAVE_ONE_OUT = [
    EvolutionStrategy(3, SIGMA, antithetic=False),
    ScoreFunction(num_samples=3),
    PerturbedOptimizer(3, SIGMA),
    ControlVariate(sigma=SIGMA, num_samples=3, antithetic=False),
]


@pytest.mark.parametrize("estimator", LEAVE_ONE_OUT, ids=lambda e: type(e).__name__)
def test_a_baseline_of_others_needs_two(estimator: ndgrad.Estimator) -> None:
    x = torch.zeros(4, 5)
    one_left = Chosen(torch.sin, len(x), row=3, samples=slice(1, None))
    with pytest.raises(
        TooManyFailuresError, match=r"row 3 of the inputs needs at least 2 of its 3 samples.*1 came"
    ):
        estimate(estimator, one_left, x, torch.ones(4, 5))
    two_left = Chosen(torch.sin, len(x), row=3, samples=slice(2, None))
    assert estimate(copy.deepcopy(estimator), two_left, x, torch.ones(4, 5)).isfinite().all()


@pytest.mark.parametrize("antithetic", [True, False])
def test_one_that_is_enough(antithetic: bool) -> None:
    x, v = torch.randn(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    f = Chosen(torch.sin, len(x), row=0, samples=slice(1, 4))
    estimator = EvolutionStrategy(4, SIGMA, antithetic, baseline=None if antithetic else "fx")
    grad = estimate(estimator, f, x, v)
    torch.manual_seed(5)
    torch.randn(2, 3, dtype=torch.float64)
    eps = ndgrad.sampling.DIRECTIONS["orthogonal"](4, x, None)[0, 0]
    below = torch.sin(x[0] - SIGMA * eps) if antithetic else torch.sin(x[0])
    slope = (torch.sin(x[0] + SIGMA * eps) - below).sum() / (2 * SIGMA if antithetic else SIGMA)
    torch.testing.assert_close(grad[0], slope * eps)


@pytest.mark.parametrize("directions", ["orthogonal", "gaussian"])
@pytest.mark.parametrize("num_samples", [4, 11])
def test_least_squares_equals_the_pseudo_inverse_of_what_is_left(directions: str, num_samples: int) -> None:
    """With fewer directions than inputs in some rows and more in others."""
    n, B = 5, 40
    x, v = torch.randn(B, n, dtype=torch.float64), torch.randn(B, 2, dtype=torch.float64)
    matrix = torch.randn(n, 2, dtype=torch.float64)
    f = Failing(lambda z: torch.sin(z) @ matrix, B, rate=0.2)
    f.generator.manual_seed(4)
    torch.manual_seed(1)
    grad = estimate(LeastSquares(num_samples, SIGMA, directions), f, x, v)
    torch.manual_seed(1)
    eps = ndgrad.sampling.DIRECTIONS[directions](num_samples, x, None)
    kept = f.kept(paired=True)
    for b in range(B):
        E = eps[kept[:, b], b]
        w = ((f.f(x[b] + SIGMA * E) - f.f(x[b] - SIGMA * E)) / 2) @ v[b]
        torch.testing.assert_close(grad[b], torch.linalg.pinv(E) @ w / SIGMA * max(1, n / len(E)))


def test_least_squares_stays_exact_on_affine_functions() -> None:
    x, v = torch.randn(50, 4, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    matrix = torch.randn(4, 2, dtype=torch.float64)
    f = Failing(lambda z: z @ matrix - 2.0, len(x))
    torch.testing.assert_close(estimate(LeastSquares(S, SIGMA), f, x, v), v @ matrix.T)
    assert f.kept(paired=True).sum(0).unique().numel() > 3


def test_control_variate_stays_exact_with_an_exact_network() -> None:
    """Residuals are 0, and what is missing of them is replaced by the network."""
    half = torch.randn(4, 4, dtype=torch.float64)
    f = lambda z: ((z @ (half + half.T)) * z).sum(1, keepdim=True)  # noqa: E731
    x, v = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 1, dtype=torch.float64)
    estimator = ControlVariate(Given(f), SIGMA, S, optimizer=STILL)
    failing = Failing(f, len(x))
    for _ in range(3):
        grad = estimate(estimator, failing, x, v)
    torch.testing.assert_close(estimator.coefficient, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(grad, 2 * v * (x @ (half + half.T)))


@pytest.mark.parametrize("antithetic", [True, False])
def test_control_variate_is_unbiased_whatever_the_network_is(antithetic: bool) -> None:
    x, v = rows([0.3, -0.5, 0.8]), rows([0.7, -1.3])
    slope = torch.tensor([[1.5, 0.2], [-0.4, 0.8], [0.9, -1.1]], dtype=torch.float64)
    wrong = Given(lambda z: 2.5 * torch.sin(3 * z @ slope) + z[:, :2] ** 3 + 4.0)
    estimator = ControlVariate(
        wrong, SIGMA, num_samples=S, surrogate_samples=5, antithetic=antithetic, optimizer=STILL
    )
    estimate(estimator, lambda z: z @ slope, x[:2], v[:2])  # so that there is a network
    estimator._moments = torch.tensor([[1.1, -0.7], [0.8, 0.9]], dtype=torch.float64)
    grads = estimate(estimator.eval(), Failing(lambda z: z @ slope - 5.0, ROWS), x, v)
    assert_mean(grads, v[0] @ slope.T, "linear f, curved g")


@pytest.mark.parametrize("antithetic", [True, False])
def test_control_variate_regresses_on_what_is_left(antithetic: bool) -> None:
    """The moments of a call are means over the rows of means over their samples."""
    x, v = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    f, g = (lambda z: z[:, :2] ** 3 + 5.0), (lambda z: torch.sin(2 * z[:, 1:]) - 3.0)
    probes = []
    failing = Failing(lambda z: (probes.append(z), f(z))[1], len(x))
    estimator = ControlVariate(Given(g), SIGMA, 8, antithetic=antithetic, optimizer=STILL, replay=0)
    for _ in range(2):
        estimate(estimator, failing, x, v)
    z, kept = probes[-1].unflatten(0, (-1, len(x))), failing.kept(antithetic, call=1)
    expected = torch.zeros(2, 2, dtype=torch.float64)
    for b in range(len(x)):
        df, dg = (response(h(z[:, b]), kept[:, b], antithetic) for h in (f, g))
        expected += torch.stack([df * dg, dg * dg]).mean(1) / len(x)
    torch.testing.assert_close(estimator._moments, expected)


def response(values: Tensor, kept: Tensor, antithetic: bool) -> Tensor:
    """Return the response of one row's samples that are left: half differences, or less the mean of the others."""
    if antithetic:
        upper, lower = values.chunk(2)
        return ((upper - lower) / 2)[kept]
    left = values[kept]
    others = [torch.cat([left[:s], left[s + 1 :]]).mean(0) for s in range(len(left))]
    return left - torch.stack(others)


@pytest.mark.parametrize("num_guides", [1, 2])
def test_guided_is_unbiased_when_guides_fail_like_others(num_guides: int) -> None:
    n = 6
    slope = torch.randn(n, 2, dtype=torch.float64)
    guess = slope + 0.5 * torch.randn(n, 2, dtype=torch.float64)
    x, v = rows([0.2] * n), rows([0.7, -1.3])
    estimator = GuidedEvolutionStrategy(
        Given(lambda z: z @ guess), SIGMA, 5, num_guides, optimizer=STILL, replay=0
    )
    f = lambda z: z @ slope + 2.0  # noqa: E731
    estimate(estimator, f, x[:2], v[:2])
    failing = Failing(f, ROWS, rate=0.05)
    failing.fail = lambda shape: _spare(Failing.fail(failing, shape))
    grads = estimate(estimator, failing, x, v)
    assert not failing.kept(paired=True)[0].all()
    assert_mean(grads, v[0] @ slope.T, "mean")


def _spare(lost: Tensor) -> Tensor:
    """Give rows that would lose all pairs none to lose."""
    hopeless = lost.unflatten(0, (2, -1)).any(0).all(0)
    return lost & ~hopeless


BASELINE_LOST = {
    "perturbed": lambda S: PerturbedOptimizer(S, SIGMA, baseline="fx"),
    "score": lambda S: ScoreFunction(
        lambda loc: Independent(Normal(loc, SIGMA), 1), num_samples=S, baseline="fx"
    ),
}


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("name", BASELINE_LOST)
def test_a_lost_value_is_replaced_by_the_other_samples(name: str, lossy: bool) -> None:
    """Where the baseline f(x) itself failed the variance is that of leave-one-out, elsewhere that of the value."""
    n, num_samples = 4, 12
    g = torch.linspace(-0.7, 1.1, n, dtype=torch.float64)
    gone = torch.arange(ROWS) % 3 == 1
    f = Failing(lambda z: z @ g.unsqueeze(1) + 9.0, ROWS, rate=0.2 if lossy else 0.0)
    function = lambda z: lose(f(z), gone) if len(z) == ROWS else f(z)  # noqa: E731
    grads = estimate(BASELINE_LOST[name](num_samples), function, rows([0.2] * n), rows([-0.6]))
    assert_mean(grads, -0.6 * g, "mean")
    exact = (n + 1) / (f.kept(paired=False).sum(0) - gone.long())
    ratio = (grads + 0.6 * g).square().sum(1) / (0.36 * g.square().sum()) / exact
    for part in (gone, ~gone):
        assert_mean(ratio[part].unsqueeze(1), 1.0, "variance")


@pytest.mark.parametrize("name", BASELINE_LOST)
def test_a_lost_value_with_a_single_sample_is_refused(name: str) -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.append(z)
        return lose(torch.sin(z), torch.tensor([False, len(calls) > 1]))

    with pytest.raises(TooManyFailuresError, match="row 1 of the inputs needs at least 2 of its 1 samples"):
        estimate(BASELINE_LOST[name](1), f, x, torch.ones_like(x))


@pytest.mark.parametrize("baseline", ["loo", "fx", None])
def test_value_and_gradient_of_a_family(baseline: str | None) -> None:
    matrix = torch.randn(3, 2, dtype=torch.float64)
    family = lambda loc: Independent(Normal(loc, SIGMA), 1)  # noqa: E731
    estimator = ScoreFunction(family, num_samples=S, baseline=baseline)
    f = Failing(lambda z: z @ matrix + 2.0, ROWS)
    x, v = rows([0.2, -0.4, 0.9]).clone().requires_grad_(), rows([0.7, -1.6])
    y = estimator(f, x)
    assert_mean(y.detach(), (x[0] @ matrix + 2.0).detach(), "value")
    spread = (y.detach() - x.detach() @ matrix - 2.0).square() / (SIGMA**2 * matrix.square().sum(0))
    assert_mean(spread * f.kept(paired=False).sum(0).unsqueeze(1), 1.0, "variance of the value")
    assert_mean(torch.autograd.grad(y, x, v)[0], v[0] @ matrix.T, "gradient")


def test_the_value_of_a_perturbed_optimizer_is_the_mean_of_what_is_left() -> None:
    x = torch.randn(30, 3, dtype=torch.float64)
    f = Failing(torch.sin, len(x))
    y = PerturbedOptimizer(9, SIGMA)(f, x)
    torch.manual_seed(5)
    torch.randn(30, 3, dtype=torch.float64)
    draws = x + SIGMA * torch.randn(9, 30, 3, dtype=torch.float64)
    kept = f.kept(paired=False)
    expected = torch.stack([torch.sin(draws[kept[:, b], b]).mean(0) for b in range(len(x))])
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("lambd", [0.7, "adaptive"])
def test_implicit_mle_drops_partners(lambd: float | str) -> None:
    """Of the identity every draw has the difference ``lambda v`` in all n entries."""
    x, v = torch.randn(30, 3, dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)
    estimator = ImplicitMLE("max", lambd, S, SIGMA)
    f = Failing(lambda z: z, len(x))
    torch.testing.assert_close(estimate(estimator, f, x, v), v)
    assert len(f.lost) == 2
    assert estimator.changes == pytest.approx(0.9 + 0.1 * 3 if lambd == "adaptive" else 1.0)
    z = x.clone()
    f = Failing(lambda z: torch.full_like(z, 4.0), len(x))
    torch.testing.assert_close(estimator(f, z), torch.full_like(z, 4.0))


@pytest.mark.parametrize("name", ["es-adaptive", "ls-adaptive"])
def test_adaptive_sigma_compares_the_pairs_that_are_left(name: str) -> None:
    f, x, v = small(name)
    probes: list[Tensor] = []
    failing = Failing(lambda z: (probes.append(z), f(z))[1], len(x))
    estimator = VARIANTS[name].make(num_samples=9, sigma=SIGMA)
    estimate(estimator, failing, x, v)
    upper, lower = f(probes[-1]).unflatten(0, (2, 9, len(x)))
    kept = failing.kept(paired=True)
    odd, even = (upper - lower)[kept] / 2, ((upper + lower) / 2 - f(x))[kept]
    assert isinstance(estimator.sigma, AdaptiveSigma)
    assert estimator.sigma.lowest == pytest.approx((even.square().sum() / odd.square().sum()).item())


FITS = {
    "value": {"replay": 2},
    "difference": {"match": "difference", "replay": 2},
    "region": {"replay": 3, "trust_region": 1.5},
    "patience": {"patience": 3, "fit_steps": 20},
}


@pytest.mark.parametrize("default_network", [True, False])
@pytest.mark.parametrize("options", FITS.values(), ids=FITS.keys())
def test_a_fit_is_that_to_what_is_left(options: dict[str, object], default_network: bool) -> None:
    """Around each input the same samples fail, so that those that are left can be handed over by themselves."""
    kept, lost = torch.tensor([0, 1, 3, 5, 6, 7, 9, 10]), torch.tensor([2, 4, 8])
    network = None if default_network else nn.Linear(3, 2)
    torch.manual_seed(2)
    estimators = [DiffBypass(copy.deepcopy(network), SIGMA, 0, **options) for _ in range(2)]
    grads = []
    for call in range(3):
        torch.manual_seed(call)
        x, v = torch.randn(4, 3), torch.randn(4, 2)
        probes = x + SIGMA * torch.randn(11, 4, 3)
        values = torch.stack([torch.sin(2 * probes).sum(-1), probes.prod(-1)], -1)
        values[lost] = torch.nan
        for estimator, part in zip(estimators, (slice(None), kept), strict=True):
            torch.manual_seed(call)
            estimator.observe((x,), (probes[part].flatten(0, 1),), (values[part].flatten(0, 1),))
            grads.append(estimate(estimator, lambda z: z[:, :2], x, v))
            assert estimator.quality.value_error > 0
    # a fifth of 11 is a fifth of 8 or two samples less: two are held out of both
    torch.testing.assert_close(grads[::2], grads[1::2], rtol=0, atol=0)
    assert repr(estimators[0].quality) == repr(estimators[1].quality)


def test_quality_and_centred_differences_of_unequal_numbers() -> None:
    B, num_samples = 5, 8
    f, g = (lambda z: torch.sin(2 * z[:, :2])), (lambda z: z[:, 1:] ** 2)
    x, v = torch.randn(B, 3, dtype=torch.float64), torch.randn(B, 2, dtype=torch.float64)
    probes: list[Tensor] = []
    failing = Failing(lambda z: (probes.append(z), f(z))[1], B)
    estimator = DiffBypass(Given(g), SIGMA, num_samples, optimizer=STILL, match="difference", replay=1)
    estimate(estimator, failing, x, v)
    z = torch.cat([probes[-1].unflatten(0, (-1, B)), x.unsqueeze(0)])
    kept = torch.cat([failing.kept(paired=False), torch.ones(1, B, dtype=torch.bool)])
    assert kept.sum(0).unique().numel() > 1
    targets, errors = [], []
    for b in range(B):
        targets.append(f(z[kept[:, b], b]))
        errors.append(g(z[kept[:, b], b]) - targets[-1])
    spread = lambda parts: torch.cat([p - p.mean(0) for p in parts]).norm()  # noqa: E731
    every = torch.cat(targets)
    expected = torch.cat(errors).norm() / (every - every.mean(0)).norm()
    assert estimator.quality.value_error == pytest.approx(expected.item())
    assert estimator.quality.gradient_error == pytest.approx((spread(errors) / spread(targets)).item())
    assert estimator.quality.loss == pytest.approx((spread(errors) ** 2 / every.numel()).item())


def test_held_out_samples_are_those_that_came_back() -> None:
    """All that would have been held out of row 1 failed; the fit holds out others in their place."""
    f, x, v = small("bypass")
    estimator = DiffBypass(nn.Linear(5, 2).double(), SIGMA, 6, 30, patience=2, replay=1)
    estimate(estimator, Chosen(f, len(x), row=1, samples=slice(0, 4)), x, v)
    samples = estimator.bypass.fit.replay[0]
    assert all(len(Batch([part]).targets[0]) == 8 for part in [samples.first(2)])
    assert len(Batch([samples]).targets[0]) == 4 * 7 - 4
    message = "row 1 of the inputs needs at least 3 of its 7 samples, but only 2 came back"
    with pytest.raises(TooManyFailuresError, match=message):
        estimate(estimator, Chosen(f, len(x), row=1, samples=slice(0, 5)), x, v)


def test_a_network_in_the_place_of_the_function_needs_one_sample_of_each_row() -> None:
    x = torch.randn(4, 5)
    build = lambda: DiffBypass(nn.Linear(5, 5), SIGMA, 3, forward="bypass")  # noqa: E731
    one_left = Chosen(torch.sin, len(x), row=1, samples=slice(1, None))
    assert estimate(build(), one_left, x, torch.ones(4, 5)).isfinite().all()
    with pytest.raises(TooManyFailuresError, match="row 1 of the inputs needs at least 1 of its 3 samples"):
        estimate(build(), Chosen(torch.sin, len(x), row=1, samples=slice(None)), x, torch.ones(4, 5))


def test_samples_around_chosen_inputs_keep_their_marks() -> None:
    good = torch.tensor([[True, False, True], [True, True, False]])
    targets = torch.where(good, torch.arange(6.0).reshape(2, 3), torch.nan).flatten()
    samples = Samples((torch.arange(6.0),), (targets,), (torch.arange(3.0),)).failed_last(1)
    batch = Batch([samples.of_centers(torch.tensor([False, True, True]))])
    assert batch.targets[0].tolist() == [4, 2]
    assert batch.inputs[0].tolist() == [4, 2]


@pytest.mark.parametrize(
    "build",
    [
        lambda: DiffBypass(nn.Linear(5, 2).double(), SIGMA, 8, replay=2, match="difference"),
        lambda: ControlVariate(nn.Linear(5, 2).double(), SIGMA, 8),
        lambda: GuidedEvolutionStrategy(nn.Linear(5, 2).double(), SIGMA, 8),
    ],
    ids=["bypass", "control", "guided"],
)
def test_state_with_failures_continues(build: Callable[[], ndgrad.Estimator]) -> None:
    f, x, v = small("bypass")
    fragile = lambda z: lose(f(z), (1e4 * z.sum(1)).sin() > 0.7) if len(z) > len(x) else f(z)  # noqa: E731
    first = build()
    assert_state_continues(lambda: copy.deepcopy(first), fragile, x, v)


def test_replayed_marks_move_with_the_module() -> None:
    f, x, v = small("bypass", torch.float32)
    estimator = DiffBypass(nn.Linear(5, 2), SIGMA, 8, replay=2)
    estimate(estimator, Failing(f, len(x)), x, v)
    estimator.double()
    (good,) = estimator.bypass.fit.replay[0].good
    assert good.dtype == torch.bool
    assert estimate(estimator, Failing(f, len(x)), x.double(), v.double()).isfinite().all()
    file = io.BytesIO()
    torch.save(estimator.state_dict(), file)
    file.seek(0)
    torch.load(file, weights_only=True)


def test_mixture_offers_the_bypass_what_came_back() -> None:
    matrix = torch.tensor([[1.5], [-0.7], [0.4]])
    descent = functools.partial(torch.optim.SGD, lr=0.3)
    bypass = DiffBypass(nn.Linear(3, 1), 1.0, 0, fit_steps=300, optimizer=descent)
    estimator = Mixture(EvolutionStrategy(9, 1.0, directions="gaussian"), bypass)
    x, v = torch.randn(6, 3), torch.randn(6, 1)
    grad = estimate(estimator, Failing(lambda z: z @ matrix + 1.0, len(x)), x, v)
    torch.testing.assert_close(bypass.network.weight.detach(), matrix.T, rtol=0, atol=1e-3)
    assert grad.isfinite().all()
    assert 0 <= estimator.weight <= 1


def test_partly_nan_is_no_failure() -> None:
    """It is not made by the evaluation of a wrapped function, and shows in the gradient."""
    x, v = torch.zeros(2, 3), torch.ones(2, 2)

    def f(z: Tensor) -> Tensor:
        y = z[:, :2].clone()
        y[-1, 0] = torch.nan  # of row 1
        return y

    grad = estimate(EvolutionStrategy(4, SIGMA), f, x, v)
    assert grad[0].isfinite().all()
    assert grad[1].isnan().all()


def test_rows_that_came_back() -> None:
    nan = torch.nan
    two = (torch.tensor([[nan, nan], [1.0, nan], [nan, nan]]), torch.tensor([nan, nan, 2.0]))
    assert came_back(two).tolist() == [False, True, True]
    assert came_back((torch.zeros(3, 0), two[1])).tolist() == [False, False, True]
    assert came_back((torch.zeros(3, 0), torch.zeros(3))) is None
    assert came_back((torch.zeros(0, 2),)) is None
    assert came_back((torch.zeros(3, 0),)) is None
    assert came_back((torch.tensor([torch.inf, -torch.inf]),)) is None
    assert came_back((torch.tensor([[nan, 1.0], [2.0, 3.0]]),)) is None
    assert came_back((torch.arange(3),)) is None


def test_mean_and_baseline_of_what_is_left() -> None:
    good = torch.tensor([[True, True], [False, True], [True, False], [True, True]])
    values = torch.randn(4, 2, 3, dtype=torch.float64)
    lost = torch.where(good.unsqueeze(-1), values, torch.nan)
    assert good_samples((lost,), least=3).equal(good)
    with pytest.raises(
        TooManyFailuresError, match=r"row 0 .* at least 4 of its 4 samples, but only 3 came back"
    ):
        good_samples((lost,), least=4)
    means = torch.stack([values[good[:, b], b].mean(0) for b in range(2)])
    torch.testing.assert_close(reweigh(lost, good).mean(0), means, rtol=1e-13, atol=0)
    others = leave_one_out(lost, good)
    for s, b in good.nonzero().tolist():
        rest = good[:, b].clone()
        rest[s] = False
        torch.testing.assert_close(others[s, b], values[rest, b].mean(0))


def test_less_baseline_of_several_outputs() -> None:
    values: Rows = (torch.randn(4, 2), torch.randn(4, 2, 3))
    baseline: Rows = (torch.tensor([5.0, torch.nan]), torch.tensor([[1.0, 2, 3], [torch.nan] * 3]))
    for y, b, c in zip(values, baseline, less_baseline(values, baseline, None), strict=True):
        torch.testing.assert_close(c[:, 0], y[:, 0] - b[0])
        torch.testing.assert_close(c[:, 1], (y - leave_one_out(y))[:, 1])
