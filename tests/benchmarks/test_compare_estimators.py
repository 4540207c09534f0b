"""The comparison from the command line to its files, at its smallest."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields

import pytest

from benchmarks import compare_estimators
from benchmarks.console import print_results
from benchmarks.peers import PEERS
from benchmarks.plan import QUICK, Config, make_plan
from benchmarks.records import Record, Skipped
from benchmarks.tasks import DEFAULT_TASKS, TASKS
from benchmarks.variants import VARIANTS

ESTIMATORS = ("finite_difference_central", "evolution_strategy_orthogonal_pairs", "diff_bypass")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    config = Config(
        tasks=("quadratic_sine", "sign_layer"),
        estimators=ESTIMATORS,
        evaluations=(9, 23),
        seeds=2,
        out=out,
        quick=True,
    )
    return compare_estimators.main(config), out


def test_records_have_every_field_and_a_number_for_every_error(run):
    _, out = run
    rows = json.loads((out / "results.json").read_text())
    assert {field.name for field in fields(Record)} == set(rows[0])
    for row in rows:
        assert isinstance(row["relative_error"], float)
        assert row["evaluations_used"] <= row["evaluations"]
        assert row["seeds"] == [0, 1]
        assert row["configuration"]["quick"] is True
        assert {"torch", "numpy", "ndgrad", "python"} <= set(row["versions"])
        assert row["threads"] >= 1
        assert row["device"].startswith("cpu")


def test_every_combination_is_run_or_skipped_with_a_reason(run):
    records, out = run
    skipped = json.loads((out / "skipped.json").read_text())
    assert len(records) + len(skipped) == 2 * 2 * len(ESTIMATORS)
    assert {(e["task"], e["estimator"], e["evaluations"]) for e in skipped} == {
        ("quadratic_sine", "finite_difference_central", 9),
        ("sign_layer", "finite_difference_central", 9),
        ("sign_layer", "finite_difference_central", 23),
    }
    assert all(re.fullmatch(r"needs \d+ evaluations for \d+ inputs, has \d+", e["reason"]) for e in skipped)


def test_central_differences_are_nearly_exact_on_a_smooth_function(run):
    records, _ = run
    (central,) = (r for r in records if r.estimator == "finite_difference_central")
    assert central.evaluations_used == 21
    assert central.relative_error < 0.02  # what sigma = 0.05 smooths away
    assert central.variance == 0
    assert central.objective_end < central.objective_start


def test_csv_holds_the_same_rows(run):
    _, out = run
    rows = json.loads((out / "results.json").read_text())
    with (out / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert {k: v if isinstance(row[k], str) else json.loads(v) for k, v in line.items()} == row


def test_report_needs_no_other_file(run):
    _, out = run
    text = (out / "report.html").read_text()
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', text)
    assert len(sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"<script|<link|@import|url\(|https?://", text)
    assert "$" not in re.sub(r'"data:[^"]*"', "", text)  # every placeholder is filled
    for word in ("quadratic_sine", "sign_layer", *ESTIMATORS, "needs 21 evaluations", "ms per call"):
        assert word in text


def test_plots_are_written_and_nothing_is_left_half_done(run):
    _, out = run
    names = {path.name for path in out.iterdir()}
    plots = {"relative_error.png", "bias_variance.png", "seconds.png", "objective.png"}
    assert names == plots | {"results.json", "results.csv", "skipped.json", "report.html"}
    assert all((out / plot).read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_printed_table_has_units_and_says_how_to_read_it(capsys, tmp_path):
    config = Config(
        ("ranking",), ("score_function_loo", "finite_difference_central"), (5,), 2, tmp_path, quick=True
    )
    compare_estimators.main(config)
    printed = " ".join(capsys.readouterr().out.split())
    for words in (
        "ranking: 5 evaluations per row",
        "ms per call",
        "How to read:",
        "skipped: ranking: finite_difference_central: needs 19",
        "report.html",
    ):
        assert words in printed


def test_brackets_of_an_extra_are_printed(capsys):
    print_results([], [Skipped("ranking", "torchopt", 9, "type pip install 'ndgrad[peers]'")], [])
    assert "pip install 'ndgrad[peers]'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "rankin"], f"error: unknown task 'rankin'; valid: {', '.join(TASKS)}, all"),
        (
            ["--estimators", "adam"],
            f"error: unknown estimator 'adam'; valid: {', '.join([*VARIANTS, *PEERS])}",
        ),
        (["--evaluations", "1"], "error: --evaluations must be at least 2 (the value and one probe), got 1"),
        (["--seeds", "1"], "error: --seeds must be at least 2 (a variance is reported), got 1"),
        (["--out", __file__], f"error: --out must name a folder, got the file {__file__}"),
        (
            ["--tasks", "ranking", "--estimators", "finite_difference_forward", "--evaluations", "4"],
            "error: no estimator can work with these --evaluations: "
            "the first needs 10 evaluations for 9 inputs, has 4",
        ),
    ],
)
def test_wrong_arguments_get_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["compare_estimators", *arguments])
    with pytest.raises(SystemExit) as stop:
        compare_estimators.cli()
    assert stop.value.code == 2
    assert capsys.readouterr().err == message + "\n"


def test_defaults():
    plan = make_plan(Config())
    assert [task.name for task in plan.tasks] == list(DEFAULT_TASKS)
    assert plan.estimators == list(VARIANTS)
    assert make_plan(Config(quick=True)).effort == QUICK
