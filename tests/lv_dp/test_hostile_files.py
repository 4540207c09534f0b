"""What fuzzing found, one test each: files that were read wrongly, without end, or into too much memory."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from applications.lv_dp import checkpoint, segment, train
from applications.lv_dp.compare import CompareConfig
from applications.lv_dp.compare import main as compare
from applications.lv_dp.data import DataError, SliceSet, store
from applications.lv_dp.data.acdc import read_info
from applications.lv_dp.data.contours import MAX_POINTS, read_contour
from applications.lv_dp.data.dicom import DEFLATED, read_dicom
from applications.lv_dp.data.nifti import MAX_BYTES, read_nifti
from applications.lv_dp.data.pack import load_packed, write_pack
from applications.lv_dp.data.png import read_grey
from applications.lv_dp.data.slices import Slice
from applications.lv_dp.data.sources import load_centers
from applications.lv_dp.errors import LONGEST, UsageError
from applications.lv_dp.files import NoFileError, TooLargeError, read_bytes, read_json, read_number
from applications.lv_dp.image_file import Picture
from applications.lv_dp.release import ExportConfig, export, open_model
from applications.lv_dp.runs import checkpoint_path, open_run
from applications.lv_dp.settings_check import checked_settings
from benchmarks.fuzzing import samples
from benchmarks.fuzzing.binary import laughs


def one_line(error: BaseException) -> bool:
    return str(error).isprintable() and len(str(error)) <= LONGEST + 4


# --- files


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(OSError if kind == "loop" else NoFileError):
        read_bytes(path)
    with pytest.raises(DataError):
        read_contour(path)
    with pytest.raises(UsageError):
        open_model(tmp_path)


def test_an_endless_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.nii").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TooLargeError, match="at most 1000 are read"):
        read_bytes(tmp_path / "a.nii", 1000)
    for reader in (read_nifti, read_dicom, read_grey, load_packed, checkpoint.load, read_contour):
        with pytest.raises(UsageError):
            reader(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 60 + "]" * 60, "NaN", "1e999", "-Infinity", "9" * 5000]
)
def test_json_is_plain_and_shallow(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011 - the caller says what the file should have been
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("word", ["1_0", "\u0663", "nan", "1e31", "-inf", "", "0x10"])
def test_numbers_are_written_as_people_write_them(word: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_number(word)


def test_messages_are_one_line_whatever_a_file_is_called() -> None:
    error = UsageError("a\n\x1b[2J\ud800.png: no such file")
    assert str(error) == "a\\n\\x1b[2J\\ud800.png: no such file"
    assert one_line(UsageError("a" * 10**6))


# --- images


def volume(tmp_path: Path) -> Path:
    samples.write_volume(tmp_path)
    return tmp_path / "volume.nii"


def put(path: Path, place: int, content: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[place : place + len(content)] = content
    path.write_bytes(data)
    return path


def test_a_header_s_bytes_are_not_taken_for_voxels(tmp_path: Path) -> None:
    path = put(volume(tmp_path), 108, np.float32(0).tobytes())
    with pytest.raises(DataError, match="voxels must begin at byte 352"):
        read_nifti(path)


def test_colours_and_complex_numbers_are_no_intensities(tmp_path: Path) -> None:
    path = volume(tmp_path)
    values = np.zeros((24, 24, 2), np.complex64)
    samples.write_nifti(path, values)
    with pytest.raises(DataError, match="voxels must be real numbers"):
        read_nifti(path)


@pytest.mark.parametrize("size", [1e-9, 1e9, np.nan])
def test_a_voxel_has_a_size_that_voxels_have(size: float, tmp_path: Path) -> None:
    path = put(volume(tmp_path), 80, np.float32(size).tobytes())
    with pytest.raises(DataError):
        read_nifti(path)


def test_intensities_that_nobody_can_compute_with_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    samples.write_nifti(path, np.full((4, 4, 2), 1e30, np.float32))
    with pytest.raises(DataError, match="not finite or beyond"):
        read_nifti(path)
    with pytest.raises(DataError, match="not finite or beyond"):
        Slice("a", "a", torch.full((2, 2), torch.nan), torch.ones(2, 2).bool())


def test_a_damaged_gzip_file_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(volume(tmp_path).read_bytes(), 0))
    data[-100] ^= 1  # stored, so that nothing but the checksum tells
    (tmp_path / "a.nii.gz").write_bytes(data)
    with pytest.raises(DataError, match="BadGzipFile"):
        read_nifti(tmp_path / "a.nii.gz")


def test_a_gzip_bomb_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    zeros = gzip.compress(bytes(2**24), 9)
    content = volume(tmp_path).read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content) + zeros * (MAX_BYTES // 2**24 + 1))
    with pytest.raises(DataError, match="TooLargeError"):
        read_nifti(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "EPS"])
def test_only_png_is_read_under_its_name(kind: str, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png", kind)
    with pytest.raises(DataError, match="is not a readable picture"):
        read_grey(tmp_path / "a.png")


def test_a_picture_of_too_many_pixels_is_not_unpacked(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"at most 4096 rows and columns, got \(9000, 10000\)"):
        read_grey(tmp_path / "a.png")


def test_a_palette_with_transparency_is_read_without_a_word(tmp_path: Path) -> None:
    Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=b"\0\x80")
    assert read_grey(tmp_path / "a.png").shape == (4, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"NumberOfFrames": "1000000"}, "got 1000000 of 1 colours"),
        ({"SamplesPerPixel": 3}, "got 1 of 3 colours"),
        ({"RescaleSlope": 1e30}, "not finite or beyond"),
    ],
)
def test_dicom_headers_are_looked_at_first(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    import pydicom

    path = tmp_path / "a.dcm"
    samples.write_dicom(path)
    data = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(data, name, value)
    data.save_as(path)
    with pytest.raises(DataError, match=words):
        read_dicom(path)


def test_deflated_dicom_is_not_unpacked(tmp_path: Path) -> None:
    samples.write_dicom(tmp_path / "a.dcm")
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content + DEFLATED)
    with pytest.raises(DataError, match="is deflated"):
        read_dicom(tmp_path / "a.dcm")


def test_segmenting_refuses_pixels_too_large_for_the_model(tmp_path: Path) -> None:
    samples.write_release(tmp_path / "r")
    run = open_model(tmp_path / "r")
    with pytest.raises(UsageError, match="at most 4096 are drawn"):
        segment.training_grid(
            dataclasses.replace(run, spacing=0.02), Picture(torch.zeros(9, 9), (90.0, 90.0))
        )


# --- text


def test_a_contour_has_a_bounded_number_of_corners(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 1\n" * (MAX_POINTS + 1))
    with pytest.raises(DataError, match="at most 10000 corners"):
        read_contour(tmp_path / "a.txt")


def test_a_group_is_a_short_word(tmp_path: Path) -> None:
    (tmp_path / "Info.cfg").write_text("ED: 1\nES: 2\nGroup: \x1b[31mDCM\n")
    with pytest.raises(DataError, match="Group must be a short word") as caught:
        read_info(tmp_path / "Info.cfg")
    assert one_line(caught.value)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a" * 200_000 + ",1,2", "cannot be read"),
        ("a,nan,2", "with numbers in x and y"),
        ("a,1e39,2", "with numbers in x and y"),
        ("a,1,2\na,1,2", "two rows for one name"),
    ],
)
def test_centres_are_numbers_once_each(lines: str, words: str, phantom: SliceSet, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(f"name,x,y\n{lines}\n")
    with pytest.raises(DataError, match=words):
        load_centers(tmp_path / "c.csv", phantom)


# --- archives


def with_header(path: Path, header: str) -> None:
    """Give the array ``meta`` another header."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    body = members["meta.npy"].partition(b"\n")[2]
    head = f"{header}\n".encode()
    members["meta.npy"] = b"\x93NUMPY\x01\0" + len(head).to_bytes(2, "little") + head + body
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    ],
)
def test_an_array_is_as_large_as_its_content(header: str, phantom: SliceSet, tmp_path: Path) -> None:
    write_pack(tmp_path / "p.npz", phantom)
    with_header(tmp_path / "p.npz", header)
    with pytest.raises(DataError, match=r"no complete file of slices \(ValueError\)"):
        load_packed(tmp_path / "p.npz")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"group": null', '"group": {"a": 1}'),
        ('"patient": "phantom-000"', '"patient": "\\u001b[2J"'),
        ('"position": 0', '"position": "x"'),
        ('"size": [64, 64]', '"size": [4097, 1]'),
        ('"reason": "no left ventricle"', '"reason": 7'),
    ],
)
def test_records_of_slices_hold_what_they_should(
    old: str, new: str, phantom: SliceSet, tmp_path: Path
) -> None:
    path = tmp_path / "p.npz"
    write_pack(path, phantom)
    arrays = store.read(path)
    text = arrays["meta"].tobytes().decode()
    assert old in text
    store.write(
        path, arrays | {"meta": np.frombuffer(text.replace(old, new, 1).encode(), np.uint8)}, compress=True
    )
    with pytest.raises(DataError):
        load_packed(path)


