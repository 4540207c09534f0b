"""Error, bias and variance on made-up gradients whose answers are known; budgets; files."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks.measure import approach, measure, summarise
from benchmarks.names import select
from benchmarks.optimise import optimise
from benchmarks.provenance import write_atomically, write_json
from benchmarks.stored_references import Reference, reference
from benchmarks.tasks import TASKS
from benchmarks.variants import VARIANTS, BudgetTooSmallError


def exact(gradient):
    return Reference(gradient, torch.zeros_like(gradient), "by hand")


def test_summary_by_hand():
    true = torch.tensor([[3.0, 0.0], [0.0, 4.0]])  # |true| = 5
    noise = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    bias = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    got = summarise(torch.stack([true + bias + noise, true + bias - noise]), exact(true))
    variance = 2 * 0.5**2  # unbiased, of two
    assert got["variance"] == pytest.approx(variance / 25)
    assert got["squared_bias"] == pytest.approx((1 - variance / 2) / 25)
    assert got["relative_error"] == pytest.approx(math.sqrt(1.25) / 5)
    assert got["relative_error_standard_error"] == pytest.approx(0, abs=1e-7)
    assert got["cosine"] == pytest.approx(5 / math.sqrt(26.25))


def test_a_gradient_of_zero_has_error_one_and_cosine_zero():
    true = torch.tensor([[2.0, -1.0, 0.5]])
    got = summarise(torch.zeros(4, 1, 3), exact(true))
    assert got["relative_error"] == pytest.approx(1)
    assert got["cosine"] == 0
    assert got["squared_bias"] == pytest.approx(1)
    assert got["variance"] == 0


def test_squared_bias_is_unbiased_for_a_noisy_reference():
    generator = torch.Generator().manual_seed(1)
    true, bias, noise, error = torch.full((3, 7), 0.7), 0.2, 0.9, 0.3

    def draw():
        noisy = Reference(
            true + error * torch.randn(true.shape, generator=generator), torch.full_like(true, error), ""
        )
        gradients = true + bias + noise * torch.randn((5, *true.shape), generator=generator)
        return summarise(gradients, noisy)["squared_bias"] * float(noisy.gradient.square().sum())

    draws = torch.tensor([draw() for _ in range(2000)], dtype=torch.float64)
    z = (draws.mean() - 21 * bias**2) / (draws.std() / len(draws) ** 0.5)
    assert abs(z) < 5


def test_approach_comes_closer_and_stops_one_step_before():
    task = TASKS["ranking"]()
    points = approach(task, 8)
    distances = torch.stack([(x - task.start).norm() for x in points])
    torch.testing.assert_close(distances / distances[0], torch.arange(8, 0, -1) / 8)


@pytest.mark.parametrize(
    ("name", "evaluations", "expected"),
    [
        ("evolution_strategy_orthogonal_pairs", 41, 20),
        ("evolution_strategy_orthogonal_pairs", 40, 19),
        ("evolution_strategy_gaussian_loo", 17, 16),
        ("score_function_loo", 3, 2),
        ("diff_bypass", 5, 4),
        ("finite_difference_central", 15, 0),
        ("finite_difference_forward", 8, 0),
    ],
)
def test_budget_arithmetic(name, evaluations, expected):
    assert VARIANTS[name].num_samples(evaluations, num_inputs=7) == expected


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("evolution_strategy_gaussian_pairs", 3),
        ("evolution_strategy_gaussian_loo", 3),
        ("diff_bypass_replay", 2),
        ("finite_difference_central", 15),
        ("finite_difference_forward", 8),
    ],
)
def test_budget_too_small(name, least):
    with pytest.raises(BudgetTooSmallError, match=f"needs {least} evaluations for 7 inputs, has {least - 1}"):
        VARIANTS[name].num_samples(least - 1, num_inputs=7)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_its_budget(name):
    variant = VARIANTS[name]
    task = TASKS["ranking" if variant.solver else "sign_layer"]()
    samples = variant.num_samples(26, task.num_inputs)
    got = measure(task, variant, samples, reference(task), seeds=[0, 1], approach_steps=2)
    probes = variant.probes_per_input * task.num_inputs or samples * variant.probes_per_sample
    assert got.evaluations_used == variant.value + probes <= 26
    assert got.seconds > 0


def test_measured_again_with_the_same_seeds_is_the_same():
    task, variant = TASKS["sign_layer"](), VARIANTS["diff_bypass"]
    first, again = (measure(task, variant, 4, reference(task), [3, 5], approach_steps=2) for _ in range(2))
    assert first.relative_error == again.relative_error
    assert first.variance == again.variance


def test_optimising_a_smooth_function_goes_down():
    task, variant = TASKS["quadratic_sine"](), VARIANTS["evolution_strategy_orthogonal_pairs"]
    start, end = optimise(task, lambda: variant.build(task, 10), seeds=[0], steps=25)
    assert start == pytest.approx(task.score(task.start))
    assert end < start - 3


def test_names():
    assert select("task", ["b,a", "b"], ["a", "b", "c"]) == ["b", "a"]
    assert select("task", [], ["a", "b"]) == ["a", "b"]
    with pytest.raises(ValueError, match="unknown task 'x', 'y'; valid: a, b"):
        select("task", ["x", "a", "y"], ["a", "b"])


def test_writing_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_json_is_written_only_where_a_folder_is_given(tmp_path):
    write_json(None, "a", {"b": 1})
    write_json(tmp_path, "a", {"b": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
