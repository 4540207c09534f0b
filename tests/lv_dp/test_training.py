from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from applications.lv_dp import checkpoint, evaluate, search, train
from applications.lv_dp import settings as settings_module
from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.checkpoint import MAX_VALUES, count_values
from applications.lv_dp.config import EstimatorName, EvaluateConfig, MethodName, TrainConfig
from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.slices import centroid
from applications.lv_dp.data.sources import load
from applications.lv_dp.data.splits import held_out_patients
from applications.lv_dp.errors import UsageError
from applications.lv_dp.model import METHODS
from applications.lv_dp.runs import Row, checkpoint_path, open_run
from applications.lv_dp.search import SearchConfig
from applications.lv_dp.settings_check import MAX_ITERATIONS

JOBS: list[tuple[MethodName, EstimatorName]] = [
    ("unet", "diff_bypass"),
    ("ray_ce", "diff_bypass"),
    ("soft_dp", "diff_bypass"),
    ("edpcnn", "diff_bypass"),
    ("edpcnn", "evolution_strategy"),
    ("edpcnn", "score_function"),
    ("edpcnn", "finite_difference"),
]


def job(png_folder: Path, out: Path, **changes: object) -> TrainConfig:
    config = TrainConfig(out=out, data=f"png:{png_folder}", num_train=6, profile="smoke", seed=2)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def metrics(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("method", "estimator"), JOBS)
def test_a_smoke_training_leaves_a_run_folder(
    method: MethodName, estimator: EstimatorName, png_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    results = train.main(job(png_folder, out, method=method, estimator=estimator))
    assert {path.name for path in out.iterdir()} == {
        "config.json", "checkpoint.pt", "metrics.csv", "results.json"
    }  # fmt: skip
    rows = metrics(out)
    assert [int(row["iteration"]) for row in rows] == list(range(1, 9))
    assert [row["iteration"] for row in rows if row["held_out_dice"]] == ["4", "8"]
    name = method
    assert float(rows[-1]["held_out_dice"]) == results["held_out"][name]["dice_whole"]
    assert (results["evaluations"] == 0) == (method != "edpcnn")
    assert bool(rows[0]["gradient_error"]) == ((method, estimator) == ("edpcnn", "diff_bypass"))
    config = json.loads((out / "config.json").read_text())
    assert not {name.split("-IM-")[0] for name in config["training_slices"]} & set(
        config["held_out_patients"]
    )


def test_the_pixel_loss_learns(png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path, method="unet", iterations=60))
    losses = [float(row["loss"]) for row in metrics(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


TUNED = {"regime": "tuned", "iterations": 8, "change": ("schedule=cosine", "warmup=3")}
RESUMED = [*(({"method": method, "estimator": estimator}) for method, estimator in JOBS), TUNED]


@pytest.mark.parametrize("changes", RESUMED)
def test_a_killed_training_goes_on_as_if_undisturbed(
    changes: dict[str, object],
    png_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed, killed = (job(png_folder, tmp_path / name, **changes) for name in ("a", "b"))
    train.main(undisturbed)
    take_step = train.step

    def dying_step(training: train.Training, iteration: int) -> train.Row:
        if iteration == 7:
            raise KeyboardInterrupt
        return take_step(training, iteration)

    monkeypatch.setattr(train, "step", dying_step)
    with pytest.raises(KeyboardInterrupt):
        train.main(killed)
    assert len(metrics(killed.out)) == 4
    monkeypatch.setattr(train, "step", take_step)
    torch.manual_seed(99)  # whatever else drew from the global generator in between
    train.main(killed)
    states = [checkpoint.load(checkpoint_path(config.out)) for config in (undisturbed, killed)]
    for key in ("model", "optimizer", "generator", "iteration"):
        torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=0)
    for row, expected in zip(metrics(killed.out), metrics(undisturbed.out), strict=True):
        assert row | {"seconds": ""} == expected | {"seconds": ""}


def test_training_dice_compares_with_the_training_masks(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = train.start(job(png_folder, tmp_path, method="unet"))
    monkeypatch.setitem(METHODS["unet"].predictions, "unet", lambda model, batch: batch.masks)
    assert train.training_dice(training) == 1.0
    monkeypatch.setitem(METHODS["unet"].predictions, "unet", lambda model, batch: ~batch.masks)
    assert train.training_dice(training) == 0.0
    assert training.model.training


def test_seeds_decide_everything(png_folder: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(name) + seed)
        train.main(job(png_folder, tmp_path / name, seed=seed, iterations=2))
    a, b, c = ([row["loss"] for row in metrics(tmp_path / name)] for name in "abc")
    assert a == b
    assert a != c


def test_more_iterations_extend_a_finished_run(png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path / "a", iterations=2))
    train.main(job(png_folder, tmp_path / "a", iterations=5))
    train.main(job(png_folder, tmp_path / "b", iterations=5))
    a, b = ([row["loss"] for row in metrics(tmp_path / name)] for name in "ab")
    assert a == b


def test_fewer_iterations_than_a_run_has_are_refused(png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path / "a", iterations=5))
    before = (tmp_path / "a" / "config.json").read_text()
    with pytest.raises(UsageError, match="has 5 iterations behind it, more than the 2 asked for"):
        train.main(job(png_folder, tmp_path / "a", iterations=2))
    assert (tmp_path / "a" / "config.json").read_text() == before


def test_a_checkpoint_can_hold_the_rows_of_the_longest_training() -> None:
    row = dataclasses.asdict(Row(1, 0.5, 0.1, 20, 0.3, 0.9, 0.9))
    left = count_values([row])
    assert (MAX_VALUES - left) * MAX_ITERATIONS < 0.9 * MAX_VALUES


def test_a_step_augments_and_sets_the_rate_as_asked(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(train, "augment", lambda batch, generator: calls.append(len(batch)) or batch)
    for name, changes, expected in (("a", ("augment=true", "warmup=10"), [4]), ("b", (), [])):
        training = train.start(job(png_folder, tmp_path / name, method="unet", change=changes))
        calls.clear()
        train.step(training, 3)
        assert calls == expected
        rate = 1e-3 * (0.3 if changes else 1.0)
        assert training.optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_a_falling_learning_rate_cannot_be_extended(png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path, iterations=2, change=("schedule=cosine",)))
    with pytest.raises(UsageError, match=r"other values of settings\.iterations"):
        train.main(job(png_folder, tmp_path, iterations=5, change=("schedule=cosine",)))


def test_search_leaves_the_held_out_patients_aside(png_folder: Path, tmp_path: Path) -> None:
    config = SearchConfig(
        out=tmp_path, data=f"png:{png_folder}", method="unet", profile="smoke", num_train=4,
        change=("batch_size=2",),
    )  # fmt: skip
    monkey = pytest.MonkeyPatch()
    monkey.setitem(settings_module.TUNED, "unet", {"iterations": 2})
    results = search.main(config)
    monkey.undo()
    candidates = results["candidates"]
    assert {tuple(candidate["change"]) for candidate in candidates} == {
        (f"learning_rate={rate}", f"schedule={schedule}")
        for rate in search.GRID["learning_rate"] for schedule in search.GRID["schedule"]
    }  # fmt: skip
    assert [c["dice_whole"] for c in candidates] == sorted(
        (c["dice_whole"] for c in candidates), reverse=True
    )
    outer = held_out_patients(load(config.data), 1 / 3, 0)
    for run in tmp_path.glob("*/config.json"):
        used = json.loads(run.read_text())
        assert used["settings"]["batch_size"] == 2
        assert used["settings"]["augment"] is True
        assert not set(used["held_out_patients"]) & set(outer)
        assert not {name.split("-IM-")[0] for name in used["training_slices"]} & set(outer)
    assert json.loads((tmp_path / "search.json").read_text())["candidates"] == candidates


def test_a_run_folder_of_another_configuration_is_refused(png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path, iterations=1))
    with pytest.raises(UsageError, match="other values of seed"):
        train.main(job(png_folder, tmp_path, iterations=1, seed=5))


