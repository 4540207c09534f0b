from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from applications.lv_dp import train
from applications.lv_dp.config import TrainConfig
from benchmarks import left_ventricle_table
from benchmarks.left_ventricle_table import Config, main


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of the pixel loss and of two gradients, eight iterations each."""
    folder = tmp_path_factory.mktemp("runs")
    base = TrainConfig(out=folder, profile="smoke", num_train=4)
    for seed in (3, 4):
        for name in ("unet", "diff_bypass", "score_function"):
            method = "unet" if name == "unet" else "edpcnn"
            estimator = "diff_bypass" if name == "unet" else name
            changes = {
                "method": method,
                "estimator": estimator,
                "seed": seed,
                "out": folder / f"{name}-{seed}",
            }
            train.main(dataclasses.replace(base, **changes))
    return folder


def test_rows_hold_the_runs_own_scores(runs, tmp_path):
    results = main(Config(runs, tmp_path))
    rows = results["rows"]
    assert {name: row["seeds"] for name, row in rows.items()} == {
        "mean_circle": [3, 4], "unet": [3, 4], "unet_dp": [3, 4], "ray_ce": [], "soft_dp": [],
        "finite_difference": [], "evolution_strategy": [], "score_function": [3, 4], "diff_bypass": [3, 4],
    }  # fmt: skip
    for name, method in (("score_function", "edpcnn"), ("unet", "unet_dp"), ("unet", "mean_circle")):
        own = [json.loads((runs / f"{name}-{seed}" / "results.json").read_text()) for seed in (3, 4)]
        row = rows[name if method == "edpcnn" else method]
        assert row["dice_whole"] == [run["held_out"][method]["dice_whole"] for run in own]
        assert row["dice_square"] == [run["held_out"][method]["dice_square"] for run in own]
    assert rows["score_function"]["evaluations"] == 4 * (1 + 4)
    assert json.loads((tmp_path / "left_ventricle_table.json").read_text()) == results


def test_markdown_states_mean_and_deviation():
    row = {"seeds": [0, 1, 2], "dice_whole": [0.7, 0.8, 0.9], "dice_square": [0.5, 0.5, 0.8]}
    row |= {"seconds": 12.4, "evaluations": 10.0}
    table = left_ventricle_table.markdown({"rows": {"diff_bypass": row}})
    assert "| 0.800 ± 0.100 | 0.600 ± 0.173 | 10 | 12 |" in table.splitlines()[-1]


def test_runs_of_other_settings_do_not_share_a_table(runs, tmp_path):
    for name in ("unet-3", "diff_bypass-3"):
        (tmp_path / name).mkdir()
        run = json.loads((runs / name / "results.json").read_text())
        run["config"]["num_train"] += name == "unet-3"
        (tmp_path / name / "results.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="different num_train"):
        main(Config(tmp_path))


def test_the_command_line_reports_an_empty_folder_in_one_line(tmp_path):
    command = [sys.executable, "-m", "benchmarks.left_ventricle_table", "--runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"error: {tmp_path}: no run folder with a results.json below it"]
