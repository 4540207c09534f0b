from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from skimage.draw import polygon2mask

from applications.lv_dp.star_pattern import (
    StarPattern,
    directional_derivative,
    moving_average,
    rasterise,
    true_radii,
    warp,
)

STAR = StarPattern(num_rays=15, num_radii=20, r_0=1.0, step=0.75)
CENTERS = torch.tensor([[20.3, 17.8], [24.0, 22.5]])
ROTATION = torch.tensor([0.4, -1.1])
SIZE = (41, 47)  # H, W


def disc(radius: float, center: torch.Tensor, size: tuple[int, int] = SIZE) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2


def random_radii() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 4 + 10 * torch.rand(2, STAR.num_rays, generator=generator)


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("nearest", 0)])
def test_warp_equals_scipy_interpolation(mode: str, order: int) -> None:
    maps = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))
    warped = warp(STAR, maps, CENTERS, ROTATION, mode)  # type: ignore[arg-type]
    points = STAR.points(CENTERS, ROTATION)
    assert warped.shape == (2, 15, 21)
    for b in range(2):
        at = points[b].reshape(-1, 2).flip(-1).T.double().numpy()
        expected = map_coordinates(maps[b].double().numpy(), at, order=order, mode="nearest")
        torch.testing.assert_close(
            warped[b].reshape(-1), torch.from_numpy(expected).float(), atol=1e-4, rtol=0
        )


def test_points_lie_on_their_rays() -> None:
    points = STAR.points(CENTERS, ROTATION)
    angle = 0.4 + 2 * math.pi * 3 / 15
    radius = 1.0 + 7 * 0.75
    expected = torch.tensor([20.3 + radius * math.cos(angle), 17.8 + radius * math.sin(angle)])
    torch.testing.assert_close(points[0, 3, 7], expected)


def test_radius_and_index_are_inverse() -> None:
    index = torch.tensor([0.0, 3.25, 19.0])
    torch.testing.assert_close(STAR.index(STAR.radius(index)), index)
    torch.testing.assert_close(STAR.index(torch.tensor([0.0, 99.0])), torch.tensor([0.0, 19.0]))


def test_warp_carries_gradients_to_the_map() -> None:
    maps = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    cotangent = torch.randn(2, 15, 21, generator=torch.Generator().manual_seed(3))
    (warp(STAR, maps, CENTERS, ROTATION, "bilinear") * cotangent).sum().backward()
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad.sum((1, 2)), cotangent.sum((1, 2)), atol=1e-3, rtol=1e-3)


def test_unary_is_least_at_the_border_of_the_cavity() -> None:
    masks = torch.stack([disc(9.0, CENTERS[0]), disc(6.0, CENTERS[1])]).float()
    unary = directional_derivative(warp(STAR, masks, CENTERS, ROTATION, "bilinear"))
    assert unary.shape == (2, 15, 20)
    found = STAR.radius(unary.argmin(-1))
    expected = torch.tensor([[9.0], [6.0]]).expand(2, 15)
    torch.testing.assert_close(found, expected, atol=1.0, rtol=0)


def test_true_radii_of_a_disc_are_exact_below_a_pixel() -> None:
    masks = torch.stack([disc(11.2, CENTERS[0]), disc(7.9, CENTERS[1])])
    radii = true_radii(STAR, masks, CENTERS, ROTATION)
    expected = torch.tensor([[11.2], [7.9]]).expand(2, 15)
    torch.testing.assert_close(radii, expected, atol=0.6, rtol=0)
    assert (radii - expected).abs().mean() < 0.25


def test_true_radii_of_an_upright_edge_are_half_way_between_pixels() -> None:
    mask = torch.zeros(1, 30, 30, dtype=torch.bool)
    mask[:, :, :18] = True
    radii = true_radii(StarPattern(4, 20), mask, torch.tensor([[10.0, 15.0]]), torch.zeros(1))
    torch.testing.assert_close(radii[0, 0], torch.tensor(7.5))  # the edge lies at x = 17.5


def test_true_radii_stop_at_the_first_gap() -> None:
    center = torch.tensor([20.0, 20.0])
    ring = disc(14.0, center) & ~disc(9.0, center)
    mask = (disc(5.0, center) | ring)[None]
    radii = true_radii(STAR, mask, center[None], torch.zeros(1))
    torch.testing.assert_close(radii, torch.full((1, 15), 5.2), atol=0.6, rtol=0)


def test_true_radii_start_where_the_ray_enters() -> None:
    center = torch.tensor([20.0, 20.0])
    ring = (disc(14.0, center) & ~disc(9.0, center))[None]
    radii = true_radii(STAR, ring, center[None], torch.zeros(1))
    torch.testing.assert_close(radii, torch.full((1, 15), 14.2), atol=0.8, rtol=0)


def test_true_radii_of_nothing_and_of_everything() -> None:
    masks = torch.stack([torch.zeros(SIZE), torch.ones(SIZE)])
    radii = true_radii(STAR, masks, CENTERS, ROTATION)
    torch.testing.assert_close(radii, torch.tensor([[0.0], [STAR.reach]]).expand(2, 15))


def test_rasterise_equals_filling_the_polygon() -> None:
    radii = random_radii()
    masks = rasterise(STAR, radii, CENTERS, ROTATION, SIZE)
    polygons = STAR.polygon(radii.double(), CENTERS.double(), ROTATION.double())
    for mask, polygon in zip(masks, polygons, strict=True):
        expected = polygon2mask(SIZE, polygon.numpy()[:, ::-1])
        np.testing.assert_array_equal(mask.numpy(), expected)


def test_rasterise_keeps_what_lies_in_the_image() -> None:
    masks = rasterise(STAR, torch.full((1, 15), 12.0), torch.tensor([[2.0, 3.0]]), torch.zeros(1), SIZE)
    assert masks[0, 0, 0]
    assert not masks[0, 30, 30]


def test_star_polygon_of_the_truth_covers_the_mask() -> None:
    star = StarPattern(50, 20)
    mask = disc(12.0, CENTERS[0])[None]
    radii = true_radii(star, mask, CENTERS[:1], ROTATION[:1])
    drawn = rasterise(star, radii, CENTERS[:1], ROTATION[:1], SIZE)
    overlap = 2 * (drawn & mask).sum() / (drawn.sum() + mask.sum())
    assert overlap > 0.97


@pytest.mark.parametrize("window", [1, 3, 5])
def test_moving_average_equals_a_circular_convolution(window: int) -> None:
    indices = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(4))
    kernel = np.zeros(7)
    kernel[: window // 2 + 1] = 1 / window
    if window > 1:
        kernel[-(window // 2) :] = 1 / window
    expected = np.fft.ifft(np.fft.fft(indices.numpy(), axis=1) * np.fft.fft(kernel), axis=1).real
    torch.testing.assert_close(moving_average(indices, window), torch.from_numpy(expected).float())


@pytest.mark.parametrize("window", [0, 2, 9])
def test_moving_average_refuses_even_and_too_wide_windows(window: int) -> None:
    with pytest.raises(ValueError, match=r"odd and in 1 \.\. 7"):
        moving_average(torch.zeros(3, 7), window)


@pytest.mark.parametrize("values", [(2, 5, 0.0, 1.0), (8, 0, 0.0, 1.0), (8, 5, -1.0, 1.0), (8, 5, 0.0, 0.0)])
def test_star_refuses_impossible_geometry(values: tuple[int, int, float, float]) -> None:
    with pytest.raises(ValueError, match="a star needs"):
        StarPattern(*values)