@pytest.mark.parametrize("method", ["unet", "edpcnn"])
def test_evaluate_scores_every_image(method: MethodName, png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path, method=method, iterations=2))
    config = EvaluateConfig(run=tmp_path, data=f"png:{png_folder}", json=tmp_path / "all.json")
    results = evaluate.main(config)
    assert json.loads(config.json.read_text()) == results
    assert {"versions", "device", "config", "iteration"} <= results.keys()
    assert (results["count"], results["dropped"], len(results["images"])) == (16, 1, 16)
    names = {"unet", "unet_dp"} if method == "unet" else {"edpcnn"}
    assert results["methods"].keys() == names | {"mean_circle"}
    for name, summary in results["methods"].items():
        for key, score in (("dice", "dice_whole"), ("dice_square", "dice_square")):
            values = [image[name][score] for image in results["images"]]
            assert summary[key]["mean"] == pytest.approx(sum(values) / 16)
            assert all(0 <= value <= 1 for value in values)


def test_held_out_scores_of_training_and_evaluation_agree(png_folder: Path, tmp_path: Path) -> None:
    trained = train.main(job(png_folder, tmp_path, iterations=3))
    config = EvaluateConfig(
        run=tmp_path, data=f"png:{png_folder}", json=tmp_path / "held_out.json", subset="held_out"
    )
    results = evaluate.main(config)
    for name, scores in trained["held_out"].items():
        summary = results["methods"][name]
        found = {"dice_whole": summary["dice"]["mean"], "dice_square": summary["dice_square"]["mean"]}
        assert found == pytest.approx(scores)
    assert results["patients"] == open_run(tmp_path).held_out


def test_evaluate_takes_given_centers(png_folder: Path, tmp_path: Path) -> None:
    train.main(job(png_folder, tmp_path, iterations=1))
    names = sorted(path.stem for path in (png_folder / "images").glob("*.png"))
    (tmp_path / "c.csv").write_text("name,x,y\n" + "\n".join(f"{name},3,3" for name in names))
    config = EvaluateConfig(
        run=tmp_path, data=f"png:{png_folder}", json=tmp_path / "e.json", centers=tmp_path / "c.csv"
    )
    with pytest.warns(
        UserWarning, match=r"c\.csv: 16 of the 16 centres lie outside .* columns x,y are in pixels"
    ):
        assert evaluate.main(config)["methods"]["mean_circle"]["dice"]["mean"] < 0.1


