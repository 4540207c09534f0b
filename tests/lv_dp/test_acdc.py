from __future__ import annotations

import gzip
import shutil
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from applications.lv_dp.data import DataError
from applications.lv_dp.data.acdc import load_acdc
from applications.lv_dp.data.splits import held_out_fifth
from applications.lv_dp.data.volumes import ejection_fraction, volumes

SHAPE = (12, 10, 4)  # x, y, z
ZOOMS = (1.5, 1.25, 8.0)


def voxels(dtype: type = np.int16) -> np.ndarray:
    """Every voxel of a column, a row and a slice differs from its neighbours'."""
    x, y, z = np.indices(SHAPE)
    return (x + 12 * y + 30 * z).astype(dtype)


def labels() -> np.ndarray:
    """RV left of muscle and LV, wider than high; the last slice holds no LV."""
    values = np.zeros(SHAPE, np.uint8)
    values[1:3, 3:6] = 1
    values[3:10, 2:7] = 2
    values[4:9, 3:6] = 3
    values[:, :, 3] = 0
    return values


def save(path: Path, values: np.ndarray) -> None:
    """Write as in ACDC: the affine knows no spacing."""
    image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
    image.header.set_zooms(ZOOMS[: values.ndim] + (1.0,) * (values.ndim - 3))
    nibabel.save(image, path)


def write_patient(root: Path, number: int, ed: int = 1, es: int = 12, dtype: type = np.int16) -> Path:
    folder = root / f"patient{number:03d}"
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
    for frame in {ed, es}:
        stem = folder / f"{folder.name}_frame{frame:02d}"
        save(stem.with_name(stem.name + ".nii.gz"), voxels(dtype))
        save(stem.with_name(stem.name + "_gt.nii.gz"), labels())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "acdc"
    write_patient(root, 1)
    write_patient(root, 90, ed=4, es=11)
    return root


def test_slices_without_a_ventricle_are_dropped_and_counted(folder: Path) -> None:
    data = load_acdc(folder)
    assert (len(data), data.drop_reasons, data.patients) == (
        12,
        {"no left ventricle": 4},
        ["patient001", "patient090"],
    )
    assert {item.name for item in data.dropped_slices} >= {
        "patient001_frame01-03",
        "patient090_frame11-03",
    }


def test_spacing_is_the_header_s_and_not_the_affine_s(folder: Path) -> None:
    path = folder / "patient001" / "patient001_frame01.nii.gz"
    np.testing.assert_array_equal(nibabel.load(path).affine, np.diag([-1, -1, 1, 1]))
    item = load_acdc(folder).slices[0]
    assert (item.spacing, item.slice_spacing) == ((1.25, 1.5), 8.0)  # rows lie 1.25 mm apart
    assert item.area == pytest.approx(15 * 1.25 * 1.5)
    assert volumes(load_acdc(folder))["patient001"]["ED"] == pytest.approx(3 * 15 * 1.25 * 1.5 * 8 / 1000)


def test_axes_become_rows_and_columns(folder: Path) -> None:
    item = load_acdc(folder).slices[1]
    assert item.image.shape == (10, 12)
    assert item.image[7, 2] == voxels()[2, 7, 1]
    torch.testing.assert_close(item.image, torch.from_numpy(voxels()[:, :, 1].T.astype(np.float32)))
    assert item.mask.nonzero().amin(0).tolist() == [3, 4]
    assert item.mask.nonzero().amax(0).tolist() == [5, 8]


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_all_intensities_become_float32(tmp_path: Path, dtype: type) -> None:
    write_patient(tmp_path, 1, dtype=dtype)
    item = load_acdc(tmp_path).slices[2]
    assert (item.image.dtype, item.mask.dtype) == (torch.float32, torch.bool)
    torch.testing.assert_close(item.image, torch.from_numpy(voxels()[:, :, 2].T.astype(np.float32)))


def test_phases_are_those_of_info_cfg(folder: Path) -> None:
    found = {(item.patient, item.phase, item.name[10:18]) for item in load_acdc(folder).slices}
    assert found == {
        ("patient001", "ED", "_frame01"),
        ("patient001", "ES", "_frame12"),
        ("patient090", "ED", "_frame04"),
        ("patient090", "ES", "_frame11"),
    }


def test_a_slice_knows_its_place_and_labels(folder: Path) -> None:
    item = load_acdc(folder).slices[2]
    assert (item.position, item.group, item.patient) == (2, "DCM", "patient001")
    assert item.path == folder / "patient001" / "patient001_frame01.nii.gz"
    assert item.labels is not None
    torch.testing.assert_close(item.labels, torch.from_numpy(labels()[:, :, 2].T.copy()))


def test_sequences_and_uncompressed_twins_are_not_counted_twice(folder: Path) -> None:
    patient = folder / "patient001"
    save(patient / "patient001_4d.nii.gz", np.stack([voxels()] * 2, axis=-1))
    for path in list(patient.glob("*frame*.nii.gz")):
        path.with_suffix("").write_text("not looked at")
    assert len(load_acdc(folder)) == 12


def test_an_uncompressed_file_alone_is_read(folder: Path) -> None:
    path = folder / "patient001" / "patient001_frame01.nii.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert len(load_acdc(folder)) == 12


def test_the_folder_above_training_will_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "above").mkdir()
    shutil.move(folder, tmp_path / "above" / "training")
    assert len(load_acdc(tmp_path / "above")) == 12


