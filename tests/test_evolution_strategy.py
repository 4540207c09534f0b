from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from ndgrad import EvolutionStrategy, ScoreFunction
from ndgrad.sampling import DIRECTIONS, FOURTH_MOMENT
from ndgrad.testing import assert_mean, estimate


@pytest.mark.parametrize("law", DIRECTIONS)
@pytest.mark.parametrize("S", [3, 11])
def test_directions_have_unit_covariance_and_their_fourth_moment(law: str, S: int) -> None:
    n = 4
    torch.manual_seed(0)
    eps = DIRECTIONS[law](S, torch.zeros(20_000, n, dtype=torch.float64), None)  # (S, B, n)
    assert eps.shape == (S, 20_000, n)
    for s in (0, S - 1):
        e = eps[s]
        assert_mean(e, 0.0, "mean")
        assert_mean(e.unsqueeze(1) * e.unsqueeze(2), torch.eye(n, dtype=torch.float64), "covariance")
        assert_mean(e**4, FOURTH_MOMENT[law](n), "fourth moment")


def test_orthogonal_blocks() -> None:
    n = 4
    eps = DIRECTIONS["orthogonal"](10, torch.zeros(3, n, dtype=torch.float64), None).transpose(
        0, 1
    )  # (B, S, n)
    for block in (eps[:, :4], eps[:, 4:8], eps[:, 8:]):
        size = block.shape[1]
        gram = block @ block.transpose(1, 2)
        torch.testing.assert_close(gram, n * torch.eye(size, dtype=torch.float64).expand(3, -1, -1))
    assert (eps[0] - eps[1]).abs().max() > 0.1


def test_orthogonal_frames_are_haar() -> None:
    """Without the sign correction every frame would have R's signs as LAPACK leaves them: a biased first entry."""
    eps = DIRECTIONS["orthogonal"](3, torch.zeros(20_000, 3, dtype=torch.float64), None)  # (S, B, n)
    for s in range(3):
        for i in range(3):
            assert_mean(eps[s, :, i : i + 1], 0.0, f"direction {s}, entry {i}")
    assert_mean(torch.linalg.det(eps.transpose(0, 1)).unsqueeze(1), 0.0, "orientation")


def test_fixed_norms() -> None:
    x = torch.zeros(5, 7)
    for law in ("orthogonal", "sphere", "rademacher"):
        torch.testing.assert_close(DIRECTIONS[law](4, x, None).norm(dim=-1), torch.full((4, 5), 7**0.5))


def test_n_orthogonal_pairs_are_exact_on_affine_functions() -> None:
    x, v = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    matrix = torch.randn(5, 2, dtype=torch.float64)
    grad = estimate(EvolutionStrategy(10, 0.3), lambda z: z @ matrix + 4.0, x, v)
    torch.testing.assert_close(grad, v @ matrix.T)


def test_equal_to_the_score_function_draw_by_draw() -> None:
    """With Gaussian directions without pairs the two are the same estimator (an independent implementation)."""
    x, v = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    matrix = torch.randn(5, 4, dtype=torch.float64)
    for baseline in ("loo", "fx", None):
        grads = []
        for estimator in (
            EvolutionStrategy(6, 0.3, antithetic=False, directions="gaussian", baseline=baseline),
            ScoreFunction(num_samples=6, sigma=0.3, baseline=baseline),
        ):
            torch.manual_seed(8)
            grads.append(estimate(estimator, lambda z: torch.sin(z) @ matrix, x, v))
        torch.testing.assert_close(*grads)


def test_a_baseline_with_pairs_is_refused() -> None:
    for baseline in ("loo", "fx"):
        with pytest.raises(ValueError, match="antithetic"):
            EvolutionStrategy(baseline=baseline)
    assert EvolutionStrategy(baseline=None).baseline is None
    assert EvolutionStrategy().baseline is None
    assert EvolutionStrategy(antithetic=False).baseline == "loo"


def test_one_sample_has_no_other() -> None:
    with pytest.raises(ValueError, match="num_samples >= 2"):
        EvolutionStrategy(1, antithetic=False)
    EvolutionStrategy(1, antithetic=False, baseline="fx")


