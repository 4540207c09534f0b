from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.lv_dp.__main__ import main
from applications.lv_dp.contact_sheet import chosen, save_contact_sheet
from applications.lv_dp.data import Slice, SliceSet
from applications.lv_dp.data.sources import load
from applications.lv_dp.inspect_data import DataConfig, describe
from applications.lv_dp.inspect_data import main as inspect


def test_the_phantom_is_described(phantom: SliceSet) -> None:
    facts = describe(phantom)
    assert (facts["patients"], facts["slices"], facts["dropped"]) == (4, 16, {"no left ventricle": 8})
    assert facts["sizes"] == {"64 x 64": 16}
    assert facts["phases"] == {"ED": 8, "ES": 8}
    assert facts["spacing"] == {"least": 2.8125, "median": 2.8125, "largest": 2.8125}
    areas = [float(item.mask.sum()) * 2.8125**2 / 100 for item in phantom.slices]
    assert facts["area"]["largest"] == pytest.approx(max(areas))
    assert facts["volumes"]["ejection_fraction"]["median"] == pytest.approx(51, abs=3)


def test_what_is_unknown_is_said(png_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", f"png:{png_folder}"]) == 0
    text = capsys.readouterr().out
    for line in text.splitlines():
        if "spacing" in line or "volume" in line or "area" in line:
            assert "unknown" in line
    assert "1: no left ventricle" in text


def test_areas_of_unknown_size_are_in_pixels(
    png_folder: Path, phantom: SliceSet, capsys: pytest.CaptureFixture[str]
) -> None:
    areas = [int(item.mask.sum()) for item in phantom.slices]
    assert main(["data", f"png:{png_folder}"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"area unknown size: {min(areas)} .. {max(areas)}, median {np.median(areas):.0f} pixels" in text
    half = [dataclasses.replace(item, spacing=None) for item in phantom.slices[:8]]
    facts = describe(dataclasses.replace(phantom, slices=(*half, *phantom.slices[8:])))
    assert facts["area_px"]["largest"] == max(areas[:8])
    assert facts["area"]["largest"] == pytest.approx(max(areas[8:]) * 2.8125**2 / 100)


def test_a_declared_spacing_counts(png_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", f"png:{png_folder}@2.8125"]) == 0
    assert "2.812 mm" in capsys.readouterr().out


def test_the_command_draws_and_packs(
    tmp_path: Path, png_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, pack = tmp_path / "new" / "sheet.png", tmp_path / "pack.npz"
    assert main(["data", f"png:{png_folder}@2.8125", "--out", str(sheet), "--pack", str(pack)]) == 0
    assert "212 x 212 (16)" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert picture.size[0] > 600
    assert main(["data", f"packed:{pack}"]) == 0
    data = load(f"packed:{pack}")
    assert {(tuple(item.image.shape), item.spacing) for item in data.slices} == {
        ((212, 212), (1.36719, 1.36719))
    }


def test_results_name_the_files(tmp_path: Path) -> None:
    results = inspect(DataConfig("phantom", out=tmp_path / "a.png", pack=tmp_path / "p.npz", bits=8))
    assert results["contact_sheet"] == str(tmp_path / "a.png")
    assert results["pack"]["bytes"] == (tmp_path / "p.npz").stat().st_size
    assert results["pack"]["worst_relative_error"] <= 1 / 509
    assert results["sizes"] == {"212 x 212": 96}


@pytest.mark.parametrize(
    "arguments", [["acdc:/nowhere"], ["dicom:x"], ["png:a@b"], ["packed:/nowhere"], ["sunnybrook:/nowhere"]]
)
def test_errors_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_packing_pixels_of_unknown_size_is_refused(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", f"png:{png_folder}", "--pack", str(tmp_path / "p")]) == 2
    assert "png:DIR@1.3672" in capsys.readouterr().err


def test_the_sheet_shows_the_first_and_the_last(phantom: SliceSet) -> None:
    assert [item.name for item in chosen(phantom, 2)] == [phantom.slices[0].name, phantom.slices[-1].name]
    assert len(chosen(phantom, 24)) == 16
    assert len({item.name for item in chosen(phantom, 7)}) == 7


def test_the_contour_lies_on_the_border_of_the_mask(tmp_path: Path) -> None:
    """A black image with a mask high up left: the red pixels must be there, and be higher than wide."""
    mask = torch.zeros(60, 60, dtype=torch.bool)
    mask[5:25, 10:20] = True
    item = Slice("$a_{$", "a", mask.float(), mask)  # a name that is no formula
    save_contact_sheet(tmp_path / "a.png", SliceSet((item,), (), "a"))
    with Image.open(tmp_path / "a.png") as file:
        picture = np.asarray(file.convert("RGB")).astype(int)
    red = picture[..., 0] - picture[..., 2] > 100
    white = (picture.min(axis=-1) > 250) & (np.arange(picture.shape[1]) < picture.shape[1] / 6)
    y, x = red.nonzero()
    assert (np.ptp(y) + 1) / (np.ptp(x) + 1) == pytest.approx(2, rel=0.1)
    inside = white[y.min() + 3 : y.max() - 2, x.min() + 3 : x.max() - 2]
    assert inside.mean() > 0.95
    black = picture.max(axis=-1) < 5
    assert y.min() - black.nonzero()[0].min() < black.nonzero()[0].max() - y.max()
    assert x.min() - black.nonzero()[1].min() < black.nonzero()[1].max() - x.max()


def test_real_sunnybrook_images_are_drawn(sunnybrook_dicom: Path, tmp_path: Path) -> None:
    results = inspect(DataConfig(f"sunnybrook:{sunnybrook_dicom}", out=tmp_path / "a.png"))
    assert (results["slices"], results["patients"]) == (96, 5)


@pytest.mark.slow
def test_the_real_training_set_packs_below_60_megabytes(acdc: Path, tmp_path: Path) -> None:
    results = inspect(DataConfig(f"acdc:{acdc}", pack=tmp_path / "p.npz"))
    assert (results["slices"], results["sizes"]) == (1436, {"212 x 212": 1436})
    assert results["pack"]["bytes"] <= 60e6
    assert results["pack"]["worst_relative_error"] < 5e-4
