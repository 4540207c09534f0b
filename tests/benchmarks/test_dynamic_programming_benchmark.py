"""The benchmark of the dynamic program: its baselines are right, and a small run has its form."""

from __future__ import annotations

import json

import pytest
import torch

from applications.lv_dp.dynamic_programming import available_backends, solve
from benchmarks import dynamic_programming
from benchmarks.closed_contour_baselines import dense_algorithm_2, open_chain, python_loops
from benchmarks.dynamic_programming import costs_of


@pytest.mark.parametrize("kind", ["noise", "noisy_ring", "ring", "spiral"])
def test_baselines_find_the_optimal_contour(kind):
    costs = costs_of(kind, 3, 7, 9).double()
    for delta in (0, 2):
        expected = solve(costs, delta)
        torch.testing.assert_close(python_loops(costs, delta), expected)
        torch.testing.assert_close(dense_algorithm_2(costs, delta), expected)


def test_the_open_chain_is_an_optimal_path_that_need_not_close():
    costs = costs_of("noise", 50, 6, 9).double()
    chain = open_chain(costs, 2)
    assert (chain.diff(dim=1).abs() <= 2).all()
    assert ((chain[:, 0] - chain[:, -1]).abs() > 2).any()
    free = torch.cat([costs, torch.zeros(50, 5, 9, dtype=torch.float64)], dim=1)  # room to come back
    _, energy = solve(free, 2, return_energy=True)
    torch.testing.assert_close(costs.gather(2, chain[..., None]).sum((1, 2)), energy)


def test_a_small_run_reports_ratios_and_memory(tmp_path, capsys):
    config = dynamic_programming.Config(
        sizes=((3, 6, 9, 1),), kinds=("noise",), repeats=2, dense_rows=2, out=tmp_path
    )
    results = dynamic_programming.main(config)
    (problem,) = results["problems"]
    assert set(problem["ratios"]) == set(results["megabytes"]) == set(available_backends())
    assert problem["rows_of_slow_baselines"] == {"python_loops": 1, "dense": 2}
    assert "*" in capsys.readouterr().out
    assert json.loads((tmp_path / "dynamic_programming.json").read_text())["threads"] == 1


def test_unknown_costs_are_refused():
    with pytest.raises(ValueError, match="noisy_ring"):
        costs_of("rings", 1, 2, 3)
