from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from .dp_backends import BACKENDS, solver
from .dp_oracles import brute_force, dense_algorithm_2, energy_of, family, is_feasible, networkx_energy

FAMILIES = ["noise", "ring", "noisy_ring", "integers", "spiral"]
TINY = [(N, M, delta) for N, M in itertools.product(range(1, 6), repeat=2) for delta in (0, 1, M, M + 4)]


@pytest.fixture(params=BACKENDS)
def solve(request: pytest.FixtureRequest) -> Any:
    """``solve`` with each backend in turn."""
    return solver(request.param)


def is_interpreted(solve: Any) -> bool:
    return solve.args == ("triton",) and not torch.cuda.is_available()


def up_to(rows: int, solve: Any) -> int:
    """Batch size: two rows where kernels are interpreted, a thousand times slower than compiled ones."""
    return min(rows, 2) if is_interpreted(solve) else rows


def tiny_costs(kind: str, N: int, M: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    B = 4
    costs = torch.randint(-9, 10, (B, N, M), generator=generator).float()
    if kind == "tied":
        costs = torch.randint(0, 2, (B, N, M), generator=generator).float()
    if kind == "eighths":  # not integers, yet every sum is exact
        costs = costs / 8
    if kind.startswith("inf"):
        holes = torch.rand(B, N, M, generator=generator) < float(kind[3:]) / 100
        costs = costs.masked_fill(holes, torch.inf)
    if kind == "nan":
        holes = torch.rand(B, N, M, generator=generator) < 0.3
        costs = costs.masked_fill(holes, torch.nan)
    return costs


@pytest.mark.parametrize("kind", ["integer", "eighths", "tied", "inf20", "inf50", "inf90", "nan"])
def test_energy_and_innermost_contour_equal_brute_force(solve: Any, kind: str) -> None:
    cases = list(enumerate(TINY))
    for seed, (N, M, delta) in cases[::6] if is_interpreted(solve) else cases:
        costs = tiny_costs(kind, N, M, seed)
        contours, energies = solve(costs, delta, return_energy=True)
        for row in range(costs.shape[0]):
            contour, energy = brute_force(costs[row], delta)
            assert energies[row].item() == energy
            assert tuple(contours[row].tolist()) == (contour or (0,) * N), (kind, N, M, delta, row)


@pytest.mark.parametrize("name", FAMILIES)
def test_energy_equals_networkx(solve: Any, name: str) -> None:
    costs = family(name, 3, 9, 7, seed=3).double()
    for delta in (1, 2):
        _, energies = solve(costs, delta, return_energy=True)
        expected = [networkx_energy(row, delta) for row in costs]
        torch.testing.assert_close(energies, torch.tensor(expected, dtype=torch.float64))


def test_contours_equal_algorithm_2_of_the_thesis(solve: Any) -> None:
    for name in ("noise", "noisy_ring"):
        costs = family(name, up_to(10, solve), 25, 65, seed=5)
        torch.testing.assert_close(solve(costs, 1), dense_algorithm_2(costs.double(), 1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("delta", [0, 1, 3])
def test_contours_are_feasible_and_attain_their_energy(solve: Any, name: str, delta: int) -> None:
    costs = family(name, up_to(6, solve), 20, 17, seed=1)
    contours, energies = solve(costs, delta, return_energy=True)
    assert is_feasible(contours, delta)
    torch.testing.assert_close(energies, energy_of(costs, contours), rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_energy_equals_enumeration_of_every_start(solve: Any, name: str) -> None:
    N, M = (8, 7) if is_interpreted(solve) else (24, 19)
    costs = family(name, up_to(5, solve), N, M, seed=2)
    _, energies = solve(costs, 2, return_energy=True)
    best = torch.full_like(energies, torch.inf)
    for start in range(costs.shape[2]):
        fixed = torch.full_like(costs, torch.inf)
        fixed[:, 1:] = costs[:, 1:]
        fixed[:, 0, start] = costs[:, 0, start]
        best = torch.minimum(best, solve(fixed, 2, return_energy=True)[1])
    torch.testing.assert_close(energies, best, rtol=0, atol=0)


def test_rolling_and_flipping_lines_moves_the_contour_along(solve: Any) -> None:
    costs = family("integers", up_to(40, solve), 11, 9, seed=4)
    contours = solve(costs, 1)
    for shift in (1, 4, 10):
        torch.testing.assert_close(solve(costs.roll(shift, dims=1), 1), contours.roll(shift, dims=1))
    torch.testing.assert_close(solve(costs.flip(1), 1), contours.flip(1))


def test_flipping_radii_gives_the_outermost_optimum(solve: Any) -> None:
    costs = family("integers", up_to(40, solve), 7, 6, seed=6)
    outermost = 5 - solve(costs.flip(2), 1)
    assert (outermost >= solve(costs, 1)).all()
    torch.testing.assert_close(energy_of(costs, outermost), energy_of(costs, solve(costs, 1)))


def test_delta_zero_is_the_best_circle(solve: Any) -> None:
    costs = family("integers", 6, 8, 11)
    circle = costs.sum(1).argmin(-1, keepdim=True).expand(-1, 8)
    torch.testing.assert_close(solve(costs, 0), circle)


@pytest.mark.parametrize("delta", [10, 11, 10**12])
def test_unreached_delta_is_the_argmin_of_each_line(solve: Any, delta: int) -> None:
    costs = family("noise", 6, 8, 11)
    torch.testing.assert_close(solve(costs, delta), costs.argmin(-1))


def test_a_single_radius_leaves_no_choice(solve: Any) -> None:
    contours, energies = solve(family("noise", 4, 9, 1), 2, return_energy=True)
    torch.testing.assert_close(contours, torch.zeros(4, 9, dtype=torch.int64))
    assert energies.isfinite().all()


def test_energy_falls_with_delta(solve: Any) -> None:
    costs = family("noise", up_to(8, solve), 18, 15)
    energies = torch.stack([solve(costs, delta, return_energy=True)[1] for delta in range(16)])
    assert (energies[1:] <= energies[:-1]).all()
    assert (energies[5] < energies[0]).all()


@pytest.mark.parametrize(("M", "delta"), [(257, 1), (257, 60), (1025, 3), (1025, 1024)])
def test_long_rays_and_wide_windows(solve: Any, M: int, delta: int) -> None:
    costs = family("noisy_ring", 2, 6, M)
    contours, energies = solve(costs, delta, return_energy=True)
    assert is_feasible(contours, delta)
    torch.testing.assert_close(energies, energy_of(costs, contours), rtol=0, atol=0)
    if M < 300:  # the oracle's table has B N M^2 entries
        torch.testing.assert_close(contours, dense_algorithm_2(costs.double(), delta))


def test_rows_do_not_influence_each_other(solve: Any) -> None:
    costs = torch.cat([family(name, 3, 14, 12) for name in FAMILIES])
    alone = torch.cat([solve(row[None], 1) for row in costs])
    torch.testing.assert_close(solve(costs, 1), alone)


def test_runs_and_thread_counts_agree(solve: Any) -> None:
    costs = family("noise", up_to(64, solve), 30, 41)
    once = solve(costs, 2, return_energy=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        twice = solve(costs, 2, return_energy=True)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(twice, once, rtol=0, atol=0)


def test_rows_without_a_contour_are_zero_with_infinite_energy(solve: Any) -> None:
    costs = family("noise", 3, 5, 6)
    costs[1, 2] = torch.inf
    costs[2, 0, :3] = torch.nan  # only the outer three are allowed on line 0 and only the innermost on line 3
    costs[2, 3, 1:] = torch.inf
    contours, energies = solve(costs, 1, return_energy=True)
    assert energies.isfinite().tolist() == [True, False, False]
    torch.testing.assert_close(contours[1:], torch.zeros(2, 5, dtype=torch.int64))


@pytest.mark.parametrize(("given", "got"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)])
def test_half_precision_is_lifted(solve: Any, given: torch.dtype, got: torch.dtype) -> None:
    costs = family("noise", 3, 6, 5).to(given)
    assert solve(costs, 1, return_energy=True)[1].dtype == got
    torch.testing.assert_close(solve(costs, 1), solve(costs.float(), 1))


def test_double_precision_is_kept(solve: Any) -> None:
    costs = torch.tensor([[[0.0, -1e-12]]], dtype=torch.float64) + 1.0
    contours, energies = solve(costs, 1, return_energy=True)
    assert (energies.dtype, contours.item()) == (torch.float64, 1)


def test_strided_and_attached_inputs(solve: Any) -> None:
    costs = family("noise", 6, 5, 4).requires_grad_()
    contours, energies = solve(costs.permute(2, 1, 0), 1, return_energy=True)
    assert not energies.requires_grad
    torch.testing.assert_close(contours, solve(costs.detach().permute(2, 1, 0).contiguous(), 1))


def test_an_empty_batch_stays_empty(solve: Any) -> None:
    contours, energies = solve(torch.empty(0, 4, 3), 1, return_energy=True)
    assert (contours.shape, contours.dtype, energies.shape) == ((0, 4), torch.int64, (0,))


@pytest.mark.parametrize(
    ("costs", "delta", "error", "words"),
    [
        (torch.zeros(2, 3), 1, ValueError, "shape"),
        (torch.zeros(2, 0, 3), 1, ValueError, "N >= 1"),
        (torch.zeros(2, 3, 0), 1, ValueError, "M >= 1"),
        (torch.zeros(2, 3, 4), -1, ValueError, ">= 0"),
        (torch.zeros(2, 3, 4), 1.0, TypeError, "int"),
        (torch.zeros(2, 3, 4, dtype=torch.int64), 1, TypeError, "unary.float"),
        (torch.full((1, 3, 4), -torch.inf), 1, ValueError, "-inf"),
    ],
)
def test_errors_name_what_arrived(
    solve: Any, costs: torch.Tensor, delta: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        solve(costs, delta)
