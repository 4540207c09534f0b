"""The scripts behind quoted numbers: small runs for their form, full ones where they are quick."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import (
    bypass_at_the_input,
    descent_path,
    executors,
    overhead,
    quadratic_sine_accuracy,
    recommendations,
)
from benchmarks.tasks import TASKS


def test_quadratic_sine_accuracy(tmp_path):
    results = quadratic_sine_accuracy.main(quadratic_sine_accuracy.Config(out=tmp_path))
    errors = results["pairs_relative_errors"]
    assert results["pairs_relative_error"] == errors["orthogonal pairs"] <= 0.02
    assert errors["least squares, orthogonal"] == pytest.approx(errors["orthogonal pairs"], rel=1e-3)
    assert errors["least squares, Gaussian"] <= 0.02
    assert 0.2 < errors["Sobol pairs"] < errors["Gaussian pairs"] < 0.9
    single, expected = results["without_pairs_relative_error"], results["expected_without_pairs"]
    assert single["loo"] == pytest.approx(expected["loo"], rel=0.01)
    assert single["fx"] == pytest.approx(expected["fx"], rel=0.1)  # the curvature of f is left in
    assert json.loads((tmp_path / "quadratic_sine_accuracy.json").read_text()) == results


def test_bypass_at_the_input_asks_every_kind_at_both_places(tmp_path, capsys):
    config = bypass_at_the_input.Config(calls=3, batch=2, asked=4, out=tmp_path)
    rows = bypass_at_the_input.main(config)["rows"]
    assert len(rows) == 4
    for row in rows.values():
        assert all(abs(place["mean"]) <= place["rms"] <= 48 for place in row.values())
    assert json.loads((tmp_path / "bypass_at_the_input.json").read_text())["rows"] == rows
    assert capsys.readouterr().out.count("index error at the input") == 4


def test_bare_formula_is_unbiased():
    torch.manual_seed(1)
    weight, x, v = torch.randn(6, 4), torch.randn(3, 6), torch.randn(3, 4) + 0.5
    draws = torch.stack([overhead.bare_gradient(lambda z: z @ weight, x, v, 5, 0.3) for _ in range(2000)])
    z = (draws.mean(0) - v @ weight.T) / (draws.std(0) / len(draws) ** 0.5)
    assert z.abs().max() < 5


def test_overhead_reports_ratios(tmp_path):
    config = overhead.Config(num_inputs=5, num_outputs=3, batch=4, num_samples=2, repeats=10, out=tmp_path)
    results = overhead.main(config)
    assert results["ratios"].keys() == results["limits"].keys()
    for name, ratio in results["ratios"].items():
        assert ratio == pytest.approx(results["milliseconds"][name] / results["milliseconds"]["bare"])
    assert json.loads((tmp_path / "overhead.json").read_text()) == results


def test_descent_path_goes_down_with_a_known_error():
    config = descent_path.Config(steps=12, pairs=300)
    task = TASKS["rounded_tanh"]()
    points = descent_path.descent_path(task, config)
    assert len(points) == 12
    assert task.score(points[-1].x) < task.score(points[0].x)
    assert all(point.squared_standard_error > 0 for point in points)


def test_descent_path_results(tmp_path):
    config = descent_path.Config(steps=2, pairs=100, fit_steps=1, replay=1, width=8, seeds=2, out=tmp_path)
    results = descent_path.main(config)
    assert all(len(values) == 2 for values in results["relative_squared_errors"].values())
    assert results["ratios"].keys() == descent_path.REQUIREMENTS.keys()
    errors = {name: sum(values) for name, values in results["relative_squared_errors"].items()}
    for name, (base, _) in descent_path.REQUIREMENTS.items():
        assert results["ratios"][name] == pytest.approx(errors[name] / errors[base])
    assert json.loads((tmp_path / "descent_path.json").read_text()) == results


def test_recommendations(tmp_path, capsys):
    config = recommendations.Config(
        tasks=("quadratic_sine", "sign_layer"), seeds=2, steps=3, recommend_steps=2, out=tmp_path
    )
    results = recommendations.main(config)
    for task in results["tasks"].values():
        best = task["reductions"][task["best"]]
        assert best == max(task["reductions"].values())
        assert task["ratios"] == [task["reductions"][name] / best for name in task["recommended"]]
        assert task["least_ratio"] <= task["mean_ratio"] <= 1
    assert results["good_tasks"] == sum(task["mean_ratio"] >= 0.8 for task in results["tasks"].values())
    assert "of 2 tasks reach" in capsys.readouterr().out
    assert json.loads((tmp_path / "recommendations.json").read_text()) == json.loads(json.dumps(results))


def test_recommendations_go_on_where_they_stopped(tmp_path, monkeypatch):
    judged = []

    def judge(task, config):
        judged.append(task.name)
        return {"mean_ratio": 0.9 if task.name == "sign_layer" else 0.5}

    monkeypatch.setattr(recommendations, "judge", judge)
    for names in (("sign_layer",), ("sign_layer", "ranking")):
        results = recommendations.main(recommendations.Config(names, out=tmp_path))
    assert judged == ["sign_layer", "ranking"]
    assert results["good_tasks"] == 1
    assert list(results["tasks"]) == ["sign_layer", "ranking"]
    recommendations.main(recommendations.Config(("ranking",), seeds=2, out=tmp_path))
    assert judged == ["sign_layer", "ranking", "ranking"]  # other settings: judged anew


def test_executors_report_speed_ups_of_the_same_bits(tmp_path):
    config = executors.Config(
        rows=6, seconds=0.02, repeats=1, workers=(2,), dask=False, many=(4,), out=tmp_path
    )
    results = executors.main(config)
    measured = results["measured"]["loky 2"]
    assert measured["equal_to_the_bit"]
    assert measured["efficiency"] == pytest.approx(results["serial_seconds"] / measured["seconds"] / 2)
    assert json.loads((tmp_path / "executors.json").read_text()) == json.loads(json.dumps(results))


def test_simulated_workers_are_as_fast_as_they_or_their_dispatcher_can_be():
    assert executors.simulate(10, 1, 0.05, 0.0, 0.0) == pytest.approx(0.5)
    assert executors.simulate(10, 1, 0.05, 0.01, 0.02) == pytest.approx(10 * 0.08)
    assert executors.simulate(12, 4, 0.05, 0.0, 0.0) == pytest.approx(0.15)
    assert executors.simulate(10, 1, 0.05, 0.01, 0.0, ahead=True) == pytest.approx(0.01 + 10 * 0.05)
    # 1000 workers wait for a dispatcher of 1 ms per chunk: 1000 chunks per second, of 0.05 s each
    assert executors.simulate(20000, 1000, 0.05, 0.001, 0.0) == pytest.approx(20.05)


def test_bypass_at_the_input_needs_a_call():
    with pytest.raises(ValueError, match="1 or more, got 0, 10 and 500"):
        bypass_at_the_input.main(bypass_at_the_input.Config(calls=0))
