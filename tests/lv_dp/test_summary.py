from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from applications.lv_dp import evaluate, tables, train
from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.config import EvaluateConfig, TrainConfig
from applications.lv_dp.data import Slice, SliceSet
from applications.lv_dp.data.preprocess import Batch, prepare
from applications.lv_dp.evaluate import all_scores, describe, distance_unit, score_images
from applications.lv_dp.model import Segmenter
from applications.lv_dp.settings import PROFILES
from applications.lv_dp.summary import by_size, spread, summaries, summary
from applications.lv_dp.volumes import agreement, volumes

SMOKE = PROFILES["smoke"]
SPACING = (1.5, 2.0)


def evaluated(slices: list[Slice], predict: Any) -> list[dict[str, Any]]:
    """Records as `evaluate.main` makes them, of a prediction (model, batch) -> masks called ``m``."""
    data = SliceSet(tuple(slices), (), "test")
    unit = distance_unit(slices)
    batch = prepare(slices, 64)
    images = score_images(Segmenter(SMOKE), data, batch, {"m": predict}, partial(all_scores, unit))
    return [describe(item, unit) | image for item, image in zip(slices, images, strict=True)]


def truth(model: Segmenter, batch: Batch) -> Tensor:
    return batch.masks


def nothing(model: Segmenter, batch: Batch) -> Tensor:
    return torch.zeros_like(batch.masks)


def one_row_lower(model: Segmenter, batch: Batch) -> Tensor:
    return batch.masks.roll(1, dims=1)


def with_spacing(phantom: SliceSet) -> list[Slice]:
    return [dataclasses.replace(item, spacing=SPACING) for item in phantom.slices]


def without_spacing(phantom: SliceSet) -> list[Slice]:
    return [dataclasses.replace(item, spacing=None, slice_spacing=None) for item in phantom.slices]


# --- Dice and distances


def test_the_truth_scores_perfectly(phantom: SliceSet) -> None:
    found = summary(evaluated(with_spacing(phantom), truth), "m")
    assert (found["method"], found["n"], found["empty"], found["unit"]) == ("m", 16, 0, "mm")
    assert found["dice"] == found["dice_square"] == {"mean": 1.0, "std": 0.0}
    for key in ("assd_mm", "hd_mm", "hd95_mm"):
        assert found[key] == {"mean": 0.0, "std": 0.0, "n": 16, "mean_with_empty": 0.0, "unit": "mm"}


def test_distances_are_in_millimetres_from_row_to_row(phantom: SliceSet) -> None:
    found = summary(evaluated(with_spacing(phantom), one_row_lower), "m")
    assert found["hd_mm"]["mean"] == pytest.approx(SPACING[0])
    plain = summary(evaluated(without_spacing(phantom), one_row_lower), "m")
    assert (plain["hd_mm"]["mean"], plain["hd_mm"]["unit"], plain["unit"]) == (pytest.approx(1.0), "px", "px")


def test_one_image_without_spacing_makes_all_distances_pixels(phantom: SliceSet) -> None:
    slices = [*with_spacing(phantom)[:3], without_spacing(phantom)[3]]
    images = evaluated(slices, one_row_lower)
    assert {image["unit"] for image in images} == {"px"}
    assert {image["m"]["hd"] for image in images} == {1.0}


def test_empty_predictions_count_in_dice_and_not_in_the_distances(phantom: SliceSet) -> None:
    def first_is_empty(model: Segmenter, batch: Batch) -> Tensor:
        masks = one_row_lower(model, batch)
        masks[0] = False
        return masks

    slices = with_spacing(phantom)[:4]
    found = summary(evaluated(slices, first_is_empty), "m")
    others = summary(evaluated(slices[1:], one_row_lower), "m")
    assert found["empty"] == 1
    assert found["dice"]["mean"] == pytest.approx(others["dice"]["mean"] * 3 / 4)
    for key in ("assd_mm", "hd_mm", "hd95_mm"):
        assert {**found[key], "mean_with_empty": 0} == {**others[key], "mean_with_empty": 0}
        diagonal = 63 * (SPACING[0] ** 2 + SPACING[1] ** 2) ** 0.5
        assert found[key]["mean_with_empty"] == pytest.approx((3 * others[key]["mean"] + diagonal) / 4)


def test_nothing_but_empty_predictions_is_a_result_too(phantom: SliceSet) -> None:
    images = evaluated(without_spacing(phantom), nothing)
    found = summaries(images)
    json.dumps(found, allow_nan=False)
    assert found["m"]["empty"] == found["m"]["n"] == 16
    assert found["m"]["dice"]["mean"] == 0.0
    assert (found["m"]["assd_mm"]["mean"], found["m"]["assd_mm"]["n"]) == (None, 0)
    assert len(tables.evaluation_tables(found, "title")) == 2


