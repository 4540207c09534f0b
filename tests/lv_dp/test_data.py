from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from applications.lv_dp.data import DataError, Slice, SliceSet
from applications.lv_dp.data.cache import load_even
from applications.lv_dp.data.phantom import PhantomConfig, draw_patient, draw_slice, load_phantom
from applications.lv_dp.data.png import holds_labels, load_png
from applications.lv_dp.data.preprocess import crop, crop_back, paste, prepare
from applications.lv_dp.data.slices import centroid
from applications.lv_dp.data.sources import load, load_centers
from applications.lv_dp.data.splits import held_out_fifth, held_out_patients, training_subset


def edited(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    return copy


# --- PNG folders


def test_png_loads_pairs_by_patient_and_counts_what_it_drops(png_folder: Path, phantom: SliceSet) -> None:
    data = load_png(png_folder)
    assert (len(data), data.dropped, data.patients) == (len(phantom), 1, phantom.patients)
    for got, expected in zip(data.slices, sorted(phantom.slices, key=lambda s: s.name), strict=True):
        assert got.name == expected.name
        torch.testing.assert_close(got.mask, expected.mask)
        torch.testing.assert_close(got.image, (expected.image * 150).clamp(0, 255), atol=1.0, rtol=0)


def test_png_patient_without_instance_number_is_the_whole_name(png_folder: Path, tmp_path: Path) -> None:
    copy = edited(png_folder, tmp_path)
    for kind in ("images", "masks"):
        (copy / kind / "phantom-001-IM-ED-00.png").rename(copy / kind / "anna.png")
    assert "anna" in load_png(copy).patients


def rename_all(root: Path, name: Callable[[str], str]) -> None:
    for path in list(root.rglob("*.png")):
        path.rename(path.with_stem(name(path.stem)))


def test_png_names_that_tell_no_patient_are_warned_of(png_folder: Path, tmp_path: Path) -> None:
    copy = edited(png_folder, tmp_path)
    rename_all(copy, lambda stem: stem.replace("-IM-", "_"))
    with pytest.warns(UserWarning, match="each of the 17 images counts as a patient of its own"):
        assert "phantom-001_ED-00" in load_png(copy).patients


def test_png_names_without_a_patient_are_refused(png_folder: Path, tmp_path: Path) -> None:
    copy = edited(png_folder, tmp_path)
    rename_all(copy, lambda stem: stem.replace("phantom-001-IM", "-IM"))
    with pytest.raises(DataError, match=r"-IM-E.-0.\.png: names no patient"):
        load_png(copy)


def test_png_suffixes_may_be_capital_and_differ(png_folder: Path, tmp_path: Path) -> None:
    copy = edited(png_folder, tmp_path)
    image = copy / "images" / "phantom-001-IM-ED-00.png"
    image.rename(image.with_suffix(".PNG"))
    assert len(load_png(copy)) == len(load_png(png_folder))
    shutil.copy(image.with_suffix(".PNG"), image)
    with pytest.raises(DataError, match=r"ED-00.png: has the name of phantom-001-IM-ED-00.PNG"):
        load_png(copy)


def test_png_masks_of_zero_and_one_count_alike(png_folder: Path, tmp_path: Path) -> None:
    copy = edited(png_folder, tmp_path)
    path = copy / "masks" / "phantom-001-IM-ED-00.png"
    Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    for got, expected in zip(load_png(copy).slices, load_png(png_folder).slices, strict=True):
        torch.testing.assert_close(got.mask, expected.mask)


def rewrite(root: Path, change: Callable[[Any], Any]) -> str:
    """Change the first slice's mask, and return its path."""
    path = root / "masks" / "phantom-001-IM-ED-00.png"
    values = np.asarray(Image.open(path))
    Image.fromarray(change(values).astype(np.uint8)).save(path)
    return str(path)


def labelled(values: Any, *labels: int) -> Any:
    """Draw regions that hold 3 x 3 pixels and more in a corner where no ventricle is, and the last in its place."""
    drawn = np.where(values > 0, labels[-1], 0)
    for number, label in enumerate(labels[:-1]):
        drawn[4 * number : 4 * number + 4, :4] = label
    return drawn


def break_labels(root: Path) -> str:
    return (
        rewrite(root, lambda values: labelled(values, 1, 2, 3)) + ": holds labels (0, 1, 2, 3), not one mask"
    )


def break_bright_labels(root: Path) -> str:
    return rewrite(root, lambda values: labelled(values, 85, 170, 255)) + ": holds labels (0, 85, 170, 255)"


def break_inverted(root: Path) -> str:
    return rewrite(root, lambda values: 255 - values) + ": 100% of the image's border is inside the mask"


def break_inverted_of_ones(root: Path) -> str:
    return rewrite(root, lambda values: values == 0) + ": 100% of the image's border is inside the mask"


def break_nothing_there(root: Path) -> str:
    shutil.rmtree(root)
    return str(root)


def break_no_masks_folder(root: Path) -> str:
    shutil.rmtree(root / "masks")
    return str(root / "masks")


def break_empty(root: Path) -> str:
    for path in root.glob("*/*.png"):
        path.unlink()
    return "holds no .png"


def break_mask_without_image(root: Path) -> str:
    (root / "images" / "phantom-001-IM-ED-00.png").unlink()
    return str(root / "masks" / "phantom-001-IM-ED-00.png") + ": has no image"


def break_image_without_mask(root: Path) -> str:
    (root / "masks" / "phantom-001-IM-ED-00.png").unlink()
    return str(root / "images" / "phantom-001-IM-ED-00.png") + ": has no mask"


def break_not_a_picture(root: Path) -> str:
    path = root / "images" / "phantom-001-IM-ED-00.png"
    path.write_text("hello")
    return f"{path}: is not a readable picture"


def break_sizes(root: Path) -> str:
    path = root / "masks" / "phantom-001-IM-ED-00.png"
    Image.fromarray(np.full((30, 64), 255, np.uint8)).save(path)
    return "(64, 64) and (30, 64)"


def break_all_masks_empty(root: Path) -> str:
    for path in (root / "masks").glob("*.png"):
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
    return "none of its 17 slices"


BREAKS = [
    break_nothing_there,
    break_no_masks_folder,
    break_empty,
    break_mask_without_image,
    break_image_without_mask,
    break_not_a_picture,
    break_sizes,
    break_all_masks_empty,
    break_labels,
    break_bright_labels,
    break_inverted,
    break_inverted_of_ones,
]


@pytest.mark.parametrize("break_folder", BREAKS, ids=lambda f: f.__name__)
def test_png_errors_are_one_line_and_name_the_file(break_folder, png_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    copy = edited(png_folder, tmp_path)
    words = break_folder(copy)
    with pytest.raises(DataError) as caught:
        load_png(copy)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_are_told_from_edges() -> None:
    corner = torch.zeros(20, 20)
    corner[5:12, 5:12] = 1.0
    smooth = torch.nn.functional.interpolate(corner[None, None], scale_factor=0.5, mode="area")[0, 0]
    for edge in (corner, smooth):
        assert not holds_labels((edge * 255).round())
    blurred = torch.linspace(0, 255, 20).round().repeat(20, 1)
    assert not holds_labels(blurred.repeat_interleave(4, 1))  # many values, each over four columns
    assert holds_labels((corner * 3 + corner.roll(8, 0)).clamp(0, 15))
    assert holds_labels(torch.tensor([[0.0, 7.0, 15.0]]))
    assert not holds_labels(torch.tensor([[0.0, 8.0, 16.0]]))


def test_a_mask_may_touch_the_border(png_folder: Path, tmp_path: Path) -> None:
    copy = edited(png_folder, tmp_path)
    rewrite(copy, lambda values: np.pad(values[10:, :], ((0, 10), (0, 0)), constant_values=255))
    assert len(load_png(copy)) == len(load_png(png_folder))


def test_a_tilde_is_the_home_folder(png_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(png_folder.parent))
    source = f"png:~/{png_folder.name}"
    assert len(load(source)) == len(load_even(source)) == len(load(f"{source}@1.5")) == 16


@pytest.mark.parametrize("source", ["", "phantom:x", "png:", "dicom:x"])
def test_unknown_sources_are_refused(source: str) -> None:
    with pytest.raises(DataError, match=r"must be phantom, png:DIR, .* or packed:FILE"):
        load(source)


def test_real_slices_load(sunnybrook: Path) -> None:
    data = load(f"png:{sunnybrook}")
    assert (len(data), data.dropped, len(data.patients)) == (526, 0, 30)


def test_a_declared_spacing_holds_for_every_slice(png_folder: Path, tmp_path: Path) -> None:
    assert {item.spacing for item in load(f"png:{png_folder}@1.25").slices} == {(1.25, 1.25)}
    assert {item.spacing for item in load(f"png:{png_folder}").slices} == {None}
    named = tmp_path / "a@2"
    shutil.copytree(png_folder, named)
    assert {item.spacing for item in load(f"png:{named}").slices} == {None}
    assert {item.spacing for item in load(f"png:{named}@3").slices} == {(3.0, 3.0)}


@pytest.mark.parametrize(
    ("text", "words"), [("x", "size of a pixel in mm, got 'x'"), ("0", "must be positive")]
)
def test_a_spacing_that_is_none_is_refused(png_folder: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(f"png:{png_folder}@{text}")


def test_a_picture_that_claims_to_be_huge_is_refused(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"is not a readable picture \(DecompressionBombError\)"):
        load_png(png_folder)


# --- centres


def test_centers_are_read_in_the_order_of_the_slices(tmp_path: Path, phantom: SliceSet) -> None:
    rows = [f"{item.name},{index + 0.5},{index}" for index, item in enumerate(phantom.slices)]
    (tmp_path / "c.csv").write_text("\n".join(["name,x,y", *reversed(rows)]))
    centers = torch.stack(load_centers(tmp_path / "c.csv", phantom))
    (tmp_path / "c.csv").write_text(
        "\n".join(["name,x,y", *rows]), encoding="utf-8-sig"
    )  # as Excel writes it
    torch.testing.assert_close(torch.stack(load_centers(tmp_path / "c.csv", phantom)), centers)
    torch.testing.assert_close(centers[:, 0], torch.arange(len(phantom)) + 0.5)
    torch.testing.assert_close(centers[:, 1], torch.arange(len(phantom)).float())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a,b\n1,2", "name,x,y"),
        ("name,x,y\np,1,up", "numbers"),
        ("name,x,y", "no row"),
    ],
)
def test_bad_center_files_are_named(tmp_path: Path, phantom: SliceSet, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "c.csv").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        load_centers(tmp_path / "c.csv", phantom)
    assert "c.csv" in str(caught.value)


# --- preprocessing


def test_crop_and_crop_back_are_inverse_where_they_overlap() -> None:
    image = torch.rand(20, 31, generator=torch.Generator().manual_seed(0)) > 0.5
    for corner in ((-3, 4), (25, -6), (5, 5), (-10, -10)):
        piece = crop(image.float(), torch.tensor(corner), 16, mode="constant") > 0.5
        back = crop_back(piece, torch.tensor(corner), (20, 31))
        y, x = torch.meshgrid(torch.arange(20), torch.arange(31), indexing="ij")
        seen = (x >= corner[0]) & (x < corner[0] + 16) & (y >= corner[1]) & (y < corner[1] + 16)
        torch.testing.assert_close(back, image & seen)


def test_prepare_centers_the_crop_and_standardises_it(phantom: SliceSet) -> None:
    batch = prepare(phantom.slices, 48)
    assert batch.images.shape == (len(phantom), 48, 48)
    assert (batch.centers - 24).abs().max() <= 0.5
    torch.testing.assert_close(batch.images.mean((1, 2)), torch.zeros(len(phantom)), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.images.std((1, 2)), torch.ones(len(phantom)), atol=1e-4, rtol=0)
    for index, item in enumerate(phantom.slices):
        torch.testing.assert_close(batch.centers[index] + batch.corners[index], centroid(item.mask))
    pasted = paste(batch.masks, batch.corners, [(64, 64)] * len(phantom))
    torch.testing.assert_close(torch.stack(pasted), torch.stack([item.mask for item in phantom.slices]))


def test_prepare_does_not_see_brightness_and_contrast(phantom: SliceSet) -> None:
    item = phantom.slices[0]
    other = dataclasses.replace(item, image=3 * item.image + 40)
    torch.testing.assert_close(prepare([other], 48).images, prepare([item], 48).images, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("center", [(-0.6, 10.0), (10.0, 63.6)])
def test_a_center_outside_the_image_names_the_file(phantom: SliceSet, center: tuple[float, float]) -> None:
    item = dataclasses.replace(phantom.slices[0], path=Path("images/a.png"))
    with pytest.raises(DataError, match=r"images/a.png: the centre .* outside the image \(64 x 64 pixels\)"):
        prepare([item], 48, [torch.tensor(center)])


# --- splits


def test_held_out_patients_never_train(phantom: SliceSet) -> None:
    held_out = held_out_patients(phantom, 0.5, seed=1)
    assert len(held_out) == 2
    subset = training_subset(phantom, held_out, 8, seed=3)
    assert len(subset) == 8
    assert not set(subset.patients) & set(held_out)


def test_training_subsets_are_nested(phantom: SliceSet) -> None:
    names = [
        [s.name for s in training_subset(phantom, ["phantom-002"], count, seed=3).slices]
        for count in (3, 7, 12)
    ]
    assert names[2][:7] == names[1]
    assert names[1][:3] == names[0]
    other = training_subset(phantom, ["phantom-002"], 12, seed=4)
    assert [s.name for s in other.slices] != names[2]


def test_a_split_keeps_at_least_one_patient_on_each_side(phantom: SliceSet) -> None:
    assert [len(held_out_patients(phantom, share, 0)) for share in (0.01, 0.99)] == [1, 3]
    with pytest.raises(DataError, match="at least 2 patients"):
        held_out_patients(phantom.of_patients(["phantom-000"]), 0.5, 0)


@pytest.mark.parametrize("count", [0, 13])
def test_impossible_subset_sizes_are_refused(phantom: SliceSet, count: int) -> None:
    words = r"must be in 1 \.\. 12 .* 1 put aside by --held-out or --hold-out\), got"
    with pytest.raises(DataError, match=words):
        training_subset(phantom, ["phantom-002"], count, 0)


def test_every_fifth_patient_is_held_out_always() -> None:
    data = load_phantom(PhantomConfig(patients=11, levels=2, size=32))
    assert held_out_fifth(data) == ["phantom-004", "phantom-009"]
    shuffled = dataclasses.replace(data, slices=data.slices[::-1])
    assert held_out_fifth(shuffled) == held_out_fifth(data)
    with pytest.raises(DataError, match="needs 5 patients, got 4"):
        held_out_fifth(data.of_patients(data.patients[:4]))


# --- phantom


def test_phantom_is_reproducible_and_varies() -> None:
    config = PhantomConfig(patients=2, levels=2, size=64)
    once, again, other = (load_phantom(config, seed=seed).slices[0] for seed in (1, 1, 2))
    torch.testing.assert_close(again.image, once.image, rtol=0, atol=0)
    assert not torch.equal(other.mask, once.mask)


def test_phantom_drops_the_slices_past_the_apex(phantom: SliceSet) -> None:
    assert (len(phantom), phantom.dropped) == (16, 8)


def test_phantom_anatomy_is_disjoint_and_nested() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        patient = draw_patient(rng, 96)
        diastole, systole = (draw_slice(patient, 0.2, phase, rng, 96, 0.05) for phase in (False, True))
        for drawn in (diastole, systole):
            assert not (drawn.lv & drawn.myocardium).any()
            assert not (drawn.rv & (drawn.lv | drawn.myocardium)).any()
            assert min(part.sum() for part in (drawn.lv, drawn.myocardium, drawn.rv)) > 30
            assert drawn.image[drawn.lv].mean() > 1.4 * drawn.image[drawn.myocardium].mean()
        assert systole.lv.sum() < 0.7 * diastole.lv.sum()


def test_phantom_noise_is_rician() -> None:
    """In air the magnitude is Rayleigh: mean sigma sqrt(pi/2), for a signal far below the noise."""
    rng = np.random.default_rng(0)
    patient = dataclasses.replace(draw_patient(rng, 64), bias=np.zeros(5))
    drawn = draw_slice(patient, 0.2, False, rng, 64, noise=2.0)
    corner = np.concatenate([drawn.image[:9, :9].ravel(), drawn.image[-9:, -9:].ravel()])
    deviation = 2.0 * np.sqrt((2 - np.pi / 2) / corner.size)
    assert abs(corner.mean() - 2.0 * np.sqrt(np.pi / 2)) < 4 * deviation


def test_image_and_mask_of_different_sizes_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\) and \(5, 4\)"):
        Slice("a", "a", torch.zeros(4, 5), torch.zeros(5, 4, dtype=torch.bool))


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(DataError, match="labels"):
        Slice("a", "a", torch.zeros(4, 5), torch.ones(4, 5) > 0, labels=torch.zeros(5, 4))


@pytest.mark.parametrize(
    "wrong", [{"spacing": (1.0, 0.0)}, {"spacing": (float("nan"), 1.0)}, {"slice_spacing": -1.0}]
)
def test_a_spacing_must_be_positive(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="spacing must be positive"):
        Slice("a", "a", torch.zeros(4, 5), torch.ones(4, 5) > 0, **wrong)


def test_a_name_occurs_once(phantom: SliceSet) -> None:
    with pytest.raises(DataError, match="two slices have the name phantom-000-IM-ED-00"):
        SliceSet.keep_with_ventricle([phantom.slices[0]] * 2, "here")


def test_dropped_slices_go_with_their_patient(phantom: SliceSet) -> None:
    some = phantom.of_patients(["phantom-001"])
    assert (some.dropped, some.drop_reasons) == (2, {"no left ventricle": 2})
    assert {item.patient for item in some.dropped_slices} == {"phantom-001"}


def test_phantom_slices_know_their_place(phantom: SliceSet) -> None:
    item = phantom.slices[1]
    assert (item.phase, item.position, item.slice_spacing, item.spacing) == ("ED", 1, 45.0, (2.8125, 2.8125))
    assert item.labels is not None
    torch.testing.assert_close(item.labels == 3, item.mask)
