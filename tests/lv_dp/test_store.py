"""The cache and the packed file: what goes in comes out, and what is damaged does neither pass nor run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from applications.lv_dp import evaluate
from applications.lv_dp.data import DataError, SliceSet, cache, store
from applications.lv_dp.data.cache import load_even, load_resampled
from applications.lv_dp.data.pack import difference, integrate, load_packed, write_pack
from applications.lv_dp.data.resample import Grid, resample
from applications.lv_dp.data.slices import centroid
from applications.lv_dp.data.sources import load

SMALL = Grid(1.5, 90)
ROOT = Path(__file__).parents[2]


def assert_same(got: SliceSet, expected: SliceSet, tolerance: float = 0.0) -> None:
    assert len(got) == len(expected)
    assert got.dropped_slices == expected.dropped_slices
    for a, b in zip(got.slices, expected.slices, strict=True):
        for field in ("name", "patient", "spacing", "phase", "slice_spacing", "position", "group"):
            assert getattr(a, field) == getattr(b, field)
        torch.testing.assert_close(a.image, b.image, atol=tolerance, rtol=0)
        torch.testing.assert_close(a.mask, b.mask)
        assert (a.labels is None) == (b.labels is None)
        if a.labels is not None and b.labels is not None:
            torch.testing.assert_close(a.labels, b.labels)


@pytest.fixture
def mixed(phantom: SliceSet) -> SliceSet:
    """Slices of two sizes, some without labels, spacing or phase."""
    first, second, *others = phantom.slices
    cut = dataclasses.replace(
        first, image=first.image[5:], mask=first.mask[5:], labels=None, spacing=(1.2, 0.8), group="DCM"
    )
    bare = dataclasses.replace(
        second, labels=None, spacing=None, phase=None, slice_spacing=None, position=None
    )
    return dataclasses.replace(phantom, slices=(cut, bare, *others))


# --- packed files


@pytest.mark.parametrize("bits", [1, 8, 10, 16])
def test_a_packed_set_comes_back_to_half_a_step(mixed: SliceSet, tmp_path: Path, bits: int) -> None:
    placed = tuple(dataclasses.replace(item, path=Path("/home/anna/a.png")) for item in mixed.slices)
    report = write_pack(tmp_path / "p.npz", dataclasses.replace(mixed, slices=placed), bits)
    data = load(f"packed:{tmp_path / 'p.npz'}")
    span = max(float(item.image.max() - item.image.min()) for item in mixed.slices)
    half_a_step = 1 / (2 * (2**bits - 1))
    assert_same(data, mixed, tolerance=span * half_a_step * 1.001 + 1e-6)
    assert report.worst_relative_error <= half_a_step * 1.001 + 1e-6
    assert report.worst_relative_error > half_a_step / 2
    assert report.bytes == (tmp_path / "p.npz").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]
    assert {item.path for item in data.slices} == {None}  # where it was made is nobody's business


def test_a_constant_image_can_be_packed(phantom: SliceSet, tmp_path: Path) -> None:
    item = dataclasses.replace(phantom.slices[0], image=torch.full((64, 64), 3.5))
    write_pack(tmp_path / "p.npz", dataclasses.replace(phantom, slices=(item,)))
    torch.testing.assert_close(load_packed(tmp_path / "p.npz").slices[0].image, item.image)


def test_differences_are_undone_modulo_the_number_of_levels() -> None:
    codes = np.random.default_rng(0).integers(0, 1024, (30, 41))
    np.testing.assert_array_equal(integrate(difference(codes) % 1024, 10), codes)


def test_smooth_images_pack_small(tmp_path: Path, phantom: SliceSet) -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    item = dataclasses.replace(phantom.slices[0], image=1000 * torch.sin(x / 20) * torch.cos(y / 30))
    report = write_pack(tmp_path / "p.npz", dataclasses.replace(phantom, slices=(item,) * 20))
    assert report.bytes < 20 * 64 * 64 * 0.3


@pytest.mark.parametrize("bits", [0, 17])
def test_impossible_bits_are_refused(phantom: SliceSet, tmp_path: Path, bits: int) -> None:
    with pytest.raises(DataError, match=r"must be in 1 \.\. 16"):
        write_pack(tmp_path / "p.npz", phantom, bits)


def test_who_reads_the_old_file_meanwhile_reads_all_of_it(phantom: SliceSet, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    write_pack(path, phantom)
    before = path.read_bytes()
    with path.open("rb") as old:
        write_pack(path, phantom, bits=8)
        assert old.read() == before
    assert path.read_bytes() != before


class Payload:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def rewritten(path: Path, **changes: np.ndarray) -> None:
    arrays = store.read(path) | changes
    store.write(path, arrays, compress=True)


def meta_with(path: Path, old: str, new: str) -> np.ndarray:
    text = store.read(path)["meta"].tobytes().decode()
    assert old in text
    return np.frombuffer(text.replace(old, new, 1).encode(), np.uint8)


def break_missing(path: Path) -> None:
    path.unlink()


def break_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def break_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def break_random(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(1000))


def break_other_version(path: Path) -> None:
    rewritten(path, version=np.array([99, 10]))


def break_no_meta(path: Path) -> None:
    arrays = store.read(path)
    del arrays["meta"]
    store.write(path, arrays, compress=True)


def break_json(path: Path) -> None:
    rewritten(path, meta=np.frombuffer(b"[" * 100_000, np.uint8))


def break_huge_size(path: Path) -> None:
    rewritten(path, meta=meta_with(path, '"size": [64, 64]', '"size": [6400000, 6400000]'))


def break_negative_size(path: Path) -> None:
    rewritten(path, meta=meta_with(path, '"size": [64, 64]', '"size": [-64, -64]'))


def break_spacing(path: Path) -> None:
    rewritten(path, meta=meta_with(path, '"phase": "ED"', '"phase": "XX"'))


def break_scale(path: Path) -> None:
    rewritten(path, meta=meta_with(path, '"low": ', '"low": NaN, "was": '))


def break_short_masks(path: Path) -> None:
    rewritten(path, masks=store.read(path)["masks"][:-1])


def break_labels(path: Path) -> None:
    rewritten(path, labels=store.read(path)["labels"] + np.uint8(7))


PACK_BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("break_file", PACK_BREAKS, ids=lambda f: f.__name__)
def test_damaged_packed_files_are_refused_in_one_line(break_file, phantom: SliceSet, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "p.npz"
    write_pack(path, phantom)
    break_file(path)
    with pytest.raises(DataError) as caught:
        load_packed(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_every_single_flipped_byte_is_noticed_or_harmless(phantom: SliceSet, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    small = dataclasses.replace(phantom, slices=phantom.slices[:1])
    write_pack(path, small)
    content, expected = path.read_bytes(), load_packed(path)
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            data = load_packed(path)
        except DataError:
            continue
        assert_same(data, expected)


def test_loading_never_executes_code(phantom: SliceSet, tmp_path: Path) -> None:
    path, trace = tmp_path / "p.npz", tmp_path / "executed"
    write_pack(path, phantom)
    array = io.BytesIO()
    np.save(array, np.array([Payload(trace)], dtype=object), allow_pickle=True)
    for member in ("meta.npy", "more.npy", "more"):
        content = pickle.dumps(Payload(trace)) if member == "more" else array.getvalue()
        with zipfile.ZipFile(path) as old:
            kept = {name: old.read(name) for name in old.namelist() if name != member}
        with zipfile.ZipFile(tmp_path / "evil.npz", "w") as new:
            for name, value in (kept | {member: content}).items():
                new.writestr(name, value)
        with contextlib.suppress(DataError):  # what no array reads is let lie
            load_packed(tmp_path / "evil.npz")
        assert not trace.exists()


def test_a_file_that_claims_to_be_huge_is_not_unpacked(
    phantom: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pack(tmp_path / "p.npz", phantom)
    monkeypatch.setattr(store, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="claims more than 1000 bytes"):
        load_packed(tmp_path / "p.npz")


# --- cache


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source(png_folder: Path) -> str:
    return f"png:{png_folder}@1.40625"


def test_the_second_time_reads_what_the_first_time_made(
    source: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_resampled(source, SMALL)
    assert len(files(own_cache)) == 1
    monkeypatch.setattr(cache, "load", lambda _: pytest.fail("loaded again"))
    second = load_resampled(source, SMALL)
    assert_same(second, first)
    assert [item.path for item in second.slices] == [item.path for item in first.slices]
    assert second.source == first.source


def test_other_settings_get_another_file(source: str, own_cache: Path) -> None:
    shapes = [load_resampled(source, grid).slices[0].image.shape for grid in (SMALL, Grid(1.5, 80))]
    assert shapes == [(90, 90), (80, 80)]
    load_resampled(source.replace("@1.40625", "@1.3"), SMALL)
    load_resampled(source, Grid(1.6, 90))
    assert len(files(own_cache)) == 4


def test_changed_files_and_code_get_another_file(
    png_folder: Path, source: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = {cache.key(source, SMALL)}
    path = png_folder / "masks" / "phantom-001-IM-ED-00.png"
    times = path.stat()
    try:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1000))
        names.add(cache.key(source, SMALL))
    finally:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(names) == 2
    assert cache.key(source, SMALL) in names
    (tmp_path / "code.py").write_text("pass")
    monkeypatch.setattr(cache, "CODE", [tmp_path / "code.py"])
    assert cache.key(source, SMALL) not in names


@pytest.mark.parametrize(
    "break_file", [break_torn, break_one_byte, break_random, break_no_meta, break_json, break_short_masks]
)
def test_a_damaged_file_is_warned_of_and_made_anew(break_file, source: str, own_cache: Path) -> None:  # type: ignore[no-untyped-def]
    expected = load_resampled(source, SMALL)
    path = next(own_cache.iterdir())
    break_file(path)
    with pytest.warns(UserWarning, match=f"{path.name}: is damaged and made anew"):
        assert_same(load_resampled(source, SMALL), expected)
    assert_same(load_resampled(source, SMALL), expected)  # no warning


def test_what_a_killed_run_leaves_is_not_taken_for_a_file(
    source: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: io.BufferedWriter, **arrays: object) -> None:
        file.write(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        load_resampled(source, SMALL)
    assert files(own_cache) == []


def test_a_folder_that_cannot_be_written_is_warned_of(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written .* nothing is cached"):
        data = load_resampled(source, SMALL, tmp_path / "file")
    assert len(data) == 16


def test_the_phantom_is_not_cached(
    own_cache: Path, phantom: SliceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "load", {"phantom": phantom}.__getitem__)
    assert_same(load_resampled("phantom", SMALL), resample(phantom, SMALL))
    assert not own_cache.exists()


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("NDGRAD_CACHE", "")
    assert cache.cache_folder() == Path.home() / ".cache" / "ndgrad"


@pytest.mark.slow
def test_two_processes_at_once_leave_one_complete_file(source: str, own_cache: Path) -> None:
    code = (
        "import sys, time, warnings; warnings.simplefilter('error')\n"
        "from applications.lv_dp.data import cache\n"
        "from applications.lv_dp.data.resample import Grid\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "for side in (90, 91, 92): print(len(cache.load_resampled(sys.argv[1], Grid(1.5, side))))\n"
    )
    start = str(time.time() + 6)
    command = [sys.executable, "-c", code, source, start]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.split(), err) == (0, ["16"] * 3, "")
    assert len(files(own_cache)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(load_resampled(source, SMALL), resample(load(source), SMALL))


def test_pixels_of_one_size_are_left_alone(source: str, own_cache: Path) -> None:
    assert_same(load_even(source), load(source))
    assert_same(load_even("phantom"), load("phantom"))
    assert not own_cache.exists()


def test_pixels_of_two_sizes_are_brought_to_one(phantom: SliceSet, tmp_path: Path, own_cache: Path) -> None:
    other = dataclasses.replace(phantom.slices[0], spacing=(1.1, 0.9))
    packed = tmp_path / "p.npz"
    write_pack(packed, dataclasses.replace(phantom, slices=(other, *phantom.slices[1:])))
    data = load_even(f"packed:{packed}")
    assert {item.spacing for item in data.slices} == {(1.36719, 1.36719)}
    assert {tuple(item.image.shape) for item in data.slices} == {(212, 212)}
    assert len(files(own_cache)) == 1


def test_evaluation_takes_the_pixels_of_the_training(source: str, own_cache: Path) -> None:
    own = load(source)
    assert own.spacing is not None
    assert_same(load_even(source, own.spacing * 1.005), own)
    assert not own_cache.exists()
    coarse = load_even(source, own.spacing * 1.5)
    assert coarse.spacing == own.spacing * 1.5
    areas = [sum(item.area or 0.0 for item in part.slices) for part in (coarse, own)]
    assert areas[0] == pytest.approx(areas[1], rel=0.03)


def test_finer_pixels_do_not_cut_a_ventricle_beside_the_middle(phantom: SliceSet, tmp_path: Path) -> None:
    packed = tmp_path / "p.npz"
    moved = tuple(
        dataclasses.replace(
            item,
            image=torch.nn.functional.pad(item.image, (150, 0)),
            mask=torch.nn.functional.pad(item.mask, (150, 0)),
            labels=None,
        )
        for item in phantom.slices
    )
    write_pack(packed, dataclasses.replace(phantom, slices=moved))
    own = load(f"packed:{packed}")
    assert own.spacing is not None
    fine = load_even(f"packed:{packed}", own.spacing * 0.5)
    assert len(fine) == len(own)
    for item, original in zip(fine.slices, own.slices, strict=True):
        assert item.area == pytest.approx(original.area, rel=0.03)


def test_a_resampled_set_is_read_from_the_cache_alone(
    phantom: SliceSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "p.npz"
    write_pack(packed, phantom)
    first = load_even(f"packed:{packed}", 1.9)
    monkeypatch.setattr(cache, "load", None)
    assert_same(load_even(f"packed:{packed}", 1.9), first)


def test_training_and_evaluation_agree_on_what_one_size_is(phantom: SliceSet, tmp_path: Path) -> None:
    packed = tmp_path / "p.npz"
    slightly = dataclasses.replace(phantom.slices[0], spacing=(2.8125, 2.83))
    write_pack(packed, dataclasses.replace(phantom, slices=(slightly, *phantom.slices[1:])))
    own = load(f"packed:{packed}")
    assert own.spacing is not None
    assert_same(load_even(f"packed:{packed}"), own)
    assert_same(load_even(f"packed:{packed}", own.spacing), own)


def test_pixels_of_unknown_size_stay(phantom: SliceSet, tmp_path: Path) -> None:
    packed = tmp_path / "p.npz"
    write_pack(
        packed,
        dataclasses.replace(
            phantom, slices=tuple(dataclasses.replace(item, spacing=None) for item in phantom.slices)
        ),
    )
    assert_same(load_even(f"packed:{packed}", 1.2), load(f"packed:{packed}"))


def test_given_centers_follow_the_resampling(source: str, own_cache: Path, tmp_path: Path) -> None:
    own = load(source)
    assert own.spacing is not None
    lines = (f"{item.name},{x},{y}" for item in own.slices for x, y in [centroid(item.mask).tolist()])
    (tmp_path / "c.csv").write_text("\n".join(["name,x,y", *lines]))
    coarse = load_even(source, own.spacing * 1.5)
    for data in (own, coarse):
        points = evaluate._given_centers(tmp_path / "c.csv", source, data)
        expected = torch.stack([centroid(item.mask) for item in data.slices])
        torch.testing.assert_close(torch.stack(points), expected, atol=0.3, rtol=0)
