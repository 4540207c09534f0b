from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from applications.lv_dp.augment import Ranges, augment
from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.preprocess import Batch, prepare
from applications.lv_dp.data.slices import centroid

STILL = Ranges(rotation=0, scale=1, shift=0, contrast=1, brightness=0, gamma=1, noise=0)


@pytest.fixture
def batch(phantom: SliceSet) -> Batch:
    return prepare(phantom.slices[:6], 64)


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distances(batch: Batch) -> Tensor:
    return torch.stack([(centroid(m) - c).norm() for m, c in zip(batch.masks, batch.centers, strict=True)])


def test_no_change_but_a_flip(batch: Batch) -> None:
    """With every range closed an image is itself or its mirror image about the centre's column."""
    same = augment(batch, generator(), STILL)
    for old, new in zip(batch.images, same.images, strict=True):
        inner = (slice(16, 48), slice(16, 48))
        as_it_was = (new - old)[inner].abs().max() < 1e-3
        assert as_it_was or (new - old)[inner].abs().max() > 0.1
    torch.testing.assert_close(same.centers, batch.centers)


def test_center_mask_and_image_move_together(batch: Batch) -> None:
    changed = augment(batch, generator(), dataclasses.replace(STILL, rotation=math.pi, scale=1.25, shift=4))
    assert (changed.centers - batch.centers).abs().max() > 1
    assert (changed.centers - batch.centers).abs().max() <= 4
    assert distances(changed).max() < 0.5  # the centre of mass stays the centre
    # blood stays where the mask is: the mean grey value inside is that of the original
    inside = [(image[mask].mean()) for image, mask in zip(changed.images, changed.masks, strict=True)]
    before = [(image[mask].mean()) for image, mask in zip(batch.images, batch.masks, strict=True)]
    torch.testing.assert_close(torch.stack(inside), torch.stack(before), atol=0.1, rtol=0.05)


def test_scale_changes_areas_by_its_square(batch: Batch) -> None:
    areas = []
    for seed in range(40):
        changed = augment(batch, generator(seed), dataclasses.replace(STILL, scale=1.25))
        areas.append(changed.masks.flatten(1).sum(1) / batch.masks.flatten(1).sum(1))
    ratio = torch.stack(areas)
    assert 1.45 < ratio.max() < 1.25**2 * 1.06
    assert 1.25**-2 * 0.94 < ratio.min() < 0.70
    assert ratio.log().mean().abs() < 0.05  # larger as often as smaller


def test_intensities_leave_the_mask_alone(batch: Batch) -> None:
    ranges = dataclasses.replace(STILL, contrast=1.3, brightness=0.3, gamma=1.5, noise=0.15)
    changed = augment(batch, generator(), ranges)
    areas = [masks.flatten(1).sum(1) for masks in (changed.masks, batch.masks)]
    torch.testing.assert_close(areas[0], areas[1], atol=2, rtol=0)
    assert (changed.images.mean((1, 2)) - batch.images.mean((1, 2))).abs().max() > 0.05
    assert changed.images.isfinite().all()


def test_it_repeats_from_its_generator_alone(batch: Batch) -> None:
    first, again, other = (augment(batch, generator(seed)) for seed in (5, 5, 6))
    torch.testing.assert_close(first.images, again.images, rtol=0, atol=0)
    assert (first.images - other.images).abs().max() > 0.1


def test_a_mask_that_vanishes_keeps_its_slice() -> None:
    masks = torch.zeros(1, 16, 16, dtype=torch.bool)
    masks[0, 3, 8] = True  # one pixel: falls between others when turned
    batch = Batch(
        torch.randn(1, 16, 16), masks, torch.tensor([[8.0, 3.0]]), torch.zeros(1, 2, dtype=torch.int64)
    )
    results = [augment(batch, generator(seed)) for seed in range(60)]
    assert all(result.masks.any() for result in results)
    untouched = [torch.equal(result.images, batch.images) for result in results]
    assert any(untouched)
    assert not all(untouched)