def test_the_square_lies_around_the_centre_in_the_whole_image() -> None:
    """What is drawn beyond the star's reach lowers only the whole-image Dice; a missing row lowers both."""

    def far_too(model: Segmenter, batch: Batch) -> Tensor:
        masks = batch.masks.clone()
        for mask, center in zip(masks, batch.centers, strict=True):
            x, y = (round(value) for value in center.tolist())
            mask[: y - 29, :] = True
            mask[:, x + 30 :] = True
            mask[y] = False
        return masks

    image, mask = torch.zeros(200, 230), torch.zeros(200, 230, dtype=torch.bool)
    mask[140:160, 50:70] = True
    found = summary(evaluated([Slice("a", "a", image, mask)], far_too), "m")
    assert SMOKE.star.reach == 28
    assert found["dice_square"]["mean"] == pytest.approx(2 * 380 / (400 + 380))
    assert found["dice"]["mean"] < 0.75


def test_spread_is_the_sample_deviation() -> None:
    assert spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(7**0.5)}
    assert spread([4.0]) == {"mean": 4.0, "std": 0.0}


# --- by size and by patient


def record(name: str, area: int, dice: float, **more: Any) -> dict[str, Any]:
    plain = {"name": name, "patient": name[0], "phase": None, "size": [9, 9], "spacing": None}
    plain |= {"slice_spacing": None, "unit": "px", "area_px": area}
    scores = {"dice_whole": dice, "dice_square": dice, "area_px": area, "assd": 0.0, "hd": 0.0, "hd95": 0.0}
    return plain | more | {"m": scores}


def test_thirds_go_by_true_area() -> None:
    areas = [70, 10, 40, 60, 20, 50, 30]
    found = by_size([record(f"p{area}", area, area / 100) for area in areas], "m")
    assert [found[size]["n"] for size in ("small", "medium", "large")] == [3, 2, 2]
    assert [found[size]["area"] for size in ("small", "medium", "large")] == [[10, 30], [40, 50], [60, 70]]
    assert [found[size]["dice"]["mean"] for size in found] == pytest.approx([0.2, 0.45, 0.65])


def test_thirds_are_in_square_millimetres_where_the_unit_is_known() -> None:
    """Of two images the one with fewer, larger pixels shows the larger ventricle."""
    images = [
        record("a", 100, 0.5, unit="mm", spacing=[1.0, 1.0]),
        record("b", 90, 0.9, unit="mm", spacing=[1.5, 2.0]),
    ]
    found = by_size(images, "m")
    assert [found[size]["n"] for size in found] == [1, 1, 0]
    assert found["medium"] == {
        "n": 1, "dice": {"mean": 0.9, "std": 0.0}, "area": [270.0, 270.0], "unit": "mm2"
    }  # fmt: skip
    assert found["large"]["dice"]["mean"] is None


def test_patients_are_averaged_one_by_one() -> None:
    images = [record("a1", 9, 0.2), record("b1", 9, 0.9), record("a2", 9, 0.4)]
    found = summary(images, "m")["patients"]
    assert found.keys() == {"a", "b"}
    assert (found["a"]["n"], found["a"]["dice"]["mean"]) == (2, pytest.approx(0.3))


# --- volumes


def cylinder(patient: str, phase: Any, radius: float, levels: int, **more: Any) -> list[Slice]:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    row, column = 1.2, 1.6
    mask = ((y - 32) * row) ** 2 + ((x - 30) * column) ** 2 <= radius**2
    item = Slice(
        "", patient, mask.float(), mask, spacing=(row, column), phase=phase, slice_spacing=8.0, **more
    )
    return [dataclasses.replace(item, name=f"{patient}-{phase}-{level}") for level in range(levels)]


def test_a_cylinder_has_its_volume() -> None:
    """Radius 30 mm and 80 mm long, then 20 mm and 64 mm: 226.2 ml, 80.4 ml, ejection fraction 64.4 %."""
    slices = cylinder("p", "ED", 30, 10) + cylinder("p", "ES", 20, 8)
    found = volumes(evaluated(slices, truth), "m")
    assert found is not None
    values = found["patients"]["p"]
    assert values["edv"]["true"] == pytest.approx(torch.pi * 30**2 * 80 / 1000, rel=0.01)
    assert values["esv"]["true"] == pytest.approx(torch.pi * 20**2 * 64 / 1000, rel=0.01)
    assert values["ef"]["true"] == pytest.approx(100 * (1 - 20**2 * 64 / (30**2 * 80)), rel=0.01)
    for part in ("edv", "esv", "ef"):
        assert values[part]["predicted"] == values[part]["true"]
        assert (found[part]["mae"], found[part]["bias"], found[part]["n"]) == (0.0, 0.0, 1)
        assert found[part]["lower"] is None


