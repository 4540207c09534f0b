from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from applications.lv_dp import segment as segment_module
from applications.lv_dp import train
from applications.lv_dp.__main__ import main as command_line
from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data import DataError, SliceSet
from applications.lv_dp.data.preprocess import paste, prepare
from applications.lv_dp.errors import UsageError
from applications.lv_dp.image_file import Picture, read_picture
from applications.lv_dp.metrics import dice
from applications.lv_dp.model import METHODS
from applications.lv_dp.overlay import CENTER, CONTOUR, overlay
from applications.lv_dp.release import ExportConfig, export, open_model
from applications.lv_dp.segment import SegmentConfig, main, parse_center

nibabel = pytest.importorskip("nibabel")
pydicom = pytest.importorskip("pydicom")

# Rows and columns differ in number and in size, so that no pair can be mixed up unseen.
VALUES = np.arange(5 * 7, dtype=np.int16).reshape(5, 7)
SPACING = (1.5, 0.75)  # row to row, column to column


def write_dicom(path: Path, values: Any, **more: Any) -> Path:
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = pydicom.uid.CTImageStorage, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = values.shape
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 15, 0, 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.PixelSpacing = list(SPACING)
    file.PixelData = values.astype(np.uint16).tobytes()
    for name, value in more.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def write_nifti(path: Path, values: Any) -> Path:
    """Write planes (rows, columns, z) as NIfTI keeps them, (x, y, z), the spacing in the header only."""
    image = nibabel.Nifti1Image(np.swapaxes(values, 0, 1), np.eye(4))
    image.header.set_zooms((SPACING[1], SPACING[0], 8.0, 1.0)[: values.ndim])
    nibabel.save(image, path)
    return path


# --- reading


def test_png_rows_and_columns(tmp_path: Path) -> None:
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "a.png")
    found = read_picture(tmp_path / "a.png")
    torch.testing.assert_close(found.image, torch.from_numpy(VALUES).float())
    assert found.spacing is None


def test_dicom_rows_columns_and_spacing(tmp_path: Path) -> None:
    found = read_picture(write_dicom(tmp_path / "a.dcm", VALUES, RescaleSlope="2", RescaleIntercept="-3"))
    torch.testing.assert_close(found.image, torch.from_numpy(VALUES).float() * 2 - 3)
    assert found.spacing == SPACING


def test_dicom_without_spacing_and_with_white_lows(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "A.DCM", VALUES, PhotometricInterpretation="MONOCHROME1", PixelSpacing=None)
    found = read_picture(path)
    torch.testing.assert_close(found.image, 34 - torch.from_numpy(VALUES).float())
    assert found.spacing is None


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_nifti_rows_columns_and_spacing(name: str, tmp_path: Path) -> None:
    volume = np.stack([VALUES, VALUES + 100, VALUES + 200], axis=2)
    found = read_picture(write_nifti(tmp_path / name, volume).rename(tmp_path / name.upper()), 1)
    torch.testing.assert_close(found.image, torch.from_numpy(VALUES).float() + 100)
    assert found.spacing == SPACING
    flat = read_picture(write_nifti(tmp_path / name, VALUES))
    torch.testing.assert_close(flat.image, torch.from_numpy(VALUES).float())