def test_sobol_points_are_spread_evenly() -> None:
    """Eight points: one in each eighth of every coordinate, and one in each box of area 1/8 of the first two."""
    eps = DIRECTIONS["sobol"](8, torch.zeros(5, 3, dtype=torch.float64), None)  # (S, B, n)
    u = torch.special.ndtr(eps)
    each = torch.arange(8.0, dtype=torch.float64).view(8, 1, 1).expand(8, 5, 3)
    torch.testing.assert_close((8 * u).floor().sort(0).values, each)
    for cells in (1, 2, 4, 8):
        box = (cells * u[..., 0]).floor() * (8 // cells) + (8 // cells * u[..., 1]).floor()  # (S, B)
        torch.testing.assert_close(box.sort(0).values, each[..., 0])


def test_sobol_rows_are_scrambled_by_themselves() -> None:
    """Not only shifted: the lower digits of a row's points are permuted, which a shift by itself leaves in order."""
    eps = DIRECTIONS["sobol"](4, torch.zeros(400, 1, dtype=torch.float64), None)  # (S, B, 1)
    digits = (torch.special.ndtr(eps[..., 0]) * 2**20).floor().long()  # (S, B)
    jumps = digits ^ digits[:1]
    assert len(set(jumps[1].tolist())) > 390
    assert ((jumps[1] >> 19) == 1).all()


def sobol_pair_moments(first_difference: int) -> tuple[float, float]:
    """E[e e'] and E[e^2 e'^2] of normals whose uniforms have digits that first differ at the given place."""
    cells = 2**first_difference
    edges = torch.special.ndtri(torch.arange(cells + 1, dtype=torch.float64) / cells)
    density = torch.exp(-(edges**2) / 2) / math.sqrt(2 * math.pi)
    tail = torch.where(edges.isinf(), 0.0, edges * density)
    mean, square = -cells * density.diff(), 1 - cells * tail.diff()  # given the cell
    left, right = slice(0, None, 2), slice(1, None, 2)
    return float((mean[left] * mean[right]).mean()), float((square[left] * square[right]).mean())


def test_sobol_variance_closed_form() -> None:
    """On a linear function ``E |g^|^2 = sum_st sum_i g_i^2 (q_i + c_i sum_{k != i} c_k) / S^2``.

    c_i(s, t) and q_i(s, t) are the moments of a pair of points in coordinate i, which depend on their first differing
    digit alone.
    """
    S, n = 5, 3
    g = torch.tensor([1.3, -0.4, 0.8], dtype=torch.float64)
    points = (torch.quasirandom.SobolEngine(n).draw(S) * 8).long()  # (S, n), three digits
    c, q = torch.ones(S, S, n, dtype=torch.float64), torch.full((S, S, n), 3.0, dtype=torch.float64)
    for s in range(S):
        for t in range(S):
            for i in range(n):
                if s != t:
                    place = 4 - int(points[s, i] ^ points[t, i]).bit_length()
                    c[s, t, i], q[s, t, i] = sobol_pair_moments(place)
    square = (g**2 * (q + c * (c.sum(-1, keepdim=True) - c))).sum() / S**2
    variance = square - g.square().sum()
    assert variance < (n + 1) / S * g.square().sum()  # less than independent Gaussians
    torch.manual_seed(0)
    x, v = torch.zeros(40_000, n, dtype=torch.float64), torch.full((40_000, 1), -0.7, dtype=torch.float64)
    for settings in ({}, {"antithetic": False}):
        estimator = EvolutionStrategy(S, 0.3, directions="sobol", **settings)
        grads = estimate(estimator, lambda z: z @ g.unsqueeze(1), x, v)
        assert_mean(grads, -0.7 * g, "mean")
        assert_mean((grads + 0.7 * g).square().sum(1, keepdim=True), 0.49 * variance, "variance")


def test_sobol_directions_are_finite_at_the_ends_of_the_unit_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.zeros(2, 3, dtype=torch.float64)
    for digit, sign in ((0, -1), (1, 1)):
        monkeypatch.setattr(
            torch, "randint", lambda high, size, digit=digit, **_: torch.full(size, digit * (high - 1))
        )
        extreme = torch.full((1, 2, 3), 8.2095 * sign, dtype=torch.float64)
        torch.testing.assert_close(DIRECTIONS["sobol"](1, x, None), extreme, rtol=1e-4, atol=0)


def test_sobol_limits() -> None:
    assert DIRECTIONS["sobol"](3, torch.zeros(2, 0), None).shape == (3, 2, 0)
    assert DIRECTIONS["sobol"](1, torch.zeros(0, 4), None).shape == (1, 0, 4)
    with pytest.raises(ValueError, match="21201 dimensions, but the inputs have n=21202"):
        DIRECTIONS["sobol"](3, torch.zeros(2, 21202), None)


def test_other_sobol_points_are_no_baseline() -> None:
    with pytest.raises(ValueError, match="baseline='fx'"):
        EvolutionStrategy(8, antithetic=False, directions="sobol", baseline="loo")
    assert EvolutionStrategy(antithetic=False, directions="sobol").baseline == "fx"
    assert EvolutionStrategy(directions="sobol").baseline is None


ROWS = 20_000


def rows(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64).expand(ROWS, -1)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("bounds", [None, (-50.0, 50.0)])
def test_each_coordinate_has_its_own_sigma(antithetic: bool, bounds: tuple[float, float] | None) -> None:
    """The gradient of the smoothed cubic, 3 x^2 + 3 sigma^2, shows the width in each coordinate."""
    torch.manual_seed(2)
    sigma = torch.tensor([0.2, 0.7, 1.9], dtype=torch.float64)
    x, v = rows([0.4, -0.3, 0.8]), rows([0.7, -1.2, 0.5])
    estimator = EvolutionStrategy(
        4,
        sigma,
        antithetic=antithetic,
        directions="gaussian",
        baseline=None if antithetic else "fx",
        bounds=bounds,
    )
    grads = estimate(estimator, lambda z: z**3, x, v)
    assert_mean(grads, v[0] * (3 * x[0] ** 2 + 3 * sigma**2), "cubic")


def test_the_same_sigma_in_every_form() -> None:
    """A width for every input: as numbers, tensors of the row's shape, of a broadcast one, flattened."""
    x, y = torch.randn(3, 2, 2, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)

    def grads(sigma: object) -> tuple[Tensor, ...]:
        torch.manual_seed(4)
        inputs = (x.clone().requires_grad_(), y.clone().requires_grad_())
        out = EvolutionStrategy(3, sigma)(
            lambda a, b: torch.sin(a).flatten(1).sum(1, keepdim=True) * torch.cos(b), *inputs
        )
        return torch.autograd.grad(out, inputs, torch.tensor([[0.3, -0.8, 1.1]] * 3, dtype=torch.float64))

    expected = grads(torch.tensor([0.2, 0.5, 0.2, 0.5, 0.7, 0.7, 0.7]))
    for sigma in (
        (torch.tensor([0.2, 0.5]), 0.7),
        [torch.tensor([[0.2, 0.5], [0.2, 0.5]]), torch.tensor(0.7)],
        (torch.tensor([0.2, 0.5, 0.2, 0.5]), torch.full((3,), 0.7)),
    ):
        torch.testing.assert_close(grads(sigma), expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(grads(torch.tensor(0.4)), grads(0.4), rtol=1e-6, atol=1e-9)


LAWS = ["gaussian", "orthogonal", "rademacher", "sobol", "sphere"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("antithetic", [True, False])
def test_bounded_probes_are_exact_in_expectation_on_affine_functions(law: str, antithetic: bool) -> None:
    """On a bound, near both, near one, and with none; every probe inside; sigma as wide as the box."""
    torch.manual_seed(7)
    low = torch.tensor([-0.5, 0.0, -1.0, -math.inf], dtype=torch.float64)
    high = torch.tensor([0.5, 0.3, math.inf, math.inf], dtype=torch.float64)
    x, v = rows([0.5, 0.1, -0.98, 0.4]), rows([0.7, -1.6])
    sigma = torch.tensor([0.4, 0.3, 0.2, 0.6], dtype=torch.float64)
    matrix = torch.tensor([[1.2, 0.3], [-0.8, 1.1], [0.4, -1.7], [2.0, 0.6]], dtype=torch.float64)

    def affine(z: Tensor) -> Tensor:
        assert (z >= low).all()
        assert (z <= high).all()
        return z @ matrix + 3.0

    for S in (3, 4) if antithetic else (3,):
        estimator = EvolutionStrategy(S, sigma, antithetic, law, bounds=(low, high))
        assert_mean(estimate(estimator, affine, x, v), v[0] @ matrix.T, f"affine, S={S}")


def test_on_a_bound_pairs_are_one_sided() -> None:
    """x^2 at its lower bound 0: clamped pairs give (d^2 / 2) 2 |e| / sigma, whose mean is 2 sigma sqrt(2 / pi)."""
    torch.manual_seed(8)
    for directions, third in (("gaussian", 2 * math.sqrt(2 / math.pi)), ("rademacher", 1.0)):
        estimator = EvolutionStrategy(2, 0.3, directions=directions, bounds=(0.0, math.inf))
        grads = estimate(estimator, torch.square, rows([0.0]), rows([-1.4]))
        assert_mean(grads, -1.4 * 0.3 * third, directions)


def test_variance_of_signs_at_a_bound() -> None:
    """Each coordinate sees the steps of the others relative to its own: (n - 1) / S where all are as wide."""
    torch.manual_seed(9)
    slope = torch.tensor([[1.5], [-0.4], [0.9]], dtype=torch.float64)
    estimator = EvolutionStrategy(4, 0.3, directions="rademacher", bounds=(-1.0, 0.2))
    grads = estimate(estimator, lambda z: z @ slope, rows([0.2, -1.0, 0.1]), rows([0.6]))
    assert_mean(grads, 0.6 * slope[:, 0], "mean")
    widths = torch.tensor([0.15, 0.15, 0.2], dtype=torch.float64)  # half the distance of the probes
    ratio = widths.unsqueeze(0) / widths.unsqueeze(1)  # of another coordinate's step to the own
    moved = (ratio * slope.T).square()
    variance = 0.36 * (moved.sum() - moved.diagonal().sum()) / 4
    assert_mean((grads - 0.6 * slope[:, 0]).square().sum(1, keepdim=True), variance, "variance")


def test_bounds_that_are_far_change_nothing() -> None:
    x, v = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    for settings in ({}, {"antithetic": False}, {"sigma": torch.full((5,), 0.2)}):
        grads = []
        for bounds in (None, (-30.0, math.inf)):
            torch.manual_seed(3)
            grads.append(estimate(EvolutionStrategy(4, bounds=bounds, **settings), torch.sin, x, v))
        torch.testing.assert_close(*grads)


def test_a_direction_of_exactly_0_has_no_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = {"gaussian": lambda S, x, generator: torch.tensor([[[0.0, 1.0]]], dtype=x.dtype)}
    monkeypatch.setattr("ndgrad.estimators.evolution_strategy.DIRECTIONS", directions)
    estimator = EvolutionStrategy(1, 0.3, directions="gaussian", bounds=(-1.0, 1.0))
    grad = estimate(estimator, lambda z: z, torch.zeros(1, 2), torch.full((1, 2), 0.5))
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.5]]))


