"""Other libraries beside ours: budgets, conversions and verdicts with made-up peers; the real ones where installed."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import ndgrad
from benchmarks import compare_estimators, peers_speed, peers_summary
from benchmarks.peers import PEERS, Conversion, Peer, Problem, installed
from benchmarks.peers.estimator import OverspentError, PeerEstimator, as_variant
from benchmarks.peers.nevergrad import minimise
from benchmarks.peers.storchastic import MOVING_AVERAGE
from benchmarks.plan import Config, make_plan
from benchmarks.records import Record
from benchmarks.tasks import TASKS
from benchmarks.variants import VARIANTS, BudgetTooSmallError
from benchmarks.verdict import verdict, z_score
from ndgrad.testing import assert_mean

SIGMA = 0.3


def exact(scale=1.0, evaluations=3):
    """A made-up library that knows the gradient of the quadratic-sine tasks, times ``scale``."""

    def estimate(problem):
        problem.values(problem.x.expand(evaluations, *problem.x.shape))
        smoothed = TASKS["quadratic_sine"]().closed_form(problem.x, problem.v)
        return scale * smoothed

    return estimate


def peer(make, **options):
    return Peer("madeup", "torch", lambda: make, options.pop("kind", "sampling"), "by hand", **options)


@pytest.fixture
def compare(monkeypatch, tmp_path):
    """Run a comparison with ours and the made-up peers given, on quadratic_sine with 9 evaluations."""

    def run(**peers):
        for module in ("plan", "plots"):
            monkeypatch.setattr(f"benchmarks.{module}.PEERS", peers)
        names = ("evolution_strategy_gaussian_loo", *peers)
        config = Config(("quadratic_sine",), names, (9,), 2, tmp_path, optimisation_steps=2)
        records = compare_estimators.main(config)
        skipped = json.loads((tmp_path / "skipped.json").read_text())
        return {r.estimator: r for r in records}, {entry["estimator"]: entry["reason"] for entry in skipped}

    return run


def test_conversion_is_shown_beside_the_raw_number(compare, capsys):
    halved = Conversion("raw * 2: it halves", lambda sigma, _: 2.0)
    records, _ = compare(halving=peer(exact(0.5), conversion=halved))
    record = records["halving"]
    assert record.relative_error == pytest.approx(0, abs=1e-6)
    assert record.raw_relative_error == pytest.approx(0.5)
    assert record.conversion == "raw * 2: it halves"
    assert record.library == "madeup"
    ours = records["evolution_strategy_gaussian_loo"]
    assert ours.raw_relative_error == ours.relative_error
    assert ours.conversion == ""
    printed = capsys.readouterr().out
    assert "raw error" in printed
    assert "converted: halving: raw * 2: it halves" in printed
    assert "PEER IS BETTER: halving" in printed


def test_evaluations_are_counted_by_the_box(compare):
    records, _ = compare(frugal=peer(exact(evaluations=5)))
    assert records["frugal"].evaluations_used == 5
    assert records["frugal"].evaluations == 9


@pytest.mark.parametrize(("evaluations", "refused"), [(9, False), (10, True)])
def test_the_last_evaluation_of_the_budget_is_allowed_and_the_next_refused(compare, evaluations, refused):
    records, reasons = compare(spender=peer(exact(evaluations=evaluations)))
    assert ("spender" in records) is not refused
    if refused:
        assert reasons["spender"] == "refused: asked for 60 evaluations, the batch has 54"


def test_the_budget_is_that_of_every_backward_pass():
    estimator = PeerEstimator(exact(evaluations=2), 1.0, SIGMA, 1, evaluations=2)
    box = ndgrad.wrap(lambda x: x.sum(-1, keepdim=True), estimator=estimator)
    for _ in range(3):
        box(torch.ones(4, 10, requires_grad=True)).sum().backward()
    assert box.num_evaluations == 3 * 4 * (1 + 2)
    estimator.evaluations = 1
    with pytest.raises(OverspentError, match="asked for 8 evaluations, the batch has 4"):
        box(torch.ones(4, 10, requires_grad=True)).sum().backward()


def test_a_library_that_fails_is_skipped_with_its_error(compare):
    def broken(problem):
        raise KeyError("inside")

    _, reasons = compare(broken=peer(broken))
    assert reasons["broken"] == "failed: KeyError: 'inside'"


def test_an_error_of_ours_ends_the_run(monkeypatch, tmp_path):
    def fail(*_):
        raise RuntimeError("ours")

    broken = dataclasses.replace(VARIANTS["diff_bypass"], build=fail)
    monkeypatch.setattr("benchmarks.plan.VARIANTS", {"diff_bypass": broken})
    with pytest.raises(RuntimeError, match="ours"):
        compare_estimators.main(Config(("quadratic_sine",), ("diff_bypass",), (9,), 2, tmp_path))


def test_what_is_not_installed_is_skipped_with_a_reason(compare):
    absent = dataclasses.replace(peer(exact()), module="no_such_library.inside")
    solver = peer(exact(), kind="solver")
    expensive = peer(exact(), probes_per_input=2, value=1)
    picky = peer(exact(), reason_against=lambda n, S: f"{n} inputs, {S} samples")
    _, reasons = compare(absent=absent, solver=solver, expensive=expensive, picky=picky)
    assert reasons == {
        "absent": "madeup is not installed; type pip install 'ndgrad[peers]'",
        "solver": "needs a solver whose inputs are the costs of its outputs",
        "expensive": "needs 21 evaluations for 10 inputs, has 9",
        "picky": "10 inputs, 9 samples",
    }


def test_peers_are_added_where_asked_for():
    plain, more = make_plan(Config()), make_plan(Config(peers=True))
    assert plain.estimators == list(VARIANTS)
    assert more.estimators == [*VARIANTS, *PEERS]
    chosen = make_plan(Config(estimators=("diff_bypass", "torchopt_naive")))
    assert chosen.estimators == ["diff_bypass", "torchopt_naive"]


@pytest.mark.parametrize(
    ("name", "evaluations", "samples"),
    [
        ("torchopt_naive", 41, 40),
        ("torchopt_antithetic", 41, 20),
        ("torchzero_spsa", 41, 20),
        ("torchzero_gaussian_smoothing", 41, 40),
        ("storchastic_batch_average", 41, 41),
        ("evotorch_symmetric", 41, 20),
        ("evotorch_separable", 41, 41),
        ("optax_perturbations", 41, 40),
        ("pyepo_dbb", 2, 0),
        ("pyepo_imle", 41, 20),
        ("scipy_central", 30, 0),
    ],
)
def test_peers_get_all_that_fits_into_the_budget(name, evaluations, samples):
    assert as_variant(PEERS[name], evaluations).num_samples(evaluations, num_inputs=10) == samples


def test_peer_budget_too_small():
    with pytest.raises(BudgetTooSmallError, match="needs 30 evaluations for 10 inputs, has 29"):
        as_variant(PEERS["scipy_central"], 29).num_samples(29, num_inputs=10)


def test_factors_by_hand():
    factors = {name: each.factor(0.5, 10) for name, each in PEERS.items() if each.conversion}
    assert factors == {
        "torchopt_forward": pytest.approx(4),
        "evotorch_symmetric": pytest.approx(4),
        "evotorch_separable": pytest.approx(4 * 10 / 9),
        "storchastic_moving_average": pytest.approx(1 / 0.995),
    }
    assert PEERS["torchopt_naive"].factor(0.5, 10) == 1


def test_share_of_the_newest_cost_by_its_own_arithmetic():
    """``b = 0.95 old + 0.05 mean(f)`` leaves ``f_s - b`` with 1 - 0.05 / S of ``f_s`` itself."""
    S = 4
    f = torch.eye(S)  # each sample's own unit
    own = (f - 0.05 * f.mean(0)).diagonal()
    torch.testing.assert_close(own, torch.full((S,), 1 / MOVING_AVERAGE.factor(0.7, S)))


def test_every_row_has_its_own_cotangent():
    v = torch.tensor([[1.5, -0.5], [0.25, 2.0], [-1.0, 0.75]])
    x = torch.arange(12.0).reshape(3, 4)
    problem = Problem(lambda z: torch.stack([z.sum(-1), z[:, 0]], -1), x, v, SIGMA, 5, 0)
    expected = v[:, 0] * x.sum(-1) + v[:, 1] * x[:, 0]
    torch.testing.assert_close(problem.values(x.expand(2, 3, 4)), expected.expand(2, 3))
    torch.testing.assert_close(problem.by_row(lambda value, z: value(z)), expected)
    torch.testing.assert_close(problem.by_row(lambda value, z: value(z.expand(7, 4)))[:, 6], expected)


def test_what_a_library_changes_in_place_stays_its_own():
    x = torch.ones(2, 3)
    problem = Problem(lambda z: z, x, torch.ones(2, 3), SIGMA, 1, 0)
    problem.by_row(lambda value, z: z.mul_(5))
    torch.testing.assert_close(x, torch.ones(2, 3))


def record(name, error, spread, library="ndgrad", **changes):
    values = {field.name: 0 for field in dataclasses.fields(Record)}
    values |= {"task": "t", "estimator": name, "library": library, "evaluations": 9, "kind": "sampling"}
    return Record(**values | {"relative_error": error, "relative_error_standard_error": spread} | changes)


def test_verdict_by_hand():
    ours, worse = record("a", 0.5, 0.03), record("b", 0.7, 0.01)
    close, far = record("c", 0.42, 0.04, "x"), record("d", 0.39, 0.04, "x", kind="solver")
    assert z_score(ours, far) == pytest.approx(-0.11 / 0.05)
    found = verdict([worse, ours, close])
    assert (found.ours, found.peer, found.sampling, found.better) == (ours, close, close, [])
    assert found.ratio(close) == pytest.approx(0.84)
    assert found.sentence() == (
        "no peer is better: ours a 0.5 ± 0.03; best peer c 0.42 ± 0.04, 0.84 times ours, z = -1.6"
    )
    found = verdict([worse, ours, close, far])
    assert found.better == [far]
    assert found.sentence() == (
        "PEER IS BETTER: d 0.39 ± 0.04; ours a 0.5 ± 0.03; best peer d 0.39 ± 0.04, 0.78 times ours, z = -2.2; "
        "best sampling peer c 0.42 ± 0.04, 0.84 times ours, z = -1.6"
    )


def test_verdict_names_what_is_no_better_than_zero():
    found = verdict([record("a", 1.3, 0.01), record("zero", 0.999, 0.001, "x")])
    assert "zero 0.999 ± 0.001 (no better than answering zero)" in found.sentence()


def test_verdict_leaves_out_those_that_learn_and_needs_both_sides():
    learner, fresh, other = (
        record("a", 0.1, 0.01, learns=True),
        record("b", 0.5, 0.01),
        record("c", 0.3, 0.01, "x"),
    )
    assert verdict([learner, fresh, other]).ours is fresh
    assert verdict([learner, other]) is None
    assert verdict([fresh]) is None


def test_deterministic_errors_differ_beyond_rounding_only():
    assert z_score(record("a", 0.5, 0), record("b", 0.5 - 1e-6, 0, "x")) > -2
    assert z_score(record("a", 0.5, 0), record("b", 0.49, 0, "x")) < -2
    assert z_score(record("a", 1.6e-5, 0), record("b", 1.5e-5, 0, "x")) > -2
    assert z_score(record("a", 6e-5, 0), record("b", 1.5e-5, 0, "x")) < -2


def test_budgets_as_multiples_of_the_inputs():
    plan = make_plan(Config(("quadratic_sine", "quadratic_sine_2"), fractions=(0.1, 10)))
    budgets = {task.name: plan.budgets(task) for task in plan.tasks}
    assert budgets == {
        "quadratic_sine": [("0.1 n", 2), ("10 n", 101)],
        "quadratic_sine_2": [("0.1 n", 2), ("10 n", 21)],
    }
    with pytest.raises(ValueError, match="--fractions must be positive multiples of n, got -1"):
        make_plan(Config(fractions=(1, -1)))


def test_a_budget_that_does_not_fit_into_memory_is_skipped():
    plan = make_plan(Config(("quadratic_sine_10000",), ("diff_bypass",), fractions=(0.1, 1)))
    fits, does_not = (compare_estimators.reason_to_skip(each) for each in plan.combinations())
    assert fits is None
    assert does_not == "10001 evaluations of 10000 inputs are too many for memory"


def test_all_tasks_by_one_word():
    assert [task.name for task in make_plan(Config(("all",))).tasks] == list(TASKS)


def _installed(name):
    if not installed(PEERS[name].module):
        pytest.skip(f"{PEERS[name].library} is not installed")
    return PEERS[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, each in PEERS.items() if each.kind != "solver"])
def test_installed_peer_is_unbiased_on_a_linear_function_within_its_budget(name):
    """Raw number times factor against the exact gradient, sigma = 0.3, two outputs, cotangents that differ."""
    each = _installed(name)
    torch.manual_seed(3)
    B, n, S = 150, 7, 4
    weight, v = torch.randn(n, 2), torch.tensor([[0.6, -0.2]]).expand(B, 2)
    calls = []

    def f(z):
        calls.append(len(z))
        return z @ weight + 0.8

    x = torch.linspace(-0.7, 1.2, n).expand(B, n)
    raw = each.make()(Problem(f, x, v, SIGMA, S, 11))
    probes = each.probes_per_input * n or each.probes_per_sample * S
    assert sum(calls) == B * (each.value + probes)
    assert_mean(each.factor(SIGMA, S) * raw.reshape(B, n), v[0] @ weight.T, name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, each in PEERS.items() if each.kind == "solver"])
def test_installed_peer_points_the_right_way_through_a_solver(name):
    each, task = _installed(name), TASKS["ranking"]()
    variant = as_variant(each, 41)
    torch.manual_seed(5)
    box = ndgrad.wrap(
        task.function, estimator=variant.build(task, variant.num_samples(41, 9)), interface="numpy"
    )
    x = task.start.clone().requires_grad_()
    (g,) = torch.autograd.grad(box(x), x, task.cotangent)
    assert box.num_evaluations <= 42 * task.batch
    true = task.closed_form(task.start, task.cotangent)
    assert torch.cosine_similarity(g.flatten(), true.flatten(), dim=0) > 0.6


@pytest.mark.filterwarnings("ignore")
def test_installed_nevergrad_goes_down():
    pytest.importorskip("nevergrad")
    task = TASKS["quadratic_sine_2"]()
    assert minimise(task, evaluations=60, seed=1) < task.score(task.start) - 0.5


def test_speed_summary_by_hand():
    seconds = {"ndgrad_orthogonal_pairs": 4.0, "ndgrad_gaussian_pairs": 2.0, "ndgrad_gaussian_loo": 3.0}
    seconds |= {"torchopt_naive": 100.0, "torchopt_forward": 60.0, "optax_perturbations": 5.0}
    found = peers_speed.summary(seconds | {"torchopt_sum_over_batch": 8.0})
    assert found["torchopt_at_least"] == 15
    assert found["vectorised_times_quickest_of_ours"] == {"optax_perturbations": 2.5}
    assert found["times_slowest_of_ours"]["torchopt_naive"] == 25
    assert found["milliseconds"]["ndgrad_gaussian_loo"] == 3000
    assert peers_speed.summary(dict.fromkeys(peers_speed.OURS, 1.0))["torchopt_at_least"] is None


def test_slow_calls_have_two_turns_and_quick_ones_all():
    turns = {"slow": 0, "quick": 0}

    def call(name, seconds):
        def run():
            turns[name] += 1
            peers_speed.time.sleep(seconds)

        return run

    found = peers_speed.interleaved({"slow": call("slow", 0.51), "quick": call("quick", 0.06)}, repeats=4)
    assert turns["slow"] == 2 + 2
    assert turns["quick"] >= 2 + 4
    assert found["slow"] == pytest.approx(0.51, rel=0.5)


@pytest.mark.filterwarnings("ignore")
def test_speed_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(peers_speed, "PEERS", {"scipy_central": PEERS["scipy_central"]})
    monkeypatch.setattr(peers_speed, "_other_ways", lambda *_: ())
    config = peers_speed.Config(num_inputs=3, batch=4, evaluations=12, repeats=1, out=tmp_path)
    results = peers_speed.main(config)
    assert set(results["milliseconds"]) == {*peers_speed.OURS, "scipy_central"}
    assert json.loads((tmp_path / "peers_speed.json").read_text()) == json.loads(json.dumps(results))


def test_summary_of_runs_lets_the_later_result_count(compare, tmp_path, capsys):
    compare(wrong=peer(exact(0.5)))
    first, later = tmp_path / "first", tmp_path / "later"
    for folder in (first, later):
        folder.mkdir()
        (folder / "results.json").write_text((tmp_path / "results.json").read_text())
    rows = [row for row in json.loads((later / "results.json").read_text()) if row["estimator"] == "wrong"]
    (later / "results.json").write_text(json.dumps([row | {"relative_error": 0.123456} for row in rows]))
    (later / "end_to_end.json").write_text("[1]")
    capsys.readouterr()
    results = peers_summary.main(peers_summary.Config((first, later), tmp_path / "out"))
    rows = [dict(zip(results["columns"], row, strict=True)) for row in results["rows"]]
    assert [row["relative_error"] for row in rows if row["estimator"] == "wrong"] == [0.1235]
    assert (results["peers_better"], results["tables"], len(results["configurations"])) == (1, 1, 2)
    assert results["verdicts"][0]["peer_better"] == ["wrong"]
    assert results["end_to_end"] == [1]
    assert json.loads((tmp_path / "out" / "peers.json").read_text()) == json.loads(json.dumps(results))
    printed = capsys.readouterr().out
    assert printed.startswith("quadratic_sine, 9 evaluations (9): PEER IS BETTER: wrong 0.123")
    assert "a peer is better by more than two standard errors in 1 of 1 tables" in printed


def test_summary_wants_results(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json with results"):
        peers_summary.main(peers_summary.Config((tmp_path,)))


@pytest.mark.parametrize(("evaluations", "wanted"), [(41, True), (40, False)])
def test_what_is_wanted_is_printed_beside_the_ratio(evaluations, wanted, capsys):
    ours, theirs = record("a", 0.01, 0.001), record("b", 0.5, 0.01, "x")
    pair = [dataclasses.replace(r, task="quadratic_sine", evaluations=evaluations) for r in (ours, theirs)]
    peers_summary._print([verdict(pair)])
    assert ("best sampling peer 50 times ours; at least 20 wanted" in capsys.readouterr().out) is wanted