def test_a_picture_too_large_to_be_one_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(VALUES.astype(np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="DecompressionBombError"):
        read_picture(tmp_path / "a.png")


def test_a_nifti_volume_of_one_frame_is_a_volume(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.swapaxes(VALUES, 0, 1)[:, :, None, None], np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    assert read_picture(tmp_path / "a.nii", 0).image.shape == (5, 7)


VOLUME = np.stack([VALUES] * 3, axis=2)


def garbage(path: Path) -> Path:
    path.write_bytes(b"this is no image" * 40)
    return path


UNREADABLE: list[tuple[Any, int | None, str]] = [
    (lambda f: garbage(f / "a.png"), None, "a.png: is not a readable picture"),
    (lambda f: garbage(f / "a.dcm"), None, "a.dcm: is not a readable DICOM image"),
    (lambda f: garbage(f / "a.nii"), None, "a.nii: is not a readable NIfTI file"),
    (lambda f: garbage(f / "a.nii.gz"), None, "a.nii.gz: is not a readable NIfTI file"),
    (lambda f: garbage(f / "a.jpeg"), None, r"a.jpeg: the name must end in one of \.png, \.dcm, \.nii, \.nii\.gz"),
    (lambda f: f / "a.png", None, "a.png: no such file"),
    (lambda f: write_dicom(f / "a.dcm", VALUES), 0, "holds one image; leave out --slice 0"),
    (lambda f: write_dicom(f / "a.dcm", VALUES, PixelData=b"12"), None, "is not a readable DICOM image"),
    (lambda f: write_nifti(f / "a.nii", VALUES), 1, "holds one image; leave out --slice 1"),
    (lambda f: write_nifti(f / "a.nii", VOLUME), None, r"holds 3 slices; type --slice 0 \.\. 2, got none"),
    (lambda f: write_nifti(f / "a.nii", VOLUME), 3, "holds 3 slices; type --slice 0 .. 2, got 3"),
    (lambda f: write_nifti(f / "a.nii", VOLUME), -1, "got -1"),
    (lambda f: write_nifti(f / "a.nii", VOLUME[..., None].repeat(2, 3)), 0, "one image or one volume, got 4"),
    (lambda f: write_nifti(f / "a.nii", VALUES * np.float32(np.nan)), None, "values that are not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("write", "index", "words"), UNREADABLE)
@pytest.mark.filterwarnings(
    "ignore:.*(PixelData|pixel data|Pixel Data).*:UserWarning"
)  # pydicom on a short file
def test_unreadable_images_are_one_line(write: Any, index: int | None, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_picture(write(tmp_path), index)
    assert "\n" not in str(caught.value)


def test_a_real_dicom_slice_is_the_png_slice(sunnybrook: Path) -> None:
    folder = sunnybrook.parent / "sunnybrook_dicom" / "dicoms" / "SCD0000101"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing: set NDGRAD_DATA to the folder that holds sunnybrook_dicom")
    path = sorted(folder.glob("*.dcm"))[0]
    found = read_picture(path)
    matches = sorted((sunnybrook / "images").glob(f"*-IM-0001-{int(path.stem):04d}.png"))
    likeness = [
        np.corrcoef(read_picture(match).image.numpy().ravel(), found.image.numpy().ravel())[0, 1]
        for match in matches
    ]
    assert max(likeness) > 0.98
    assert found.spacing is not None
    assert found.spacing == pytest.approx((1.3672, 1.3672), abs=1e-3)


# --- segmenting


@pytest.fixture(scope="module", params=["unet", "edpcnn"])
def run(request: pytest.FixtureRequest, png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param)
    data = f"png:{png_folder}"
    train.main(TrainConfig(out, request.param, data=data, num_train=6, profile="smoke", iterations=40))
    return out


@pytest.fixture
def config(run: Path, png_folder: Path, tmp_path: Path) -> SegmentConfig:
    image = png_folder / "images" / "phantom-001-IM-ED-00.png"
    return SegmentConfig(image, run, tmp_path / "mask.png", "30,35", tmp_path / "overlay.png")


def test_the_mask_is_what_evaluation_would_draw(config: SegmentConfig, png_folder: Path) -> None:
    found = main(config)
    trained = open_model(config.run)
    batch = prepare(
        [dataclasses.replace(item) for item in segment_slices(config)], 64, [torch.tensor([35.0, 30.0])]
    )
    predict = next(iter(METHODS[trained.config["method"]].predictions.values()))
    with torch.no_grad():
        expected = paste(predict(trained.model, batch), batch.corners, [(64, 64)])[0]
    torch.testing.assert_close(found.mask, expected)
    with Image.open(config.out) as picture:
        written = np.asarray(picture)
    assert (written.dtype, written.shape) == (np.uint8, (64, 64))
    np.testing.assert_array_equal(written, expected.numpy() * np.uint8(255))
    assert (found.pixels, found.area) == (int(expected.sum()), None)


def segment_slices(config: SegmentConfig) -> list[Any]:
    from applications.lv_dp.data.png import load_png

    data = load_png(config.image.parents[1])
    return [item for item in data.slices if item.name == config.image.stem]


def test_the_contour_finds_the_ventricle_it_was_pointed_at(
    config: SegmentConfig, phantom: SliceSet, png_folder: Path
) -> None:
    truth = next(item.mask for item in phantom.slices if item.name == config.image.stem)
    rows, columns = (values.float().mean().item() for values in truth.nonzero(as_tuple=True))
    found = main(dataclasses.replace(config, center=f"{rows},{columns}"))
    assert dice(found.mask, truth) > 0.4


def test_released_weights_segment_the_same(config: SegmentConfig, tmp_path: Path) -> None:
    export(ExportConfig(config.run, tmp_path / "release"))
    other = dataclasses.replace(config, run=tmp_path / "release")
    torch.testing.assert_close(main(other).mask, main(config).mask)


def test_pixels_of_another_size_are_brought_to_the_training_data_s(config: SegmentConfig) -> None:
    trained = dataclasses.replace(open_model(config.run), spacing=1.5)
    image = read_picture(config.image).image
    expected = segment_module.segment(trained, Picture(image, (1.5, 1.5)), (30.0, 35.0))
    fine = image.repeat_interleave(2, 0).repeat_interleave(3, 1)  # the same in mm; three columns for one
    found = segment_module.segment(trained, Picture(fine, (0.75, 0.5)), (60.5, 106.0))
    assert found.shape == (128, 192)
    assert dice(found[::2, 1::3], expected) > 0.95
    assert dice(found, expected.repeat_interleave(2, 0).repeat_interleave(3, 1)) > 0.9


@pytest.mark.parametrize(
    ("spacing", "trained", "expected"),
    [
        (None, 1.5, None),
        ((2.0, 2.0), None, None),
        ((1.501, 1.499), 1.5, None),
        ((1.0, 1.5), 1.5, (1.5, 212)),
        ((3.0, 7.0), 1.5, (1.5, 280)),  # 60 columns of 7 mm are 280 pixels of 1.5 mm
        ((3.0, 7.01), 1.5, (1.5, 282)),
    ],
)
def test_when_and_to_what_an_image_is_resampled(
    spacing: tuple[float, float] | None,
    trained: float | None,
    expected: tuple[float, int] | None,
    config: SegmentConfig,
) -> None:
    run = dataclasses.replace(open_model(config.run), spacing=trained)
    grid = segment_module.training_grid(run, Picture(torch.zeros(64, 60), spacing))
    assert (None if grid is None else (grid.spacing, grid.size)) == expected


@pytest.mark.parametrize("suffix", ["dcm", "nii.gz"])
def test_the_area_is_in_square_millimetres(
    suffix: str, config: SegmentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = read_picture(config.image).image.numpy().astype(np.int16)[:, :60]
    path = tmp_path / f"image.{suffix}"
    index = ["--slice", "1"] if suffix == "nii.gz" else []
    if index:
        write_nifti(path, np.stack([grey * 0, grey], axis=2))
    else:
        write_dicom(path, grey)
    words = [
        "segment",
        str(path),
        "--run",
        str(config.run),
        "--out",
        str(config.out),
        "--center",
        "30,35",
        *index,
    ]
    assert command_line(words) == 0
    printed = capsys.readouterr().out
    with Image.open(config.out) as written:
        pixels = int((np.asarray(written) > 0).sum())
        assert written.size == (60, 64)
    assert f"area {pixels * SPACING[0] * SPACING[1]:.1f} mm2 ({pixels} pixels)" in printed


def test_the_overlay_shows_image_contour_and_centre() -> None:
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[10:20, 30:50] = True
    drawn = np.asarray(overlay(torch.rand(40, 60), mask, (5.0, 8.0)))
    factor = 13  # least to bring 40 rows to 512
    assert drawn.shape == (40 * factor, 60 * factor, 3)
    rows, columns = np.nonzero((drawn == CONTOUR).all(axis=2))
    edges = [rows.min(), rows.max(), columns.min(), columns.max()]
    np.testing.assert_allclose(np.array(edges) / factor, [10, 20, 30, 50], atol=0.2)
    rows, columns = np.nonzero((drawn == CENTER).all(axis=2))
    assert rows.mean() / factor == pytest.approx(5.5, abs=0.1)
    assert columns.mean() / factor == pytest.approx(8.5, abs=0.1)
    assert len(np.unique(drawn[..., 0])) > 100


def test_the_overlay_of_nothing_and_of_everything() -> None:
    for mask in (torch.zeros(40, 60, dtype=torch.bool), torch.ones(40, 60, dtype=torch.bool)):
        overlay(torch.zeros(40, 60), mask, (5.0, 8.0))


# --- where


def test_centres_are_row_then_column() -> None:
    assert parse_center(" 3, 4.5") == (3.0, 4.5)
    for text in ("3", "3,4,5", "a,b", "", "nan,3", "3,inf"):
        with pytest.raises(UsageError, match="--center must be ROW,COL"):
            parse_center(text)


def fake_window(monkeypatch: pytest.MonkeyPatch, clicks: list[tuple[float, float]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(segment_module, "has_display", lambda: True)
    monkeypatch.setattr(plt, "ginput", lambda *_, **__: clicks)


def test_a_click_is_a_centre(config: SegmentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_window(monkeypatch, [(35.0, 30.0)])  # x, y
    clicked = main(dataclasses.replace(config, center=None))
    torch.testing.assert_close(clicked.mask, main(config).mask)


def test_a_window_closed_without_a_click(config: SegmentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_window(monkeypatch, [])
    with pytest.raises(UsageError, match="without a click; click, or type --center ROW,COL"):
        main(dataclasses.replace(config, center=None))


def test_a_display_needs_a_terminal_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert not segment_module.has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert segment_module.has_display()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert not segment_module.has_display()


# --- the size of a pixel


def words_for(config: SegmentConfig, *more: str) -> list[str]:
    options = ["--run", str(config.run), "--out", str(config.out), "--center", "30,35"]
    return ["segment", str(config.image), *options, *more]


def with_trained_spacing(monkeypatch: pytest.MonkeyPatch, spacing: float) -> None:
    def opened(path: Path) -> Any:
        return dataclasses.replace(open_model(path), spacing=spacing)

    monkeypatch.setattr(segment_module, "open_model", opened)


def test_a_given_spacing_is_that_of_the_picture(
    config: SegmentConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_trained_spacing(monkeypatch, 1.5)
    expected = segment_module.segment(
        segment_module.open_model(config.run),
        Picture(read_picture(config.image).image, (2.0, 2.0)),
        (30.0, 35.0),
    )
    found = main(dataclasses.replace(config, spacing=2.0))
    torch.testing.assert_close(found.mask, expected)
    assert not torch.equal(found.mask, main(config).mask)
    assert (found.area, found.assumed) == (int(expected.sum()) * 4.0, None)
    assert command_line(words_for(config, "--spacing", "2")) == 0
    assert f"area {found.area:.1f} mm2" in capsys.readouterr().out


def test_pixels_of_unknown_size_are_said_to_be_taken_for_the_training_data_s(
    config: SegmentConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "taken to be 1.5 mm as in the training data: type --spacing MM if they are not"
    assert command_line(words_for(config)) == 0
    assert "--spacing" not in capsys.readouterr().out  # the run does not know its own
    with_trained_spacing(monkeypatch, 1.5)
    assert command_line(words_for(config)) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "area" in line)
    assert line.endswith(note)


def test_a_file_that_tells_another_spacing_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    told = Picture(torch.zeros(4, 4), (1.5, 1.5))
    assert segment_module.with_spacing(told, 1.501, path) is told
    assert segment_module.with_spacing(told, None, path) is told
    with pytest.raises(UsageError, match=r"a\.dcm: .* pixels are 1\.5 x 1\.5 mm; leave out --spacing 1\.4"):
        segment_module.with_spacing(told, 1.4, path)
    for wrong in (0.0, -1.0, float("nan"), 1e3):
        with pytest.raises(UsageError, match=r"--spacing is the size of a pixel in mm, in 0\.01 \.\. 100"):
            segment_module.with_spacing(told, wrong, path)


# --- files that would be overwritten


@pytest.mark.parametrize("way", ["out", "overlay", "both", "link"])
def test_no_file_of_the_command_is_written_over_another(
    way: str, config: SegmentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "a[b].png"
    image.write_bytes(config.image.read_bytes())
    (tmp_path / "link.png").symlink_to(image)
    (tmp_path / "sub").mkdir()
    same = tmp_path / "sub" / ".." / "a[b].png"
    out, overlay, words = {
        "out": (same, config.overlay, "--out would overwrite the image; type another name, such as --out"),
        "overlay": (config.out, same, "--overlay would overwrite the image; type another name"),
        "both": (
            config.out,
            config.out,
            "--overlay would overwrite --out; type another name, such as --overlay",
        ),
        "link": (tmp_path / "link.png", config.overlay, "--out would overwrite the image"),
    }[way]
    command = ["segment", str(image), "--run", str(config.run), "--center", "30,35"]
    assert command_line([*command, "--out", str(out), "--overlay", str(overlay)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert image.read_bytes() == config.image.read_bytes()
    assert not config.out.exists()


# --- wrong words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"--center": "64,3"},
            "row 64 and column 3, lies outside the image; type --center ROW,COL with ROW in 0 .. 63",
        ),
        ({"--center": "x"}, "--center must be ROW,COL in pixels, such as 120,131; got 'x'"),
        (
            {"--center": None},
            "without a display to click on, segment needs the centre: type --center ROW,COL",
        ),
        ({"--out": "mask.jpg"}, "mask.jpg: the name of an image to write must end in .png"),
        ({"--overlay": "o.tif"}, "o.tif: the name of an image to write must end in .png"),
        ({"--run": "."}, "checkpoint.pt: no such file; --run must be a folder that train or export wrote"),
        ({"image": "nowhere.png"}, "nowhere.png: no such file"),
        ({"image": "a.bmp"}, "a.bmp: the name must end in one of"),
        ({"--slice": "2"}, "holds one image; leave out --slice 2"),
    ],
)
def test_wrong_words_are_one_line(
    changes: dict[str, str | None],
    words: str,
    config: SegmentConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(segment_module, "has_display", lambda: False)
    options = {"image": config.image, "--run": config.run, "--out": config.out, "--center": "30,35"} | changes
    image = str(options.pop("image"))
    arguments = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    assert command_line(["segment", image, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not config.out.exists()
