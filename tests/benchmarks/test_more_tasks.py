"""The larger tasks against independent implementations of the same boxes."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import norm

from benchmarks.tasks import TASKS, TaskUnavailableError, image_chain, salesman, thermostat, tree_ensemble
from benchmarks.tasks.matching import assignment
from benchmarks.tasks.sorting import _RELEVANCE, relevance_in_order
from benchmarks.tasks.staircase import smoothed_slope
from benchmarks.tasks.terrain_path import path_cells


def test_stair_of_one_step_is_the_normal_density():
    x, sigma = 0.31, 0.1
    got = smoothed_slope(torch.tensor([x], dtype=torch.float64), sigma)
    steps = [(k + 0.5) / 2 for k in range(-9, 9)]
    expected = sum(norm.pdf(x, loc=t, scale=sigma) for t in steps) / 2
    torch.testing.assert_close(got, torch.tensor([expected], dtype=torch.float64))


def test_a_wide_smoothing_climbs_with_slope_one():
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    torch.testing.assert_close(smoothed_slope(x, 0.7), torch.ones_like(x), rtol=0, atol=1e-6)


def test_trees_question_by_question():
    x = np.random.default_rng(1).standard_normal((5, 14))
    got = tree_ensemble.predict(x)
    for row, y in zip(x, got, strict=True):
        total = np.zeros(2)
        for features, thresholds, leaves in zip(
            tree_ensemble._FEATURES, tree_ensemble._THRESHOLDS, tree_ensemble._LEAVES, strict=True
        ):
            for feature, threshold in zip(features, thresholds, strict=True):
                half = len(leaves) // 2
                leaves = leaves[half:] if row[feature] > threshold else leaves[:half]
            total += leaves[0]
        np.testing.assert_allclose(y, total)


def test_smoothed_trees_without_noise_are_the_trees():
    x = np.random.default_rng(2).standard_normal((6, 14))
    torch.testing.assert_close(
        tree_ensemble.smoothed(torch.from_numpy(x), 1e-9), torch.from_numpy(tree_ensemble.predict(x))
    )


def test_sorting_against_python():
    scores = np.random.default_rng(3).standard_normal((4, 12))
    for row, got in zip(scores, relevance_in_order(scores), strict=True):
        order = sorted(range(12), key=lambda i: -row[i])
        np.testing.assert_array_equal(got, [_RELEVANCE[i] for i in order])


def test_best_order_has_the_best_gain():
    task = TASKS["sorting"]()
    best = task.loss(task.values(torch.from_numpy(_RELEVANCE[None])))
    expected = sum(r / math.log2(k + 2) for k, r in enumerate(sorted(_RELEVANCE, reverse=True)))
    assert best.item() == pytest.approx(-expected)
    assert task.score(task.start) > best.item()


def test_matching_is_cheapest_among_all():
    costs = np.random.default_rng(4).standard_normal((2, 36))
    for row, got in zip(costs, assignment(costs), strict=True):
        matrix = row.reshape(6, 6)
        totals = [sum(matrix[i, p[i]] for i in range(6)) for p in itertools.permutations(range(6))]
        assert (row * got).sum() == pytest.approx(min(totals))
        np.testing.assert_array_equal(got.reshape(6, 6).sum(0), 1)
        np.testing.assert_array_equal(got.reshape(6, 6).sum(1), 1)


def test_terrain_path_against_networkx():
    costs = np.random.default_rng(5).uniform(0.5, 2.5, (2, 144))
    cells = list(itertools.product(range(12), repeat=2))
    grid = nx.DiGraph()
    for row, got in zip(costs, path_cells(costs), strict=True):
        for (i, j), (k, m) in itertools.product(cells, cells):
            if max(abs(i - k), abs(j - m)) == 1:
                grid.add_edge((i, j), (k, m), cost=row[12 * k + m])
        path = nx.dijkstra_path(grid, (0, 0), (11, 11), weight="cost")
        assert {cells[c] for c in np.flatnonzero(got)} == set(path)


def test_terrain_path_knows_no_negative_costs():
    cheap = path_cells(np.full((1, 144), -3.0))
    assert cheap.sum() == 12  # straight along the diagonal
    np.testing.assert_array_equal(cheap.reshape(12, 12), np.eye(12))


def test_tour_city_by_city():
    bending = 0.5 * np.random.default_rng(6).standard_normal((3, 36))
    for row, (got,) in zip(bending, salesman.tour_length(bending), strict=True):
        factor = {}
        for (i, j), b in zip(itertools.combinations(range(9), 2), row, strict=True):
            factor[i, j] = factor[j, i] = math.exp(b)
        tour, places = [0], salesman._PLACES
        while len(tour) < 9:
            here = tour[-1]
            tour.append(
                min(
                    set(range(9)) - set(tour),
                    key=lambda c, here=here: factor[here, c] * math.dist(places[here], places[c]),
                )
            )
        legs = zip(tour, [*tour[1:], 0], strict=True)
        assert got == pytest.approx(sum(math.dist(places[a], places[b]) for a, b in legs))


def test_chain_against_scipy():
    knobs = np.array([[0.2, 0.9, 0.5, 1.0], [-0.5, 0.8, 0.7, 2.4], [0.0, 1.1, 0.2, 0.0]])
    cross = ndimage.generate_binary_structure(2, 1)
    for row, (overlap, area) in zip(knobs, image_chain.overlap_and_area(knobs), strict=True):
        width, threshold, slope, radius = row
        blurred = ndimage.fourier_gaussian(np.fft.fft2(image_chain._PICTURE), math.exp(width))
        mask = np.fft.ifft2(blurred).real - slope * np.linspace(0, 1, 32) > threshold
        if round(radius):
            eroded = ndimage.binary_erosion(mask, cross, iterations=round(radius), border_value=1)
            mask = ndimage.binary_dilation(eroded, cross, iterations=round(radius))
        size = image_chain._MASK.sum()
        assert overlap == pytest.approx((mask & image_chain._MASK).sum() / size)
        assert area == pytest.approx(mask.sum() / size)


def test_dice_by_hand():
    y = torch.tensor([[0.5, 0.75]])
    torch.testing.assert_close(image_chain.one_minus_dice(y), torch.tensor([1 - 2 * 0.5 / 1.75]))


def house(setting):
    """The thermostat's simulator in Python."""
    air, wall, run, cold, on, since, home_steps = 18.0, 16.0, 0, 0.0, False, 3, 0
    for step in range(1440):
        outside = 4.0 - 6.0 * math.cos(2 * math.pi * step / 1440)
        wanted = setting[step // 180]
        if since >= 3 and ((on and air > wanted + 0.3) or (not on and air < wanted - 0.3)):
            on, since = not on, 0
        since += 1
        air += 0.02 * (wall - air) + 0.004 * (outside - air) + 0.25 * on
        wall += 0.003 * (air - wall) + 0.0008 * (outside - wall)
        run += on
        if step < 480 or step >= 1020:
            cold += max(20.0 - air, 0.0) ** 2
            home_steps += 1
    return run / 1440, cold / home_steps


def test_compiled_house_against_python():
    try:
        task = TASKS["thermostat"]()
    except TaskUnavailableError as reason:
        pytest.skip(str(reason))
    settings = task.start.double().numpy()
    expected = [house(row) for row in settings]
    np.testing.assert_allclose(thermostat.energy_and_discomfort(settings), expected, rtol=1e-9)


def test_without_a_compiler_the_task_says_so(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    thermostat.compiled.cache_clear()
    try:
        with pytest.raises(TaskUnavailableError, match="needs a C compiler: cc, or what CC names"):
            TASKS["thermostat"]()
    finally:
        thermostat.compiled.cache_clear()


def test_a_compiler_that_fails_is_a_reason(monkeypatch):
    monkeypatch.setenv("CC", "false")
    thermostat.compiled.cache_clear()
    try:
        with pytest.raises(TaskUnavailableError, match="false failed"):
            TASKS["thermostat"]()
    finally:
        thermostat.compiled.cache_clear()
