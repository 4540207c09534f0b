"""Guided wherever it matters: in its first call there is no network, and the estimator is an evolution strategy."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

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
from ndgrad import EvolutionStrategy, GuidedEvolutionStrategy
from ndgrad.sampling import orthogonal_to
from ndgrad.surrogates import MapSurrogate
from ndgrad.testing import assert_mean, check_estimator, estimate

SIGMA = 0.3
ROWS = 20_000


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def rows(values: list[float], count: int = ROWS) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(count, -1)


def warm(estimator: GuidedEvolutionStrategy, f: object, x: Tensor, calls: int = 1) -> GuidedEvolutionStrategy:
    for _ in range(calls):
        estimate(estimator, f, x + 0.1 * torch.randn_like(x), torch.randn_like(f(x)))
    return estimator


def guided_by(g: Callable[[Tensor], Tensor], x: Tensor, **options: object) -> GuidedEvolutionStrategy:
    """Take a function for the fitted network, whatever is fitted."""
    estimator = GuidedEvolutionStrategy(Given(g), **({"sigma": SIGMA, "optimizer": STILL} | options))
    return warm(estimator, g, x[:2].clone()).eval()


def relative_variance(grads: Tensor, gradient: Tensor) -> Tensor:
    return (grads - gradient).square().sum(1, keepdim=True) / gradient.square().sum()


def misses(n: int, k: int, share: float) -> tuple[Tensor, Tensor]:
    """Return a gradient (n,) and k orthonormal guides (n, k) that hold the given share of its square."""
    frame = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
    inside = frame[:, :k] @ torch.linspace(0.4, 1.2, k, dtype=torch.float64)
    gradient = share**0.5 * inside / inside.norm() + (1 - share) ** 0.5 * frame[:, k]
    return 1.7 * gradient, frame[:, :k]


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
@pytest.mark.parametrize(("n", "S", "k"), [(6, 3, 1), (7, 5, 2), (5, 4, 3), (5, 6, 1), (6, 5, 1)])
def test_mean_and_variance_on_linear_functions(n: int, S: int, k: int, share: float) -> None:
    """((n - k)/(S - k) - 1) |g_perp|^2; left-over directions of a block as for orthogonal pairs."""
    gradient, guides = misses(n, k, share)
    x, v = torch.zeros(ROWS, n, dtype=torch.float64) + 0.2, rows([-1.6])
    f = lambda z: (z @ gradient).unsqueeze(1) + 2.5  # noqa: E731
    g = lambda z: z @ (guides * torch.arange(1.0, k + 1, dtype=torch.float64))  # noqa: E731
    estimator = guided_by(g, x, num_samples=S, num_guides=k)
    grads = estimate(estimator, lambda z: torch.cat([f(z)] * k, 1), x, v.expand(-1, k) / k)
    assert_mean(grads, -1.6 * gradient, "mean")
    d, r = n - k, (S - k) % (n - k)
    variance = d / (S - k) - 1 if n > S else (d / (S - k)) ** 2 * (r / d) * (1 - r / d)
    spread = relative_variance(grads, -1.6 * gradient)
    assert_mean(spread, variance * (1 - share), "variance")
    if share == 1.0:
        torch.testing.assert_close(grads, (-1.6 * gradient).expand_as(grads))


@pytest.mark.parametrize(("share", "factor"), [(0.0, 5 / 3), (0.4, 1.0), (0.7, 0.5)])
def test_guides_pay_where_they_hold_more_than_their_share_of_the_samples(share: float, factor: float) -> None:
    """Five pairs in nine dimensions, two of them guides: their break-even is 2/5 of the squared gradient."""
    n, S, k = 9, 5, 2
    gradient, guides = misses(n, k, share)
    f = lambda z: (z @ gradient).unsqueeze(1).expand(-1, k)  # noqa: E731
    x, v = torch.zeros(ROWS, n, dtype=torch.float64), rows([0.7 / k] * k)
    grads = estimate(guided_by(lambda z: z @ guides, x, num_samples=S, num_guides=k), f, x, v)
    assert_mean(relative_variance(grads, 0.7 * gradient), factor * (n / S - 1), "relative to unguided pairs")


@pytest.mark.parametrize(("n", "S", "k"), [(4, 3, 1), (6, 5, 2), (5, 9, 2)])
def test_cubic_with_coordinates_as_guides(n: int, S: int, k: int) -> None:
    """3 x^2 + 3 sigma^2 along guides, 3 x^2 + 3 sigma^2 n/(n - k + 2) in their complement."""
    x = rows(torch.linspace(-0.5, 0.9, n).tolist())
    v = rows(torch.linspace(1.4, -0.8, n).tolist())
    g = lambda z: torch.cat([z[:, :k] * torch.arange(1.0, k + 1), 0 * z[:, k:]], 1)  # noqa: E731
    grads = estimate(guided_by(g, x, num_samples=S, num_guides=k), lambda z: z**3, x, v)
    smoothing = torch.full((n,), 3 * SIGMA**2 * n / (n - k + 2), dtype=torch.float64)
    smoothing[:k] = 3 * SIGMA**2
    assert_mean(grads, v[0] * (3 * x[0] ** 2 + smoothing), "cubic")
    torch.testing.assert_close(grads[:, :k], (v * (3 * x**2 + smoothing))[:, :k])


def test_cubic_with_any_guide_in_two_dimensions() -> None:
    """Nothing is random there but signs: central differences along u and its normal, sigma sqrt(3) and sqrt(2) long."""
    u, normal = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    x, v = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    grad = estimate(guided_by(lambda z: z @ torch.stack([u, 0 * u], 1), x), lambda z: z**3, x, v)
    expected = torch.zeros_like(x)
    for direction, length in ((u, 3**0.5), (normal, 2**0.5)):
        slope = (
            3 * x**2 * direction + (length * SIGMA) ** 2 * direction**3
        )  # of each output, along the direction
        expected += (v * slope).sum(1, keepdim=True) * direction
    torch.testing.assert_close(grad, expected)


def test_step_function_with_a_coordinate_as_guide() -> None:
    """Twice the densities of a segment of half length sqrt(3) sigma, and of a ball in 4 dimensions, sqrt(5) sigma."""
    x, v = rows([0.5, 0.05, -0.2, 0.4, 0.75]), rows([1.9, -0.4, 0.8, 1.2, 0.7])
    grads = estimate(guided_by(lambda z: z * torch.eye(5)[0], x, num_samples=3), torch.sign, x, v)
    h, r = 3**0.5 * SIGMA, 5**0.5 * SIGMA
    expected = 16 / (3 * math.pi * r) * (1 - (x[0] / r) ** 2).clamp(min=0) ** 1.5
    expected[0] = 1 / h
    assert_mean(grads, v[0] * expected, "sign")
    grads = estimate(guided_by(lambda z: z * torch.eye(5)[0], x, num_samples=3), torch.sign, x + 0.03, v)
    assert_mean(grads[:, 0], 0.0, "sign out of reach")


def test_probes_are_the_singular_vectors_and_a_frame_of_their_complement() -> None:
    slopes = torch.randn(6, 4, dtype=torch.float64)
    seen = []

    def f(z: Tensor) -> Tensor:
        seen.append(z)
        return torch.sin(z @ slopes)

    x = torch.randn(3, 6, dtype=torch.float64)
    estimator = guided_by(lambda z: torch.sin(z @ slopes), x, num_samples=5, num_guides=2)
    estimate(estimator, f, x, torch.randn(3, 4, dtype=torch.float64))
    value, probes = seen
    assert len(value) == 3
    steps = probes.reshape(10, 3, 6) - x
    torch.testing.assert_close(steps[5:], -steps[:5])
    frame = (steps[:5] / SIGMA).transpose(0, 1)  # (B, S, n)
    norms = torch.tensor([3.0, 3.0, 6.0, 6.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(frame @ frame.mT, torch.diag(norms).expand(3, 5, 5))
    for row, point in zip(frame, x, strict=True):
        jacobian = torch.cos(point @ slopes).unsqueeze(1) * slopes.T  # (m, n)
        leading = torch.linalg.svd(jacobian).Vh[:2]
        torch.testing.assert_close((row[:2] @ leading.T).abs() / 3**0.5, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("S", [1, 3, 5, 8])
@pytest.mark.parametrize("k", [0, 2])
def test_directions_orthogonal_to_given_ones(k: int, S: int) -> None:
    """Orthogonal within blocks of n - k and to the given; each alone uniform on the sphere of the complement."""
    n = 5 + k
    fixed = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q[:k]
    eps = orthogonal_to(fixed.expand(ROWS, k, n), S, None)  # (S, B, n)
    assert eps.shape == (S, ROWS, n)
    torch.testing.assert_close(eps @ fixed.T, torch.zeros(S, ROWS, k, dtype=torch.float64))
    torch.testing.assert_close(eps.norm(dim=2), torch.full((S, ROWS), n**0.5, dtype=torch.float64))
    block = eps[:5].transpose(0, 1)
    torch.testing.assert_close(block @ block.mT, n * torch.eye(min(S, 5)).double().expand(ROWS, -1, -1))
    projector = torch.eye(n, dtype=torch.float64) - fixed.T @ fixed
    for one in (eps[0], eps[-1]):
        assert_mean(one, 0.0, "mean")
        assert_mean(one.unsqueeze(2) * one.unsqueeze(1), n / (n - k) * projector, "covariance")


def test_wide_inputs_have_the_same_law() -> None:
    """With few directions in many dimensions frames come from a Cholesky factor."""
    fixed = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q[:2]
    eps = orthogonal_to(fixed.expand(4000, 2, 12), 3, None)
    frame = eps.transpose(0, 1)
    torch.testing.assert_close(frame @ frame.mT, 12 * torch.eye(3).double().expand(4000, 3, 3))
    torch.testing.assert_close(eps @ fixed.T, torch.zeros(3, 4000, 2, dtype=torch.float64))
    projector = torch.eye(12, dtype=torch.float64) - fixed.T @ fixed
    assert_mean(eps[2].unsqueeze(2) * eps[2].unsqueeze(1), 1.2 * projector, "covariance")


def test_many_outputs_are_sketched() -> None:
    """Forty outputs of three slopes: all of them are found by k + 8 random combinations."""
    slopes = torch.randn(20, 3, dtype=torch.float64) @ torch.randn(3, 40, dtype=torch.float64)
    passes = []

    def g(z: Tensor) -> Tensor:
        y = z @ slopes
        if y.requires_grad:
            y.register_hook(lambda v: passes.append(v.clone()))
        return y

    x, v = torch.randn(4, 20, dtype=torch.float64), torch.randn(4, 40, dtype=torch.float64)
    estimator = guided_by(lambda z: z @ slopes, x, num_samples=4, num_guides=3)
    estimator.network.function = g
    torch.testing.assert_close(estimate(estimator, lambda z: z @ slopes, x, v), v @ slopes.T)
    assert len(passes) == 3 + 8
    assert len({tuple(p[0].tolist()) for p in passes}) == 11, "random ones, not unit vectors"
    few = guided_by(lambda z: z @ slopes[:, :11], x, num_samples=4, num_guides=3)
    passes.clear()
    few.network.function = lambda z: g(z)[:, :11]
    estimate(few, lambda z: z @ slopes[:, :11], x, v[:, :11])
    torch.testing.assert_close(
        torch.stack([p[:, :11] for p in passes], 1), torch.eye(11).double().expand(4, 11, 11)
    )


def test_rows_have_random_combinations_of_their_own_in_a_sketch() -> None:
    """The guide of a row does not depend on the others, but a common combination could miss a slope in all rows."""
    estimator = GuidedEvolutionStrategy(num_samples=3)
    v = estimator._cotangents(torch.zeros(50, 12), 9)
    assert v.shape == (9, 50, 12)
    assert v.std(1).min() > 0.5


@pytest.mark.parametrize("sigma", [torch.tensor([0.02, 0.3, 4.0]), (0.7,)])
def test_a_width_for_each_coordinate(sigma: object) -> None:
    """Guides are gradients in units of sigma: a network that is right leaves no variance, and no scale."""
    slope = torch.tensor([[1.5], [-0.4], [0.9]], dtype=torch.float64)
    f = lambda z: z @ slope  # noqa: E731
    x, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 1, dtype=torch.float64)
    torch.testing.assert_close(estimate(guided_by(f, x, sigma=sigma, num_samples=2), f, x, v), v @ slope.T)
    wrong = lambda z: torch.sin(z[:, :1]) + z[:, 2:]  # noqa: E731
    x, v = rows([0.3, -0.5, 0.8]), rows([0.7])
    grads = estimate(guided_by(wrong, x, sigma=sigma, num_samples=2), f, x, v)
    assert_mean(grads, 0.7 * slope[:, 0], "mean")


def test_laws_hold_with_guides() -> None:
    """Fitted on other inputs, in training: structure, linearity, independence of rows, means."""
    for options in ({}, {"num_guides": 2, "generator": torch.Generator().manual_seed(5)}):
        estimator = GuidedEvolutionStrategy(sigma=SIGMA, num_samples=3, fit_steps=1, **options)
        check_estimator(warm(estimator, lambda z: torch.sin(z[:, :2]), torch.randn(6, 5), calls=2))


def test_unbiased_in_training() -> None:
    """A model of its own for each row, fitted to its own samples: guides differ from row to row and call to call."""

    class PerRow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.zeros(4000, 4, 1, dtype=torch.float64))

        def forward(self, z: Tensor) -> Tensor:
            return torch.einsum("sbn,bnm->sbm", z.reshape(-1, 4000, 4), self.slope).flatten(0, 1)

    slope = torch.tensor([[1.5], [-0.4], [0.9], [-2.0]], dtype=torch.float64)
    f = lambda z: z @ slope + 0.1 * torch.randn(len(z), 1, dtype=torch.float64)  # noqa: E731
    x, v = rows([0.3, -0.5, 0.8, 0.1], 4000), rows([0.7], 4000)
    estimator = GuidedEvolutionStrategy(
        PerRow(), SIGMA, 2, fit_steps=3, optimizer=lambda p: torch.optim.Adam(p, lr=0.3)
    )
    for call in range(3):
        grads = estimate(estimator, f, x, v)
        assert_mean(grads, 0.7 * slope[:, 0], f"call {call}")
    assert estimator.network.slope.std(0).min() > 0.01


def test_less_error_than_an_evolution_strategy_where_the_network_can_learn() -> None:
    """A smooth function along a path, at equal evaluations; required is the fifth of its squared error."""
    matrix = torch.randn(16, 2) / 4

    def f(z: Tensor) -> Tensor:
        return torch.sin(2 * z @ matrix)

    def error(estimator: ndgrad.Estimator) -> float:
        torch.manual_seed(2)
        x, total = torch.randn(8, 16), 0.0
        for call in range(25):
            v = torch.randn(8, 2)
            z = x.clone().requires_grad_()
            (exact,) = torch.autograd.grad(f(z), z, v)
            difference = estimate(estimator, f, x, v) - exact
            total += float(difference.square().sum()) * (call >= 10)
            x = x + 0.05 * torch.randn_like(x)
        return total

    guided = GuidedEvolutionStrategy(sigma=0.1, num_samples=4, num_guides=2, fit_steps=20)
    assert error(guided) < 0.2 * error(EvolutionStrategy(4, 0.1))


def sines(z: Tensor) -> Tensor:
    return torch.stack([torch.sin(2 * z).sum(1), z[:, 0] * z[:, 1]], 1)  # (R, 2)


def points() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return tuple(torch.randn(4, k, generator=generator, dtype=torch.float64) for k in (3, 2))


def trained(**options: object) -> GuidedEvolutionStrategy:
    settings = {"sigma": SIGMA, "num_samples": 2, "fit_steps": 2}
    return warm(
        GuidedEvolutionStrategy(nn.Linear(3, 2).double(), **(settings | options)), sines, points()[0], 3
    )


def test_the_first_call_is_an_evolution_strategy() -> None:
    x, v = points()
    for S in (2, 7):
        grads = []
        for kind in (GuidedEvolutionStrategy, EvolutionStrategy):
            torch.manual_seed(6)
            grads.append(estimate(kind(num_samples=S, sigma=SIGMA), sines, x, v))
        torch.testing.assert_close(*grads)


def test_evaluations_of_every_call() -> None:
    box = ndgrad.wrap(sines, estimator=GuidedEvolutionStrategy(nn.Linear(3, 2), num_samples=3, num_guides=2))
    x = torch.randn(4, 3, requires_grad=True)
    for call in range(1, 4):
        box(x).sum().backward()
        assert box.num_evaluations == 4 * call * (1 + 6)


def test_eval_mode_learns_nothing_and_stays_guided() -> None:
    x, v = points()
    estimator = trained()
    before = copy.deepcopy(estimator.state_dict()["_extra_state"])
    grads = []
    for mode in (False, True):
        torch.manual_seed(8)
        grads.append(estimate(estimator.train(mode), sines, x, v))
        if not mode:
            after = estimator.state_dict()["_extra_state"]
            torch.testing.assert_close(after["fit"], before["fit"], rtol=0, atol=0)
    torch.testing.assert_close(*grads, rtol=0, atol=0)
    fresh = GuidedEvolutionStrategy(nn.Linear(3, 2), num_samples=3).eval()
    assert estimate(fresh, sines, x.float(), v.float()).isfinite().all()
    assert fresh.bypass.fit is None


def test_the_fit_gets_all_pairs_and_the_value_and_keeps_earlier_calls() -> None:
    x, v = points()
    estimator = GuidedEvolutionStrategy(nn.Linear(3, 2).double(), SIGMA, 2, replay=2)
    assert estimator.quality is None
    for _ in range(3):
        estimate(estimator, sines, x, v)
    assert len(estimator.bypass.fit.replay) == 2
    samples = estimator.bypass.fit.replay[-1]
    deviation = samples.inputs[0].reshape(5, 4, 3) - x
    torch.testing.assert_close(deviation[:2], -deviation[2:4])
    torch.testing.assert_close(deviation[4], torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(samples.targets[0], sines(samples.inputs[0]))
    assert estimator.quality.gradient_error > 0


def test_the_network_is_differentiated_in_eval_mode() -> None:
    """Dropout would turn the guides, and rows would leak through batch statistics."""
    x, v = points()
    network = nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)
    ).double()
    estimator = warm(GuidedEvolutionStrategy(network, SIGMA, 2), sines, x, 2)
    other = torch.cat([x[:1], x[1:] + 0.7])
    grads = []
    for inputs in (x, other):
        torch.manual_seed(8)
        grads.append(estimate(copy.deepcopy(estimator), sines, inputs, v)[0])
    torch.testing.assert_close(*grads)


def test_guides_are_fewer_than_inputs_and_outputs() -> None:
    """One input has no complement to spare, one output a single slope."""
    x, v = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    one = warm(GuidedEvolutionStrategy(nn.Linear(1, 1).double(), SIGMA, 3), lambda z: 2.5 * z, x)
    torch.testing.assert_close(estimate(one, lambda z: 2.5 * z, x, v), 2.5 * v)
    x = torch.randn(5, 4, dtype=torch.float64)
    for m, k in ((1, 1), (3, 3), (6, 3)):
        slopes = torch.randn(4, m, dtype=torch.float64)
        estimator = guided_by(lambda z, slopes=slopes: z @ slopes, x, num_samples=7, num_guides=6)
        y = x @ slopes
        guides = estimator._guides((x,), (y,), x, SIGMA)
        assert guides.shape == (5, k, 4)
        torch.testing.assert_close(guides @ guides.mT, torch.eye(k).double().expand(5, k, k))


def test_a_flat_network_does_no_harm() -> None:
    x, v = rows([0.3, -0.5, 0.8]), rows([0.7, -1.3])
    slope = torch.randn(3, 2, dtype=torch.float64)
    grads = estimate(guided_by(lambda z: 0 * z[:, :2], x, num_samples=2), lambda z: z @ slope, x, v)
    assert_mean(grads, v[0] @ slope.T, "mean")


def test_probing_in_forward_keeps_each_call_s_directions() -> None:
    assert_calls_keep_their_network(trained(), sines, *points())


def test_structured_and_several_inputs() -> None:
    """A convolutional network gets its maps as maps; several inputs with widths of their own are guided together."""
    estimator = GuidedEvolutionStrategy(sigma=SIGMA, num_samples=2, fit_steps=1)
    x = torch.randn(2, 9, 10)
    for _ in range(3):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(estimator(torch.sign, x).square().sum() * 0.7, x)
        assert grad.shape == x.shape
    assert isinstance(estimator.network, MapSurrogate)

    slope = torch.randn(3, 1, dtype=torch.float64)
    f = lambda a, b: (a @ slope + b.flatten(1).sum(1, keepdim=True), b * 2)  # noqa: E731
    two = GuidedEvolutionStrategy(sigma=(0.3, 2.0), num_samples=7, num_guides=2)  # 3 + 4 inputs: exact
    a = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    v = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 2, 2, dtype=torch.float64)
    for _ in range(3):
        grads = torch.autograd.grad(two(f, a, b), (a, b), v)
        torch.testing.assert_close(grads, (v[0] @ slope.T, v[0].unsqueeze(2) + 2 * v[1]))


def test_class_logits_are_decoded() -> None:
    """The guide is the steepest direction of the expected indices, not of the logits."""
    logits = nn.Sequential(nn.Linear(3, 10), nn.Unflatten(1, (5, 2))).double()  # (R, 5, 2)
    f = lambda z: z[:, :2].abs().round().clamp(max=4)  # noqa: E731
    x = torch.randn(4, 3, dtype=torch.float64)
    estimator = warm(GuidedEvolutionStrategy(logits, sigma=0.4, num_samples=3), f, x, 3)
    classes = torch.arange(5.0, dtype=torch.float64).view(1, 5, 1)
    expected_index = lambda z: (estimator.network(z).softmax(1) * classes).sum(1)  # noqa: E731
    for point, guide in zip(x, estimator._guides((x,), (f(x),), x, 0.4)[:, 0], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda z: expected_index(z[None])[0], point)  # (2, 3)
        steepest = torch.linalg.svd(jacobian).Vh[0]
        torch.testing.assert_close(guide.outer(guide), steepest.outer(steepest))


def test_state_dict_continues_identically_even_in_a_default_network_not_yet_built() -> None:
    def build() -> GuidedEvolutionStrategy:
        return GuidedEvolutionStrategy(num_samples=3, replay=2, generator=torch.Generator().manual_seed(5))

    assert_state_continues(build, sines, *points())
    unused = GuidedEvolutionStrategy(num_samples=3)
    unused.load_state_dict(GuidedEvolutionStrategy(num_samples=3).state_dict())
    assert unused.network is None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_go_on_alike_and_apart(clone: object) -> None:
    x, v = points()
    original = trained()
    twin = clone(original)
    grads = []
    for estimator in (original, twin):
        torch.manual_seed(9)
        grads.append(estimate(estimator, sines, x, v))
    torch.testing.assert_close(*grads, rtol=0, atol=0)
    assert twin.network is not original.network


def test_a_generator_isolates_directions_and_sketch() -> None:
    x, v = torch.randn(4, 20), torch.randn(4, 12)
    f = lambda z: torch.sin(z[:, :12])  # noqa: E731
    source = warm(GuidedEvolutionStrategy(num_samples=3, generator=torch.Generator().manual_seed(5)), f, x)
    state, grads = torch.get_rng_state(), []
    for seed in (1, 2):
        torch.set_rng_state(state)
        grads.append(estimate(copy.deepcopy(source), f, x, v))
        torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
        state = torch.Generator().manual_seed(seed).get_state()
    torch.testing.assert_close(*grads, rtol=0, atol=0)


def test_to_another_dtype_and_back() -> None:
    x, v = points()
    estimator = trained().float()
    assert GuidedEvolutionStrategy().float().network is None
    assert estimate(estimator, sines, x.float(), v.float()).dtype == torch.float32
    assert estimate(estimator, sines, x, v).dtype == torch.float64
    assert estimate(estimator, sines, x.bfloat16(), v.bfloat16()).dtype == torch.bfloat16


def test_empty_batch_and_hidden_parameters() -> None:
    x = torch.zeros(0, 3, requires_grad=True)
    estimator = GuidedEvolutionStrategy(nn.Linear(3, 2))
    assert torch.autograd.grad(estimator(sines, x).sum(), x)[0].shape == (0, 3)
    assert list(estimator.parameters()) == []
    assert estimator.bypass.fit is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"sigma": 0}, "sigma must be"),
        ({"num_samples": 0}, "num_samples must be"),
        ({"num_guides": 0}, "num_guides must be"),
        ({"num_samples": 3, "num_guides": 3}, "more than the num_guides=3 directions.*got 3"),
        ({"fit_steps": 0}, "fit_steps must be"),
        ({"replay": -1}, "replay must be"),
        ({"match": "slope"}, "match must be"),
    ],
)
def test_bad_arguments(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidedEvolutionStrategy(**bad)


def test_nothing_to_differentiate() -> None:
    assert_nothing_to_differentiate_is_zeros(lambda: GuidedEvolutionStrategy(num_samples=3))


def test_repr() -> None:
    text = repr(GuidedEvolutionStrategy(sigma=0.3))
    assert "surrogate=default, sigma=0.3, num_samples=10, num_guides=1, fit_steps=10, replay=10" in text
