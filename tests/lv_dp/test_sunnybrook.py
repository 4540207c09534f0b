from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from applications.lv_dp.data import DataError
from applications.lv_dp.data.contours import fill, read_contour
from applications.lv_dp.data.png import load_png
from applications.lv_dp.data.sunnybrook import AMBIGUOUS, NO_IMAGE, NO_LINK, load_sunnybrook

SQUARE = "4.0 3.0\n8.5 3.0\n8.5 6.0\n4.0 6.0\n"  # x y


def write_dicom(
    path: Path, pixels: np.ndarray, spacing: tuple[float, float] | None = (1.25, 1.5), rows: int | None = None
) -> None:
    """Write a minimal MR image."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = "2.16.124"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = rows or pixels.shape[0], pixels.shape[1]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation, data.SamplesPerPixel = 15, 1, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.SpacingBetweenSlices = 8
    if spacing is not None:
        data.PixelSpacing = list(spacing)
    data.PixelData = pixels.astype("<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def pixels(number: int) -> np.ndarray:
    y, x = np.indices((10, 12))
    return y * 100 + x + number


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def flat(root: Path) -> Path:
    for number in (48, 59):
        write_dicom(root / "dicoms" / "SCD0000101" / f"{number}.dcm", pixels(number))
        write_text(contour(root, number), SQUARE)
    write_text(root / "contourfiles/SC-HF-I-1/o-contours/IM-0001-0048-ocontour-manual.txt", "no numbers")
    write_text(root / "link.csv", "patient_id,original_id\nSCD0000101,SC-HF-I-1\n")
    return root


def contour(root: Path, number: int) -> Path:
    return root / f"contourfiles/SC-HF-I-1/i-contours/IM-0001-{number:04d}-icontour-manual.txt"


def released(root: Path) -> Path:
    drawn = root / "SCD_ManualContours" / "SC-HF-I-01" / "contours-manual" / "IRCCI-expert"
    for number in (48, 59):
        patient = root / "SCD_IMAGES_01" / "SCD0000101"
        write_dicom(patient / "CINESAX_300" / f"IM-0003-{number:04d}.dcm", pixels(number))
        write_dicom(patient / "CINELAX_301" / f"IM-0004-{number:04d}.dcm", pixels(0))
        write_text(drawn / f"IM-0001-{number:04d}-icontour-manual.txt", SQUARE)
    write_text(root / "scd_patientdata.csv", "PatientID,OriginalID,Gender\nSCD0000101,SC-HF-I-01,Male\n,,\n")
    return root


@pytest.fixture(params=[flat, released])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    root: Path = request.param(tmp_path / "sunnybrook")
    return root


def test_both_layouts_give_the_same_slices(folder: Path) -> None:
    data = load_sunnybrook(folder)
    assert [item.name for item in data.slices] == ["SC-HF-I-01-IM-0001-0048", "SC-HF-I-01-IM-0001-0059"]
    assert (data.patients, data.dropped) == (["SC-HF-I-01"], 0)
    for item, number in zip(data.slices, (48, 59), strict=True):
        torch.testing.assert_close(item.image, torch.from_numpy(pixels(number)).float())
        assert (item.spacing, item.slice_spacing) == ((1.25, 1.5), 8.0)


def test_bytes_behind_the_pixels_are_ignored_in_silence(tmp_path: Path) -> None:
    root = flat(tmp_path)
    write_dicom(image(root), np.vstack([pixels(59), pixels(0)[:1]]), rows=10)
    torch.testing.assert_close(load_sunnybrook(root).slices[1].image, torch.from_numpy(pixels(59)).float())


def test_the_contour_is_filled_with_its_outline(folder: Path) -> None:
    mask = load_sunnybrook(folder).slices[0].mask
    assert mask.nonzero().amin(0).tolist() == [3, 4]  # row, column
    assert mask.nonzero().amax(0)[0] == 6
    assert mask[3:7, 4:9].all()


def test_a_contour_without_its_image_is_dropped_and_counted(tmp_path: Path) -> None:
    root = flat(tmp_path)
    (root / "dicoms/SCD0000101/59.dcm").unlink()
    assert load_sunnybrook(root).drop_reasons == {NO_IMAGE: 1}


def test_a_contour_without_a_row_in_the_table_is_dropped_and_counted(tmp_path: Path) -> None:
    root = flat(tmp_path)
    write_text(root / "contourfiles/SC-N-2/i-contours/IM-0001-0020-icontour-manual.txt", SQUARE)
    assert load_sunnybrook(root).drop_reasons == {NO_LINK: 1}


def test_a_patient_with_short_axis_series_has_no_other_images(tmp_path: Path) -> None:
    root = released(tmp_path)
    (root / "SCD_IMAGES_01/SCD0000101/CINESAX_300/IM-0003-0059.dcm").unlink()
    assert load_sunnybrook(root).drop_reasons == {NO_IMAGE: 1}


def test_two_images_of_one_number_are_not_chosen_between(tmp_path: Path) -> None:
    root = flat(tmp_path)
    write_dicom(root / "more" / "SCD0000101" / "IM-0009-0059.dcm", pixels(0))
    assert load_sunnybrook(root).drop_reasons == {AMBIGUOUS: 1}


def break_nothing_there(root: Path) -> str:
    shutil.rmtree(root)
    return f"{root}: no such folder"


def break_no_contours(root: Path) -> str:
    shutil.rmtree(root / "contourfiles")
    return f"{root}: holds no contour"


def break_no_images(root: Path) -> str:
    shutil.rmtree(root / "dicoms")
    return f"{root}: none of its 2 contours has an image (contour without an image)"


def break_no_table(root: Path) -> str:
    (root / "link.csv").unlink()
    return f"{root}: holds neither link.csv nor scd_patientdata.csv"


def break_table_columns(root: Path) -> str:
    (root / "link.csv").write_text("a,b\n1,2\n")
    return "link.csv: needs the columns patient_id,original_id"


def break_table_short_row(root: Path) -> str:
    (root / "link.csv").write_text("patient_id,original_id\nSCD0000101\n")
    return "link.csv: needs the columns patient_id,original_id"


def break_table_not_text(root: Path) -> str:
    (root / "link.csv").write_bytes(b"patient_id,original_id\n\xff\xfe\n")
    return "link.csv: cannot be read"


def break_letters(root: Path) -> str:
    contour(root, 59).write_text("1 2\n3 x\n4 5\n")
    return f"{contour(root, 59)}: line 2 must be two numbers 'x y', got '3 x'"


def break_three_numbers(root: Path) -> str:
    contour(root, 59).write_text("1 2 3\n")
    return "line 1 must be two numbers"


def break_infinite(root: Path) -> str:
    contour(root, 59).write_text("1 2\n3 inf\n4 5\n")
    return "line 2 must be two numbers"


def break_not_a_number(root: Path) -> str:
    contour(root, 59).write_text("nan 2\n3 3\n4 5\n")
    return "line 1 must be two numbers"


def break_two_points(root: Path) -> str:
    contour(root, 59).write_text("1 2\n3 4\n\n")
    return "needs at least 3 lines 'x y', got 2"


def break_binary_contour(root: Path) -> str:
    contour(root, 59).write_bytes(b"\xff\x00\xfe")
    return f"{contour(root, 59)}: cannot be read"


def break_outside(root: Path) -> str:
    contour(root, 59).write_text("1 2\n3 1e30\n4 5\n")
    return f"{contour(root, 59)}: the contour leaves its image (12 x 10 pixels)"


def break_contour_name(root: Path) -> str:
    contour(root, 59).rename(contour(root, 59).with_name("x-icontour-manual.txt"))
    return "must be named SC-.../IM-0001-NUMBER-icontour-manual.txt"


def image(root: Path) -> Path:
    return root / "dicoms" / "SCD0000101" / "59.dcm"


def break_truncated_dicom(root: Path) -> str:
    image(root).write_bytes(image(root).read_bytes()[:-100])
    return f"{image(root)}: is not a readable DICOM image"


def break_random_dicom(root: Path) -> str:
    image(root).write_bytes(np.random.default_rng(0).bytes(2000))
    return f"{image(root)}: is not a readable DICOM image"


def break_no_spacing(root: Path) -> str:
    write_dicom(image(root), pixels(0), None)
    return f"{image(root)}: needs a positive PixelSpacing of rows and columns"


def break_zero_spacing(root: Path) -> str:
    write_dicom(image(root), pixels(0), (0.0, 1.0))
    return f"{image(root)}: needs a positive PixelSpacing of rows and columns"


def break_huge_dicom(root: Path) -> str:
    content = image(root).read_bytes()
    rows = b"\x28\x00\x10\x00US\x02\x00"
    at = content.index(rows) + len(rows)
    image(root).write_bytes(content[:at] + b"\xff\xff" + content[at + 2 :])
    return f"{image(root)}: at most 4096 rows and columns, got 65535 and 12"


BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("break_folder", BREAKS, ids=lambda f: f.__name__)
def test_errors_are_one_line_and_name_the_file(
    break_folder,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = flat(tmp_path / "sunnybrook")
    words = break_folder(root)
    with pytest.raises(DataError) as caught:
        load_sunnybrook(root)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_pydicom_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"pip install 'ndgrad\[lv\]'"):
        load_sunnybrook(folder)


def test_a_filled_circle_is_a_little_larger_than_its_polygon(tmp_path: Path) -> None:
    """The outline counts; pixel 49 reaches from 49 to 50, so the centre 50 lies at 49.5 pixels."""
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    corners = np.stack([50 + 30 * np.cos(angle), 45 + 30 * np.sin(angle)], axis=1)
    np.savetxt(tmp_path / "c.txt", corners, fmt="%.1f")
    mask = fill(read_contour(tmp_path / "c.txt"), (90, 100), tmp_path)
    y, x = mask.nonzero(as_tuple=True)
    assert (x.float().mean().item(), y.float().mean().item()) == pytest.approx((49.5, 44.5), abs=0.1)
    assert 1.01 < mask.sum().item() / (np.pi * 30**2) < 1.03


def test_real_contours_equal_the_png_masks(sunnybrook_dicom: Path, sunnybrook: Path) -> None:
    data = load_sunnybrook(sunnybrook_dicom)
    assert (len(data), data.dropped, len(data.patients)) == (96, 0, 5)
    pictures = {item.name: item for item in load_png(sunnybrook).slices}
    for item in data.slices:
        other = pictures[item.name]
        torch.testing.assert_close(item.mask, other.mask)
        pair = torch.stack([item.image.flatten(), other.image.flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.999  # nor is the image turned
    assert {(item.patient, round(item.spacing[0], 3)) for item in data.slices if item.spacing} == {
        ("SC-HF-I-01", 1.367),
        ("SC-HF-I-02", 1.367),
        ("SC-HF-I-04", 1.289),
        ("SC-HF-I-05", 1.367),
        ("SC-HF-I-06", 1.367),
    }
