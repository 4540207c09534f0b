"""Parameters of black boxes recovered together with the network before them."""

from __future__ import annotations

import itertools
import json

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
    config = parameterised.Config(shorten=300, held_out=5, seeds=2, out=tmp_path)
    results = parameterised.main(config)
    assert json.loads((tmp_path / "parameterised.json").read_text()) == json.loads(json.dumps(results))
    for name, runs in results["runs"].items():
        assert [run["seed"] for run in runs] == [0, 1]
        errors = [abs(e) for run in runs for e in run["relative_errors"].values()]
        assert results["worst_relative_error"][name] == max(errors)
        for run in runs:
            for key, true in results["true"][name].items():
                assert run["parameters"][key] == pytest.approx(true * (1 + run["relative_errors"][key]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("threshold_chain", 250), ("smooth_path", 400)])
def test_parameters_are_recovered_with_the_network(name, steps):
    """The full runs take 600 steps and three seeds or more; they are in the benchmark's results."""
    run = parameterised.train(
        parameterised.PROBLEMS[name], 0, parameterised.Config(steps=steps, held_out=200)
    )
    assert max(map(abs, run["relative_errors"].values())) < 0.05
    assert run["after"]["disagreement"] < 0.1 * run["before"]["disagreement"]
    assert run["after"]["misplaced_kernel_weight"] < 0.5 * run["before"]["misplaced_kernel_weight"]
