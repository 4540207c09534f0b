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


@pytest.fixture
def square() -> Batch:
    """Forty images of 33 x 33 pixels about their middle pixel, where a flip is exact."""
    torch.manual_seed(0)
    masks = torch.zeros(40, 33, 33, dtype=torch.bool)
    masks[:, 10:20, 12:25] = True
    return Batch(
        torch.randn(40, 33, 33), masks, torch.full((40, 2), 16.0), torch.zeros(40, 2, dtype=torch.int64)
    )


def originals(square: Batch, changed: Batch) -> tuple[Tensor, Tensor]:
    """Each image as it was, or flipped if its mask was; and which were."""
    flipped = (changed.masks == square.masks.flip(2)).flatten(1).all(1)
    return torch.where(flipped[:, None, None], square.images.flip(2), square.images), flipped


def test_no_change_but_a_flip(square: Batch) -> None:
    same = augment(square, generator(), STILL)
    expected, flipped = originals(square, same)
    torch.testing.assert_close(same.images, expected, atol=1e-3, rtol=1e-3)
    assert 8 < int(flipped.sum()) < 32
    torch.testing.assert_close(same.centers, square.centers)


def test_contrast_is_a_factor(square: Batch) -> None:
    changed = augment(square, generator(), dataclasses.replace(STILL, contrast=1.3))
    factor = changed.images.std((1, 2)) / square.images.std((1, 2))
    torch.testing.assert_close(
        changed.images, factor[:, None, None] * originals(square, changed)[0], atol=5e-3, rtol=1e-2
    )
    assert 1 / 1.31 < factor.min() < 0.85
    assert 1.2 < factor.max() < 1.31


def test_brightness_is_added(square: Batch) -> None:
    changed = augment(square, generator(), dataclasses.replace(STILL, brightness=0.3))
    added = (changed.images - originals(square, changed)[0]).flatten(1)
    assert added.std(1).max() < 1e-3
    assert -0.3 <= added.mean() <= 0.3
    assert -0.301 < added.min() < -0.15
    assert 0.15 < added.max() < 0.301


def test_gamma_bends_between_the_darkest_and_the_brightest(square: Batch) -> None:
    changed = augment(square, generator(), dataclasses.replace(STILL, gamma=1.5))
    before = originals(square, changed)[0].flatten(1)
    low, high = before.amin(1, keepdim=True), before.amax(1, keepdim=True)
    unit, bent = ((values - low) / (high - low) for values in (before, changed.images.flatten(1)))
    inside = (unit > 0.2) & (unit < 0.8)
    exponents = torch.stack(
        [(b[i].log() / u[i].log()).mean() for b, u, i in zip(bent, unit, inside, strict=True)]
    )
    assert 1 / 1.52 < exponents.min() < 0.8
    assert 1.25 < exponents.max() < 1.52
    torch.testing.assert_close(bent[inside], (unit ** exponents[:, None])[inside], atol=5e-3, rtol=1e-2)


def test_noise_is_normal_of_a_deviation_below_its_limit(square: Batch) -> None:
    changed = augment(square, generator(), dataclasses.replace(STILL, noise=0.15))
    deviation = (changed.images - originals(square, changed)[0]).flatten(1).std(1)
    assert deviation.min() < 0.03
    assert 0.1 < deviation.max() < 0.16


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
    untouched = [result for result in results if torch.equal(result.images, batch.images)]
    assert 0 < len(untouched) < len(results)
    for result in untouched:  # all of it: image, mask and centre belong together
        torch.testing.assert_close(result.masks, batch.masks)
        torch.testing.assert_close(result.centers, batch.centers)
