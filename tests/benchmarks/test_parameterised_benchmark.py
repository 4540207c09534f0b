"""Parameters of black boxes recovered together with the network before them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks import parameterised
from benchmarks.parameterised_chains import blobs, large_bright_regions, smooth_path, valleys


def test_regions_one_image_at_a_time():
    """Against SciPy's labels of each image by itself: regions must not reach from one row into the next."""
    image = blobs(6, torch.Generator().manual_seed(0)).numpy()
    threshold, area = np.linspace(0.2, 0.6, 6, dtype=np.float32), np.linspace(0, 0.6, 6, dtype=np.float32)
    mask = large_bright_regions(image, threshold, area)
    for row in range(6):
        labels, count = ndimage.label(image[row] > threshold[row])
        large = [k for k in range(1, count + 1) if (labels == k).sum() >= 100 * area[row]]
        np.testing.assert_array_equal(mask[row], np.isin(labels, large))


def test_path_against_every_path():
    cost = np.random.default_rng(0).normal(size=(5, 4, 5)).astype(np.float32)
    smoothness = np.array([0.0, 0.1, 0.4, 1.0, 9.0], dtype=np.float32)
    paths = np.array(list(itertools.product(range(4), repeat=5)))  # (4^5, 5)
    for row in range(5):
        totals = cost[row, paths, np.arange(5)].sum(1) + smoothness[row] * abs(np.diff(paths)).sum(1)
        np.testing.assert_array_equal(smooth_path(cost, smoothness)[row], paths[totals.argmin()])


@pytest.mark.parametrize("make", [blobs, valleys])
def test_inputs_are_made_anew_and_repeatably(make):
    first, second = (make(3, torch.Generator().manual_seed(seed)) for seed in (1, 1))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (make(3, torch.Generator().manual_seed(2)) - first).abs().min() > 0


def test_results_of_a_short_run(tmp_path):
    config = parameterised.Config(shorten=75, held_out=5, seeds=2, out=tmp_path)
    assert list(parameterised.main(config)) == list(parameterised.PROBLEMS)
    for name, problem in parameterised.PROBLEMS.items():
        results = json.loads((tmp_path / f"parameterised_{name}.json").read_text())
        assert [run["seed"] for run in results["runs"]] == [0, 1]
        errors = [abs(error) for run in results["runs"] for error in run["relative_errors"].values()]
        assert results["worst_relative_error"] == max(errors)
        for run in results["runs"]:
            for key, true in problem.true.items():
                assert run["parameters"][key] == pytest.approx(true * (1 + run["relative_errors"][key]))
                assert run["parameters"][key] != pytest.approx(problem.start[key])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps", "batch"), [("threshold_chain", 300, 16), ("smooth_path", 300, 32)])
def test_parameters_are_recovered_with_the_network(name, steps, batch):
    """Shorter than the benchmark's own runs."""
    problem = replace(parameterised.PROBLEMS[name], steps=steps, batch=batch)
    run = parameterised.train(problem, 0, parameterised.Config(held_out=200))
    assert max(map(abs, run["relative_errors"].values())) < 0.05
    assert run["after"]["disagreement"] < 0.15 * run["before"]["disagreement"]
    assert run["after"]["misplaced_kernel_weight"] < 0.6 * run["before"]["misplaced_kernel_weight"]
