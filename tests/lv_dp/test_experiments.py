from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.data import SliceSet
from applications.lv_dp.experiments import approximation, published, registry, reproduce
from applications.lv_dp.experiments.options import ReproduceConfig

NAMES = (*registry.EXPERIMENTS, *registry.ALIASES)
THESIS_TABLE_5_1 = """
| training slices | 10 | 20 | 50 | 100 | 200 | 500 | 1000 | 1436 |
| unet | .5115 | .6511 | .7321 | .7990 | .8392 | .8862 | .9020 | .9096 |
| unet_dp | .6025 | .6558 | .7296 | .8135 | .8558 | .8891 | .8978 | .9031 |
| edpcnn | .7270 | .7569 | .8015 | .8328 | .8701 | .8990 | .9093 | .9137 |
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all smoke runs, as cells are shared by experiments."""
    return tmp_path_factory.mktemp("reproduce")


def smoke(name: str, out: Path, **changes: Any) -> ReproduceConfig:
    return ReproduceConfig(name, out, profile="smoke", **changes)


def table(contents: dict[str, Any]) -> dict[tuple[str, Any], float | None]:
    return {(entry["row"], entry["column"]): entry["mean"] for entry in contents["table"]}


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_runs_from_the_command_line(
    name: str, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "table-5-2":
        pytest.importorskip("monai")
    words = ["reproduce", name, "--profile", "smoke", "--data", "phantom", "--out", str(shared)]
    assert command_line(words) == 0
    printed = capsys.readouterr().out
    assert "not measured" not in printed
    contents = json.loads((shared / f"{name}.json").read_text())
    assert contents["command"].startswith(f"python -m applications.lv_dp reproduce {name} --profile smoke")
    assert {"versions", "device", "options", "published"} <= contents.keys()
    assert contents["table"]
    assert all(entry["status"] == "measured" for entry in contents["table"])
    for cell in contents["cells"]:
        assert json.loads((shared / cell["folder"] / "cell.json").read_text())["result"] == cell["result"]
    with Image.open(shared / f"{name}.png") as picture:
        assert min(picture.size) >= 400


@pytest.mark.parametrize("name", registry.EXPERIMENTS)
def test_without_time_everything_is_not_measured(name: str, tmp_path: Path) -> None:
    contents = reproduce.main(smoke(name, tmp_path, minutes=0))
    assert {cell["status"] for cell in contents["cells"]} == {"not measured"}
    assert {cell["result"] for cell in contents["cells"]} == {None}
    assert {entry["status"] for entry in contents["table"]} == {"not measured"}
    assert set(table(contents).values()) == {None}
    assert (tmp_path / f"{name}.png").is_file()


def test_experiments_share_cells(tmp_path: Path) -> None:
    keys = {
        name: {cell["folder"] for cell in reproduce.main(smoke(name, tmp_path, minutes=0))["cells"]}
        for name in ("table-5-1", "figure-5-5", "figure-5-6", "figure-5-9", "ablation-samples")
    }
    assert keys["figure-5-5"] <= keys["table-5-1"]
    assert keys["figure-5-6"] <= keys["table-5-1"]
    assert keys["figure-5-9"] & keys["table-5-1"]  # EDPCNN on the full U-Net
    assert keys["ablation-samples"] & keys["table-5-1"]  # the profile's own S


def test_the_same_table_under_both_names(shared: Path) -> None:
    one, other = (reproduce.main(smoke(name, shared)) for name in ("table-5-1", "figure-5-3"))
    assert table(one) == table(other)
    assert [cell["folder"] for cell in one["cells"]] == [cell["folder"] for cell in other["cells"]]


def test_the_table_is_the_mean_over_images_and_seeds(shared: Path) -> None:
    contents = reproduce.main(smoke("ablation-samples", shared, seeds=(0, 1)))
    entry = contents["table"][0]
    folders = [cell for cell in contents["cells"] if "bypass_samples1" in cell["folder"]]
    means = []
    for cell in folders:
        scores = [image["edpcnn"]["dice_square"] for image in cell["result"]["images"]]
        means.append(sum(scores) / len(scores))
    assert entry["values"] == pytest.approx(means)
    assert entry["mean"] == pytest.approx((means[0] + means[1]) / 2)
    assert entry["deviation"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    curve = folders[0]["result"]["curve"]
    assert [point["iteration"] for point in curve] == [4, 8]
    assert all(0 < point["train_dice"] <= 1 for point in curve)
    assert folders[0]["result"]["best_of_curve"] == max(point["held_out_dice"] for point in curve)


def test_half_measured_is_said(shared: Path, tmp_path: Path) -> None:
    contents = reproduce.main(smoke("ablation-samples", shared))
    for cell in contents["cells"]:
        shutil.copytree(shared / cell["folder"], tmp_path / cell["folder"])
    contents = reproduce.main(smoke("ablation-samples", tmp_path, seeds=(0, 7), minutes=0))
    assert {entry["status"] for entry in contents["table"]} == {"1 of 2 measured"}
    assert {entry["deviation"] for entry in contents["table"]} == {None}


def test_methods_are_compared_over_patients(shared: Path) -> None:
    contents = reproduce.main(smoke("table-5-1", shared))
    assert len(contents["paired"]) == 6 * 2 * 2  # every other method at every size, by both scores
    assert {line["score"] for line in contents["paired"]} == {"dice_square", "dice_whole"}
    for line in contents["paired"]:
        assert (line["reference"], line["patients"], line["seeds"]) == ("EDPCNN", 4, 1)
        assert 0 < line["p_value"] <= 1


def test_an_unmoved_centre_scores_as_in_training(shared: Path) -> None:
    moved, trained = (table(reproduce.main(smoke(name, shared))) for name in ("figure-5-4", "table-5-1"))
    for size in (4, 8):
        assert moved[f"{size} training slices", 0.0] == pytest.approx(trained["EDPCNN", size])
        assert moved[f"{size} training slices", 0.5] != moved[f"{size} training slices", 0.0]


def test_wide_networks_fit_better(tmp_path: Path) -> None:
    cells = [approximation.FitCell(hidden, 400, 0) for hidden in (10, 200)]
    few, many = (cell.run(tmp_path, None, lambda done, total: None)["rmse"] for cell in cells)  # type: ignore[arg-type]
    assert many < 0.2 < few


def test_published_numbers_are_those_of_the_thesis() -> None:
    header, *rows = (
        [word.strip() for word in line.split("|")[1:-1]] for line in THESIS_TABLE_5_1.split("\n")[1:-1]
    )
    assert tuple(map(int, header[1:])) == published.SIZES
    assert [row[0] for row in rows] == list(published.TABLE_5_1)
    for name, *numbers in rows:
        assert published.TABLE_5_1[name] == dict(zip(published.SIZES, map(float, numbers), strict=True))
    assert published.LATER == {
        "unet": {10: 0.695, 1436: 0.944}, "unet_dp": {10: 0.719, 1436: 0.936}, "edpcnn": {10: 0.907, 1436: 0.947}
    }  # fmt: skip
    unet, edpcnn = published.TABLE_5_2["unet"], published.TABLE_5_2["edpcnn"]
    assert [edpcnn[part] / unet[part] for part in unet] == pytest.approx([1.64, 1.16], abs=0.005)


def test_every_claim_belongs_to_an_experiment() -> None:
    assert published.CLAIMS.keys() <= registry.EXPERIMENTS.keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "figure-9-9"}, "there is no 'figure-9-9'; NAME is one of ablation-capacity,"),
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"minutes": -1}, "--minutes must be at least 0"),
        ({"seeds": "1 1"}, "--seeds must differ"),
        ({"sizes": "5 5"}, "--sizes must differ"),
        ({"sizes": "0"}, "--sizes must be at least 1"),
        ({"data": "nothing"}, "--data must be"),
    ],
)
def test_wrong_words_are_one_line(
    changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reproduce", changes.pop("name", "figure-5-6"), "--out", str(tmp_path)]
    for name, value in changes.items():
        arguments += [f"--{name}", *str(value).split()]
    assert command_line(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_help_lists_the_experiments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line(["reproduce", "--help"])
    printed = capsys.readouterr().out
    for name in NAMES:
        assert name in printed


def test_sizes_are_those_of_the_profile_or_those_given() -> None:
    plain = ReproduceConfig("table-5-1", Path("unused"), profile="smoke")
    assert plain.all_sizes() == [4, 8]
    assert dataclasses.replace(plain, sizes=(9, 3)).all_sizes() == [3, 9]
    assert dataclasses.replace(plain, profile="thesis").all_sizes() == [
        10,
        20,
        50,
        64,
    ]  # the phantom has no more


def test_sizes_are_those_that_every_seed_can_train_on(
    phantom: SliceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("applications.lv_dp.experiments.options.shared_data", lambda spec: phantom)
    options = ReproduceConfig("table-5-1", Path("unused"), hold_out="thirds", seeds=(0, 1, 2))
    assert options.at_most(100) == len(
        phantom.of_patients(phantom.patients[1:3])
    )  # seed 0 holds out two of four
    assert dataclasses.replace(options, seeds=(2,)).at_most(100) == len(
        phantom.of_patients(phantom.patients[1:])
    )
