"""References against closed forms derived otherwise, quadrature, and brute force with other draws."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from benchmarks.make_references import Config, main
from benchmarks.smoothed_gradient import smoothed_gradient
from benchmarks.stored_references import reference
from benchmarks.tasks import TASKS, ranking, sign_layer
from benchmarks.tasks import quadratic_sine as qs

CLOSED = [name for name, make in TASKS.items() if make().closed_form is not None]
STORED = [name for name, make in TASKS.items() if make().closed_form is None]


def z_scores(estimate, standard_error, truth, truth_error):
    spread = (standard_error.square() + truth_error.square()).sqrt()
    moving = spread > 1e-7  # entries that no draw touches are exactly zero in both
    torch.testing.assert_close(estimate[~moving], truth[~moving], rtol=0, atol=1e-6)
    return ((estimate - truth) / spread)[moving]


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_agrees_with_brute_force(name):
    task = TASKS[name]()
    v = torch.randn(task.cotangent.shape, generator=torch.Generator().manual_seed(3)) + 0.4
    pairs = 6000 if task.num_inputs < 1000 else 300
    estimate, error = smoothed_gradient(
        task.fast_values,
        task.start,
        v,
        task.sigma,
        pairs,
        torch.Generator().manual_seed(4),
        min(50_000, 2**23 // task.num_inputs),
    )
    z = z_scores(estimate, error, task.closed_form(task.start, v), torch.zeros_like(error))
    assert z.abs().max() < 5
    assert 0.5 < z.square().mean() < 1.6  # the standard errors are neither too small nor too large


@pytest.mark.parametrize("name", STORED)
def test_stored_reference_agrees_with_other_draws(name):
    task = TASKS[name]()
    stored = reference(task)
    estimate, error = smoothed_gradient(
        task.fast_values, task.start, task.cotangent, task.sigma, 4000, torch.Generator().manual_seed(5)
    )
    z = z_scores(estimate, error, stored.gradient, stored.standard_error)
    assert z.abs().max() < 5
    assert 0.5 < z.square().mean() < 1.6


@pytest.mark.parametrize("name", STORED)
def test_stored_reference_is_precise_and_says_where_it_comes_from(name):
    stored = reference(TASKS[name]())
    assert stored.relative_error < 0.05
    assert "antithetic" in stored.source
    assert "seed" in stored.source


def test_quadratic_sine_against_quadrature():
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)  # for the standard normal density
    sigma, x, v = (
        0.3,
        torch.tensor([[0.7, -1.2]], dtype=torch.float64),
        torch.tensor([[1.7]], dtype=torch.float64),
    )
    shifted = x[..., None] + sigma * torch.from_numpy(nodes)
    slope = 2 * shifted + 1.5 * torch.cos(3 * shifted)  # derivative of x^2 + sin(3 x) / 2
    expected = 1.7 * (slope * torch.from_numpy(weights)).sum(-1) / math.sqrt(2 * math.pi)
    torch.testing.assert_close(qs.smoothed_gradient(x, v, sigma), expected)


def test_quadratic_sine_value():
    x = torch.tensor([[0.5, -0.25]])
    expected = 0.25 + 0.0625 + (math.sin(1.5) - math.sin(0.75)) / 2 + 5
    torch.testing.assert_close(qs.quadratic_sine(x), torch.tensor([[expected]]))


def test_sign_layer_of_one_unit_is_the_normal_density():
    x, v, sigma = torch.tensor([[0.4]]), torch.tensor([[-1.3]]), 0.5
    got = sign_layer.smoothed_gradient(x, v, torch.tensor([[2.0]]), torch.tensor([0.1]), sigma)
    expected = -1.3 * 2.0 * 2 * norm.pdf(2 * 0.4 + 0.1, scale=2 * sigma)
    torch.testing.assert_close(got, torch.tensor([[expected]], dtype=got.dtype))


def test_ranking_of_two_is_the_derivative_of_a_probability():
    a, b, sigma, h = 0.3, -0.2, 0.4, 1e-5

    def weighted_mean_rank(a, b):  # cotangent (1.5, -0.7)
        above = norm.cdf((a - b) / (math.sqrt(2) * sigma))
        return 1.5 * above - 0.7 * (1 - above)

    expected = [
        (weighted_mean_rank(a + h, b) - weighted_mean_rank(a - h, b)) / (2 * h),
        (weighted_mean_rank(a, b + h) - weighted_mean_rank(a, b - h)) / (2 * h),
    ]
    x, v = torch.tensor([[a, b]], dtype=torch.float64), torch.tensor([[1.5, -0.7]], dtype=torch.float64)
    torch.testing.assert_close(
        ranking.smoothed_gradient(x, v, sigma)[0], torch.tensor(expected, dtype=torch.float64)
    )


def test_made_reference_is_found_again_and_refused_for_another_task(tmp_path):
    main(Config(tasks=("tandem_queue",), pairs=300, seed=1, out=tmp_path))
    task = TASKS["tandem_queue"]()
    made = reference(task, tmp_path)
    assert made.gradient.shape == task.start.shape
    assert made.squared_error > 0
    with pytest.raises(ValueError, match=r"another sigma.*make_references --tasks tandem_queue"):
        reference(dataclasses.replace(task, sigma=0.2), tmp_path)
    with pytest.raises(ValueError, match="another start"):
        reference(dataclasses.replace(task, start=task.start + 0.01), tmp_path)
    with pytest.raises(FileNotFoundError, match="make_references --tasks rounded_tanh"):
        reference(TASKS["rounded_tanh"](), tmp_path)


def test_brute_force_does_not_depend_on_how_the_rows_are_cut():
    task = TASKS["sign_layer"]()
    together, in_pieces = (
        smoothed_gradient(
            task.values,
            task.start,
            task.cotangent,
            0.3,
            50,
            torch.Generator().manual_seed(6),
            rows_per_call=rows,
        )
        for rows in (50_000, 48)  # torch draws the same stream in blocks of 16 numbers only
    )
    torch.testing.assert_close(together, in_pieces)