def test_settings_move_copy_and_stay_out_of_the_state() -> None:
    given = torch.tensor([0.2, 0.5, 0.7])
    estimator = EvolutionStrategy(3, given, bounds=(torch.full((3,), -1.0), 2.0))
    given.mul_(100)
    torch.testing.assert_close(copy.deepcopy(estimator).sigma.parts[0], torch.tensor([0.2, 0.5, 0.7]))
    assert list(estimator.state_dict()) == []
    moved = estimator.to("meta")
    assert moved.sigma.parts[0].device.type == moved.bounds.low.parts[0].device.type == "meta"


@pytest.mark.parametrize(
    "bad",
    [
        {"num_samples": 0},
        {"num_samples": 2.0},
        {"num_samples": True},
        {"sigma": 0.0},
        {"sigma": float("nan")},
        {"sigma": "0.1"},
        {"sigma": torch.tensor([0.1, 0.0])},
        {"sigma": torch.tensor([0.1, math.inf])},
        {"sigma": torch.tensor([0.1, math.nan])},
        {"sigma": (0.1, -0.2)},
        {"bounds": 3.0},
        {"bounds": (0.0, 1.0, 2.0)},
        {"bounds": (1.0, 1.0)},
        {"bounds": (math.nan, 1.0)},
        {"bounds": (0.0, True)},
        {"bounds": (torch.tensor([0.0, math.nan]), 1.0)},
        {"directions": "cube"},
        {"baseline": "mean"},
    ],
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        EvolutionStrategy(**bad)


def test_repr() -> None:
    assert repr(EvolutionStrategy(sigma=0.3)) == (
        "EvolutionStrategy(num_samples=20, sigma=0.3, antithetic=True, directions='orthogonal', baseline=None, "
        "bounds=None)"
    )
    shown = repr(EvolutionStrategy(sigma=(0.3, torch.ones(2, 3)), bounds=(0, math.inf)))
    assert "(sigma): PerInput(0.3, tensor(2, 3))" in shown
    assert "(bounds): Bounds(low=0.0, high=inf)" in shown