def test_a_warning_of_centers_is_for_most_of_them(phantom: SliceSet) -> None:
    inside = [centroid(item.mask) for item in phantom.slices]
    outside = [torch.tensor([200.0, -3.0]) for _ in phantom.slices]
    path = Path("c.csv")
    evaluate.warn_of_centers_outside(path, outside[:8] + inside[8:], phantom)
    with pytest.warns(UserWarning, match=r"c\.csv: 9 of the 16 centres"):
        evaluate.warn_of_centers_outside(path, outside[:9] + inside[9:], phantom)


def test_evaluate_says_what_was_trained_on(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(job(png_folder, tmp_path, method="unet", iterations=1))
    target = tmp_path / "e.json"
    words = ["evaluate", "--run", str(tmp_path), "--data", f"png:{png_folder}", "--json", str(target)]
    note = "6 of the 16 slices were trained on; type --subset held_out"
    for more, count in (([], 6), (["--subset", "held_out"], 0)):
        status, out, _ = run_command([*words, *more], capsys)
        assert status == 0
        assert json.loads(target.read_text())["count_trained_on"] == count
        assert (note in out) == (count == 6)
        assert ("trained on" in out) == (count == 6)


def test_train_says_what_it_trains_on(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--method", "unet", "--profile", "smoke", "--iterations", "1", "--num-train", "5"]
    _, out, _ = run_command([*words, "--data", f"png:{png_folder}", "--out", str(tmp_path / "a")], capsys)
    assert f"5 training slices of png:{png_folder}\n" in out
    _, out, _ = run_command([*words, "--out", str(tmp_path / "b")], capsys)
    assert "5 training slices of phantom (drawn hearts; --data names others)\n" in out


def test_ten_slices_that_are_too_few_for_ten_to_train_on(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--profile", "smoke", "--data", f"png:{png_folder}", "--num-train", "16"]
    status, _, error = run_command([*words, "--out", str(tmp_path / "r")], capsys)
    assert status == 2
    assert "1 .. 12 (slices of the 3 training patients; 1 put aside by --held-out" in error


def run_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = command_line(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_line_trains_and_evaluates(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = str(tmp_path / "run"), f"png:{png_folder}"
    words = ["train", "--method", "unet", "--estimator", "evolution_strategy", "--data", data]
    words += ["--num-train", "5", "--profile", "smoke", "--seed", "1", "--iterations", "2", "--out", run]
    status, out, _ = run_command(words, capsys)
    assert status == 0
    assert "--estimator is ignored" in out
    target = tmp_path / "scores" / "e.json"
    status, out, _ = run_command(["evaluate", "--run", run, "--data", data, "--json", str(target)], capsys)
    assert status == 0
    assert "unet_dp" in out
    assert json.loads(target.read_text())["count"] == 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--data", "png:nowhere"], "nowhere: no such folder"),
        (["--data", "nothing"], "must be phantom, png:DIR"),
        (["--num-train", "999"], "--num-train must be in"),
        (["--iterations", "0"], "--iterations must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--held-out", "1.5"], "--held-out is a fraction"),
        (["--iterations", "100001"], "iterations must be in 1 .. 100000, got 100001"),
        (["--change", "smoothing=4"], "smoothing must be odd"),
        (["--change", "delta=-1"], "--change: delta must be in 0 .. 2048, got -1"),
        (["--change", "evaluate_every=0"], "evaluate_every must be in 1"),
        (["--change", "batch_size=0"], "batch_size must be in 1"),
        (["--change", "sigma=nan"], "sigma must be in"),
        (
            ["--change", "sigma=2", "--change=delta=2"],
            "--change is given twice; give it once, with all values",
        ),
        (["--gradient-form", "composed"], "--gradient-form composed needs"),
    ],
)
def test_wrong_values_are_one_line(
    changes: list[str], words: str, png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "--profile", "smoke", "--data", f"png:{png_folder}", "--out", str(tmp_path / "r")]
    status, _, error = run_command(arguments + changes, capsys)
    assert status == 2
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


def test_evaluating_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--run", str(tmp_path), "--data", "phantom", "--json", str(tmp_path / "e.json")]
    status, _, error = run_command(arguments, capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert f"{tmp_path / 'checkpoint.pt'}: no such file" in error


def test_a_folder_that_cannot_be_written_is_one_line(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = ["train", "--profile", "smoke", "--data", f"png:{png_folder}", "--num-train", "5"]
    status, _, error = run_command([*arguments, "--out", str(tmp_path / "file" / "run")], capsys)
    assert (status, error.count("\n")) == (2, 1)
    assert str(tmp_path / "file") in error


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "c.pt", {"value": torch.ones(2)})

    def failing_save(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", failing_save)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path / "c.pt", {"value": torch.zeros(2)})
    torch.testing.assert_close(checkpoint.load(tmp_path / "c.pt")["value"], torch.ones(2))
