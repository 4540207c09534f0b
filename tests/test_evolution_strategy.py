from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize(
    "bad",
    [
        {"num_samples": 0},
        {"num_samples": 2.0},
        {"num_samples": True},
        {"sigma": 0.0},
        {"sigma": float("nan")},
        {"sigma": "0.1"},
        {"directions": "cube"},
        {"baseline": "mean"},
    ],
)
def test_bad_arguments(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        EvolutionStrategy(**bad)


def test_repr() -> None:
    assert "sigma=0.3" in repr(EvolutionStrategy(sigma=0.3))