def break_no_patients(root: Path) -> str:
    shutil.rmtree(root)
    return f"{root}: holds no folder patientNNN"


def break_no_info(root: Path) -> str:
    (root / "patient001" / "Info.cfg").unlink()
    return "patient001/Info.cfg: cannot be read"


def break_info_without_phase(root: Path) -> str:
    (root / "patient001" / "Info.cfg").write_text("ED: 1\n")
    return "patient001/Info.cfg: needs the lines"


def break_info_with_letters(root: Path) -> str:
    (root / "patient001" / "Info.cfg").write_text("ED: ../../x\nES: 12\n")
    return "got ED: '../../x'"


def break_info_not_text(root: Path) -> str:
    (root / "patient001" / "Info.cfg").write_bytes(b"\xff\xfe\x00ED")
    return "patient001/Info.cfg: cannot be read"


def break_one_frame_for_both_phases(root: Path) -> str:
    (root / "patient001" / "Info.cfg").write_text("ED: 1\nES: 1\n")
    return "two slices have the name patient001_frame01-00"


def break_no_labels(root: Path) -> str:
    (root / "patient001" / "patient001_frame12_gt.nii.gz").unlink()
    return "patient001_frame12_gt.nii.gz: no such file"


def frame(root: Path) -> Path:
    return root / "patient001" / "patient001_frame12.nii.gz"


def break_truncated(root: Path) -> str:
    path = frame(root)
    path.write_bytes(path.read_bytes()[:-40])
    return f"{path}: is not a readable NIfTI file"


def break_random_bytes(root: Path) -> str:
    frame(root).write_bytes(np.random.default_rng(0).bytes(3000))
    return f"{frame(root)}: is not a readable NIfTI file"


def break_random_bytes_compressed(root: Path) -> str:
    frame(root).write_bytes(gzip.compress(np.random.default_rng(0).bytes(3000)))
    return f"{frame(root)}: is not a readable NIfTI file"


def break_empty_file(root: Path) -> str:
    frame(root).write_bytes(b"")
    return f"{frame(root)}: is not a readable NIfTI file"


def _patch(path: Path, offset: int, value: bytes) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[offset : offset + len(value)] = value
    path.write_bytes(gzip.compress(bytes(content)))


def break_huge_header(root: Path) -> str:
    _patch(frame(root), 40, struct.pack("<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1))
    return (
        f"{frame(root)}: needs two dimensions or more and at most 33554432 voxels, got (32767, 32767, 32767)"
    )


def break_four_dimensions(root: Path) -> str:
    save(frame(root), np.stack([voxels()] * 2, axis=-1))
    return "needs three dimensions"


def break_spacing_of_zero(root: Path) -> str:
    """Nibabel would repair it to 1 mm and say so in its log."""
    _patch(frame(root), 80, struct.pack("<f", 0.0))
    return f"{frame(root)}: is not a readable NIfTI file (HeaderDataError)"


def break_sizes(root: Path) -> str:
    save(frame(root), voxels()[:, :, :3])
    return "frame12_gt.nii.gz: labels (12, 10, 4) do not fit the image (12, 10, 3)"


def break_labels(root: Path) -> str:
    save(root / "patient001" / "patient001_frame12_gt.nii.gz", labels() + np.uint8(1))
    return "frame12_gt.nii.gz: labels must be 0, 1, 2 or 3"


def break_not_finite(root: Path) -> str:
    values = voxels(np.float32)
    values[0, 0, 0] = np.nan
    save(frame(root), values)
    return f"{frame(root)}: holds values that are not finite"


def break_all_empty(root: Path) -> str:
    for path in root.rglob("*_gt.nii.gz"):
        save(path, np.zeros(SHAPE, np.uint8))
    return "none of its 16 slices"


BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("break_folder", BREAKS, ids=lambda f: f.__name__)
def test_errors_are_one_line_and_name_the_file(
    break_folder,  # type: ignore[no-untyped-def]
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = break_folder(folder)
    with pytest.raises(DataError) as caught:
        load_acdc(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


def test_without_nibabel_the_error_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(DataError, match=r"pip install 'ndgrad\[lv\]'"):
        load_acdc(folder)


@pytest.mark.slow
def test_the_real_training_patients(acdc: Path) -> None:
    data = load_acdc(acdc)
    assert (len(data), data.dropped, len(data.patients)) == (1436, 80, 80)
    spacings = {item.spacing for item in data.slices}
    sides = [side for spacing in spacings if spacing for side in spacing]
    assert (round(min(sides), 2), round(max(sides), 2)) == (0.70, 1.92)
    held_out = data.of_patients(held_out_fifth(data))
    groups = {item.patient: item.group for item in held_out.slices}.values()
    assert {group: list(groups).count(group) for group in set(groups)} == dict.fromkeys(
        ("DCM", "HCM", "MINF", "NOR"), 3
    ) | {"RV": 4}


def test_the_real_first_patient_s_volumes(acdc: Path, tmp_path: Path) -> None:
    (tmp_path / "patient001").symlink_to(acdc / "training" / "patient001")
    volume = volumes(load_acdc(tmp_path))["patient001"]
    assert volume == pytest.approx({"ED": 295.5, "ES": 225.6}, abs=0.05)
    assert ejection_fraction(**volume) == pytest.approx(23.7, abs=0.05)