def test_volumes_of_a_prediction_are_its_own() -> None:
    def half(model: Segmenter, batch: Batch) -> Tensor:
        masks = batch.masks.clone()
        for mask in masks:
            rows, columns = mask.nonzero(as_tuple=True)
            mask[rows[::2], columns[::2]] = False
        return masks

    slices = [
        item
        for number, patient in enumerate("abc")
        for item in cylinder(patient, "ED", 30 - 4 * number, 10) + cylinder(patient, "ES", 20, 8)
    ]
    found = volumes(evaluated(slices, half), "m")
    assert found is not None
    edv = [values["edv"] for values in found["patients"].values()]
    for values in edv:
        assert values["predicted"] == pytest.approx(values["true"] / 2, rel=0.01)
    differences = torch.tensor([values["predicted"] - values["true"] for values in edv])
    assert found["edv"]["mae"] == pytest.approx(differences.abs().mean().item(), rel=1e-5)
    assert found["edv"]["bias"] == pytest.approx(differences.mean().item(), rel=1e-5)
    assert found["edv"]["lower"] == pytest.approx((differences.mean() - 1.96 * differences.std()).item())
    assert found["edv"]["upper"] == pytest.approx((differences.mean() + 1.96 * differences.std()).item())
    assert abs(found["ef"]["bias"]) < 1


def test_a_prediction_of_nothing_has_volume_zero_and_no_ejection_fraction() -> None:
    slices = cylinder("p", "ED", 30, 2) + cylinder("p", "ES", 20, 2)
    found = volumes(evaluated(slices, nothing), "m")
    assert found is not None
    assert found["patients"]["p"]["edv"]["predicted"] == 0
    assert found["patients"]["p"]["ef"]["predicted"] is None
    assert (found["ef"]["n"], found["ef"]["mae"]) == (0, None)
    table = tables.evaluation_tables({"m": summary(evaluated(slices, nothing), "m")}, "title")[-1]
    assert table.row_count == 3


def test_volumes_need_both_phases_and_the_slice_spacing() -> None:
    complete = cylinder("a", "ED", 30, 2) + cylinder("a", "ES", 20, 2)
    one_phase = cylinder("b", "ED", 30, 2)
    unknown = cylinder("c", "ED", 30, 2) + cylinder("c", "ES", 20, 2)
    unknown[0] = dataclasses.replace(unknown[0], slice_spacing=None)
    found = volumes(evaluated(complete + one_phase + unknown, truth), "m")
    assert found is not None
    assert found["patients"].keys() == {"a"}
    assert volumes(evaluated(one_phase, truth), "m") is None


def test_agreement_is_bland_and_altmans() -> None:
    found = agreement([(12.0, 10.0), (19.0, 20.0), (35.0, 30.0)])
    assert (found["n"], found["mae"], found["bias"]) == (3, pytest.approx(8 / 3), 2.0)
    assert found["std"] == 3.0
    assert (found["lower"], found["upper"]) == (pytest.approx(2 - 5.88), pytest.approx(2 + 5.88))


# --- the command


def test_the_results_follow_the_contract(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(
        TrainConfig(tmp_path, "unet", data=f"png:{png_folder}", num_train=6, profile="smoke", iterations=2)
    )
    target = tmp_path / "e.json"
    words = ["evaluate", "--run", str(tmp_path), "--data", f"png:{png_folder}", "--json", str(target)]
    assert command_line(words) == 0
    assert "HD95" in capsys.readouterr().out
    results = json.loads(target.read_text())
    assert results["methods"].keys() == {"unet", "unet_dp", "mean_circle"}
    for name, found in results["methods"].items():
        assert found["method"] == name
        assert {"dice", "dice_square", "assd_mm", "hd_mm", "hd95_mm"} <= found.keys()
        assert found["unit"] == found["hd_mm"]["unit"] == "px"
        assert found["n"] == found["hd_mm"]["n"] + found["empty"] == 16
        assert sum(third["n"] for third in found["by_size"].values()) == 16
        assert sum(patient["n"] for patient in found["patients"].values()) == 16
        assert found["volumes"] is None
    scores = json.loads((tmp_path / "results.json").read_text())["held_out"]["unet"]
    assert scores.keys() == {"dice_whole", "dice_square"}


def test_held_out_needs_named_patients(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train.main(
        TrainConfig(tmp_path, "unet", data=f"png:{png_folder}", num_train=6, profile="smoke", iterations=1)
    )
    run = evaluate.open_model(tmp_path)
    monkeypatch.setattr(evaluate, "open_model", lambda path: dataclasses.replace(run, held_out=[]))
    config = EvaluateConfig(tmp_path, f"png:{png_folder}", tmp_path / "e.json", subset="held_out")
    with pytest.raises(ValueError, match="it held out; --subset must be all, or export with --name-patients"):
        evaluate.main(config)