# --- runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    samples.write_run(folder / "run")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    copy = trained / tmp_path.name  # beside the data that it was trained on
    shutil.copytree(trained / "run", copy)
    return copy


def pickled(folder: Path, content: bytes) -> None:
    """Put another pickle into a checkpoint."""
    path = checkpoint_path(folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)


def compressed(folder: Path) -> None:
    path = checkpoint_path(folder)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, old in members.items():
            archive.writestr(name, old)


def legacy(folder: Path) -> None:
    state = checkpoint.load(checkpoint_path(folder))
    torch.save(state, checkpoint_path(folder), _use_new_zipfile_serialization=False)


def saved(value: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what changes the state of a checkpoint."""

    def change(folder: Path) -> None:
        state = checkpoint.load(checkpoint_path(folder))
        value(state)
        checkpoint.save(checkpoint_path(folder), state)

    return change


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x05" + (2 * 10**9).to_bytes(5, "little") + b"\x85R."
FILES: dict[str, Callable[[Path], None]] = {
    "bytearray": lambda f: pickled(f, BYTEARRAY),
    "itself": lambda f: pickled(f, b"\x80\x02}q\x00X\x01\0\0\0ah\x00s."),
    "laughs": lambda f: pickled(f, pickle.dumps({"a": laughs()}, 2)),
    "a list": lambda f: pickled(f, pickle.dumps([1], 2)),
    "compressed": compressed,
    "legacy": legacy,
    "expanded": saved(lambda s: s.update(more=torch.zeros(1).expand(10**6, 10**6))),
    "sparse": saved(lambda s: s.update(more=torch.eye(3).to_sparse())),
    "meta": saved(lambda s: s.update(more=torch.zeros(3, device="meta"))),
}


@pytest.mark.parametrize("name", FILES)
def test_checkpoints_hold_plain_values_in_bounds(name: str, run: Path) -> None:
    FILES[name](run)
    with pytest.raises(UsageError, match=r"checkpoint\.pt: is damaged or no checkpoint"):
        open_run(run)


WEIGHT = "unet.head.weight"
STATES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no model": (lambda s: s.pop("model"), "holds no model"),
    "surplus": (lambda s: s["model"].update({"unet.more": torch.ones(1)}), "holds a surplus tensor 'more'"),
    "shape": (lambda s: s["model"].update({WEIGHT: torch.ones(3)}), r"head\.weight must be float32"),
    "number": (lambda s: s["model"].update({WEIGHT: 3}), "got int"),
    "iteration": (lambda s: s.update(iteration="x"), "iteration must be an integer"),
    "radius": (lambda s: s.pop("mean_radius"), "mean_radius must be a number"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_run_s_weights_fit_its_settings(name: str, run: Path) -> None:
    change, words = STATES[name]
    saved(change)(run)
    with pytest.raises(UsageError, match=words):
        open_run(run)


RESUMED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no optimizer": lambda s: s.pop("optimizer"),
    "betas": lambda s: s["optimizer"]["param_groups"][0].update(betas=("a", "b")),
    "rate": lambda s: s["optimizer"]["param_groups"][0].update(lr="x"),
    "moments": lambda s: s["optimizer"]["state"][0].update(exp_avg=torch.zeros(7)),
    "rows": lambda s: s["rows"].reverse(),
    "loss": lambda s: s["rows"][0].update(loss="x"),
    "evaluations": lambda s: s["rows"][0].update(evaluations=1.5),
    "generator": lambda s: s.update(generator=torch.zeros(3)),
    "bypass": lambda s: next(v for k, v in s["model"].items() if "extra" in k)["fit"]["optimizer"].update(
        state={0: {"step": torch.tensor(1.0)}}
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_training_that_could_not_go_on_is_not_resumed(name: str, run: Path) -> None:
    saved(RESUMED[name])(run)
    with pytest.raises(UsageError, match="does not fit this training"):
        train.start(samples.job(run))


def test_what_killed_runs_left_is_cleared_away(run: Path) -> None:
    (run / "checkpoint.pt.123.partial").write_bytes(b"half")
    train.start(samples.job(run))
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize(
    "text", ["[]", '{"settings": []}', "[" * 10**5, '{"settings": {}, "method": NaN}', ""]
)
def test_a_configuration_is_checked_before_it_is_compared(text: str, run: Path) -> None:
    (run / "config.json").write_text(text)
    for use in (open_run, lambda folder: train.start(samples.job(folder))):
        with pytest.raises(UsageError, match=r"config\.json: is not"):
            use(run)


def test_settings_that_need_too_much_memory_are_refused() -> None:
    for settings in (
        {"crop": 2048, "base_channels": 512, "levels": 1},
        {"num_rays": 2048, "num_radii": 2048},
        {"crop": 64, "levels": 8},
    ):
        with pytest.raises(UsageError, match="must be at"):
            checked_settings(settings, Path("model.json"))


def test_a_release_of_an_unknown_type_of_number_is_refused(run: Path, tmp_path: Path) -> None:
    export(ExportConfig(run, tmp_path / "r"))
    path = tmp_path / "r" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"C64"', 1))
    with pytest.raises(UsageError, match="is damaged or no safetensors file"):
        open_model(tmp_path / "r")


@pytest.mark.parametrize(
    "image",
    [
        {"name": "a", "patient": "p", "unet": {"dice_whole": "x"}},
        {"name": "a", "patient": "p", "unet": {"dice_whole": 10**400}},
        {"name": "a", "patient": "p", "\x1b[2J": {"dice_whole": 0.5}},
        {"name": ["a"], "patient": "p", "unet": {"dice_whole": 0.5}},
    ],
)
def test_scores_are_what_dice_can_be(image: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(UsageError, match="is not what evaluate writes") as caught:
        compare(CompareConfig((tmp_path / "a.json", tmp_path / "a.json")))
    assert one_line(caught.value)
