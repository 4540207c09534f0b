from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from applications.lv_dp.data import DataError, Slice, SliceSet
from applications.lv_dp.data.phantom import PhantomConfig, load_phantom
from applications.lv_dp.data.preprocess import prepare
from applications.lv_dp.data.resample import (
    Grid,
    mask_from_grid,
    point_on_grid,
    resample,
    resample_slice,
    sample,
)
from applications.lv_dp.data.slices import LV, MYOCARDIUM, RV, centroid
from applications.lv_dp.data.volumes import volumes
from applications.lv_dp.metrics import dice


@pytest.mark.parametrize("shape", [(40, 31), (17, 64), (5, 5)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.9), (1.92, 0.7)])
@pytest.mark.parametrize("grid", [Grid(1.3, 32), Grid(0.9, 21), Grid(2.0, 80)], ids=str)
def test_sampling_equals_scipy_s(shape: tuple[int, int], spacing: tuple[float, float], grid: Grid) -> None:
    image = np.random.default_rng(0).random(shape) + 1
    steps = (np.arange(grid.size) - (grid.size - 1) / 2) * grid.spacing
    y, x = ((count - 1) / 2 + steps / side for count, side in zip(shape, spacing, strict=True))
    points = np.meshgrid(y, x, indexing="ij")
    expected = map_coordinates(image, points, order=1, mode="grid-constant", cval=0.0)
    got = sample(torch.from_numpy(image).float()[None], spacing, grid)[0]
    torch.testing.assert_close(got, torch.from_numpy(expected).float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("spacing", [(0.7, 0.9), (1.4, 1.1), (1.92, 1.92)])
def test_an_ellipse_keeps_its_area_and_its_place_in_millimetres(spacing: tuple[float, float]) -> None:
    H, W = 200, 170
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    dy, dx = (y - (H - 1) / 2) * spacing[0] - 10, (x - (W - 1) / 2) * spacing[1] + 5  # from the centre
    mask = (dy / 30) ** 2 + (dx / 20) ** 2 < 1
    blob = torch.exp(-((dy / 15) ** 2) - (dx / 10) ** 2)
    item = Slice("a", "a", 100 * blob, mask, spacing=spacing)
    got = resample_slice(item, Grid())
    assert (got.image.shape, got.spacing) == ((212, 212), (1.36719, 1.36719))
    assert got.area == pytest.approx(np.pi * 30 * 20, rel=0.01)
    offset = (centroid(got.mask) - 105.5) * 1.36719
    torch.testing.assert_close(offset, torch.tensor([-5.0, 10.0]), atol=0.25, rtol=0)  # pixels' corners
    millimetres = (torch.arange(212) - 105.5) * 1.36719
    weights = got.image / got.image.sum()
    middle = torch.stack([(weights.sum(0) * millimetres).sum(), (weights.sum(1) * millimetres).sum()])
    torch.testing.assert_close(middle, torch.tensor([-5.0, 10.0]), atol=0.005, rtol=0)


def test_crop_and_pad_are_about_the_middle() -> None:
    image = torch.arange(1.0, 36.0).reshape(5, 7)
    item = Slice("a", "a", image, image > 3, spacing=(1.5, 1.5))
    torch.testing.assert_close(resample_slice(item, Grid(1.5, 3)).image, image[1:4, 2:5])
    padded = resample_slice(item, Grid(1.5, 9))
    torch.testing.assert_close(padded.image[2:7, 1:8], image)
    torch.testing.assert_close(padded.mask[2:7, 1:8], item.mask)
    assert not padded.mask[:2].any()


def test_an_image_goes_on_with_its_smallest_value() -> None:
    image = torch.full((4, 4), 90.0)
    image[1, 1] = 80.0
    got = resample_slice(Slice("a", "a", image, image > 85, spacing=(1.0, 1.0)), Grid(1.0, 8)).image
    assert got[0].unique().tolist() == [80.0]
    assert got.min() == 80.0


def test_labels_agree_with_the_mask(phantom: SliceSet) -> None:
    for item in resample(phantom, Grid(1.1, 150)).slices:
        assert item.labels is not None
        assert (item.labels.dtype, item.labels.shape) == (torch.uint8, (150, 150))
        torch.testing.assert_close(item.labels == LV, item.mask)
    original = load_phantom(PhantomConfig(1, 3)).slices[1]
    item = resample_slice(original, Grid(1.1, 150))
    assert item.labels is not None
    assert original.labels is not None
    for value in (RV, MYOCARDIUM):
        area = (original.labels == value).sum() * 1.40625**2
        torch.testing.assert_close((item.labels == value).sum() * 1.1**2, area, rtol=0.03, atol=0)


def test_the_grid_s_own_pixels_are_left_as_they_are(phantom: SliceSet) -> None:
    once = resample(phantom)
    for item, other in zip(resample(once).slices, once.slices, strict=True):
        assert item is other


def test_volumes_stay(phantom: SliceSet) -> None:
    """On average: each mask is off by the part of a pixel that its border falls into."""
    before, after = volumes(phantom), volumes(resample(phantom, Grid(1.1, 180)))
    for phase in ("ED", "ES"):
        sums = [sum(volume[phase] for volume in found.values()) for found in (before, after)]
        assert sums[1] == pytest.approx(sums[0], rel=0.01)


def test_a_cavity_lost_on_the_way_is_dropped_with_its_reason(phantom: SliceSet) -> None:
    tiny = dataclasses.replace(phantom.slices[0], name="tiny", mask=torch.zeros(64, 64).bool())
    tiny.mask[31, 31] = True
    data = dataclasses.replace(phantom, slices=(*phantom.slices, tiny))
    reasons = resample(data, Grid(8.0, 20)).drop_reasons
    assert reasons == {"no left ventricle": 8, "no left ventricle on 20 x 20 pixels of 8 mm": 1}


def test_an_unknown_spacing_is_asked_for(phantom: SliceSet) -> None:
    item = dataclasses.replace(phantom.slices[0], spacing=None)
    with pytest.raises(DataError, match=r"phantom-000-IM-ED-00: .* for example png:DIR@1\.3672"):
        resample_slice(item, Grid())


def test_resampled_slices_can_be_cropped_around_their_centre(phantom: SliceSet) -> None:
    batch = prepare(resample(phantom).slices, 128)
    assert batch.images.shape == (len(phantom), 128, 128)
    assert (batch.centers - 64).abs().max() <= 0.5


@pytest.mark.parametrize("spacing", [(0.7, 0.9), (1.4, 1.1), (1.92, 1.92)])
def test_a_mask_comes_back_to_where_it_was(spacing: tuple[float, float]) -> None:
    H, W = 90, 71
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    mask = ((y - 40) * spacing[0] / 18) ** 2 + ((x - 28) * spacing[1] / 14) ** 2 < 1
    grid = Grid(1.2, 160)
    there = resample_slice(Slice("a", "a", mask.float(), mask, spacing=spacing), grid).mask
    back = mask_from_grid(there, grid, (H, W), spacing)
    assert back.shape == (H, W)
    assert dice(back, mask) > 0.97
    torch.testing.assert_close(centroid(back), centroid(mask), atol=0.3, rtol=0)
    point = point_on_grid(torch.tensor([28.0, 40.0]), (H, W), spacing, grid)
    torch.testing.assert_close(point, centroid(there), atol=0.3, rtol=0)


def test_the_spacing_of_a_set_is_that_of_all_its_slices() -> None:
    def spacing(*pairs: tuple[float, float] | None) -> float | None:
        blank = torch.ones(3, 3)
        items = [Slice(str(i), "a", blank, blank > 0, spacing=pair) for i, pair in enumerate(pairs)]
        return SliceSet(tuple(items), (), "test").spacing

    assert spacing((1.5, 1.5), (1.51, 1.5)) == 1.5
    assert spacing((1.5, 1.5), (1.52, 1.5)) is None
    assert spacing((1.5, 1.4)) is None
    assert spacing((1.5, 1.5), None) is None
    assert spacing(None) is None
