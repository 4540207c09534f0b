from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from applications.lv_dp.surface import surface_distances

from .surface_oracle import oracle

Masks = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def disc(row: float, column: float, radius: float, size: tuple[int, int] = (40, 52)) -> NDArray[np.bool_]:
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def pixel(row: int, column: int) -> NDArray[np.bool_]:
    mask = np.zeros((40, 52), dtype=bool)
    mask[row, column] = True
    return mask


PAIRS: dict[str, Masks] = {
    "discs": (disc(18, 25, 9), disc(20, 21, 11)),
    "disjoint": (disc(8, 10, 5), disc(30, 40, 4)),
    "nested": (disc(20, 25, 4), disc(20, 25, 14)),
    "over the border": (disc(2, 25, 9), disc(20, 50, 11)),
    "in a corner": (disc(0, 0, 9), disc(39, 51, 5)),
    "whole image": (np.ones((40, 52), dtype=bool), disc(20, 25, 8)),
    "pixels": (pixel(3, 4), pixel(30, 9)),
    "pixel and disc": (pixel(0, 51), disc(20, 21, 11)),
    "islands": (disc(18, 25, 9) | disc(35, 45, 2), disc(18, 25, 9)),
    "ring": (disc(20, 25, 12) & ~disc(20, 25, 6), disc(20, 25, 12)),
}
SPACINGS = [(1.0, 1.0), (1.36719, 1.36719), (0.7, 1.92), (2.5, 0.5)]


def measure(pair: Masks, spacing: tuple[float, float] | None) -> dict[str, float | None]:
    prediction, truth = (torch.from_numpy(mask) for mask in pair)
    return surface_distances(prediction, truth, spacing)


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_distances_equal_their_definition(name: str, spacing: tuple[float, float]) -> None:
    assert measure(PAIRS[name], spacing) == pytest.approx(oracle(*PAIRS[name], spacing), rel=1e-5)


def test_random_masks_equal_their_definition() -> None:
    rng = np.random.default_rng(0)
    for density in (0.02, 0.3, 0.7):
        pair = rng.random((30, 17)) < density, rng.random((30, 17)) < 0.2
        assert measure(pair, (0.7, 1.92)) == pytest.approx(oracle(*pair, (0.7, 1.92)), rel=1e-5)


def test_figures_worked_out_by_hand() -> None:
    """Two columns of pixels, the second one of three times the height: rows are 2 mm, columns 3 mm apart."""
    truth, prediction = np.zeros((20, 9), dtype=bool), np.zeros((20, 9), dtype=bool)
    truth[4:6, 2], prediction[4:10, 3] = True, True
    there = np.hypot(3, 2 * np.array([0, 0, 1, 2, 3, 4]))
    found = measure((prediction, truth), (2.0, 3.0))
    assert found["hd"] == pytest.approx(there.max())
    assert found["assd"] == pytest.approx((there.sum() + 2 * 3) / 8)
    assert found["hd95"] == pytest.approx(there[4] + 0.75 * (there[5] - there[4]))


@pytest.mark.parametrize("name", PAIRS)
def test_identical_masks_are_at_distance_zero(name: str) -> None:
    mask = PAIRS[name][0]
    assert measure((mask, mask), (0.7, 1.92)) == {"assd": 0.0, "hd": 0.0, "hd95": 0.0}


def test_without_spacing_the_unit_is_the_pixel() -> None:
    pair = PAIRS["discs"]
    assert measure(pair, None) == measure(pair, (1.0, 1.0))


@pytest.mark.parametrize("spacing", [None, (0.7, 1.92)])
def test_distances_are_symmetric(spacing: tuple[float, float] | None) -> None:
    for a, b in PAIRS.values():
        assert measure((a, b), spacing) == pytest.approx(measure((b, a), spacing))


def test_an_empty_mask_has_no_distance() -> None:
    empty, full = np.zeros((9, 9), dtype=bool), np.ones((9, 9), dtype=bool)
    for pair in ((empty, full), (full, empty), (empty, empty)):
        assert measure(pair, None) == {"assd": None, "hd": None, "hd95": None}


def test_wrong_sizes_and_spacings_are_refused() -> None:
    mask = torch.ones(4, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(4, 5\) and \(5, 4\)"):
        surface_distances(mask, mask.T)
    for spacing in ((0.0, 1.0), (1.0, -1.0), (1.0, float("nan"))):
        with pytest.raises(ValueError, match="spacing must be positive"):
            surface_distances(mask, mask, spacing)


def test_training_imports_neither_monai_nor_matplotlib() -> None:
    code = "import sys, applications.lv_dp.__main__; print(*{'monai', 'matplotlib', 'nibabel'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
