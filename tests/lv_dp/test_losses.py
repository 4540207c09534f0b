"""The training losses, on maps whose contour is known."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from applications.lv_dp.data import SliceSet
from applications.lv_dp.data.preprocess import Batch, prepare
from applications.lv_dp.model import METHODS, Segmenter
from applications.lv_dp.settings import PROFILES, Settings

SETTINGS = dataclasses.replace(PROFILES["smoke"], placement="fixed", rotation=0.0)


@pytest.fixture
def batch(phantom: SliceSet) -> Batch:
    """The image is the perfect output map: high inside the ventricle, low outside."""
    real = prepare(phantom.slices[:6], 64)
    return dataclasses.replace(real, images=12 * real.masks.float() - 6)


def loss(method: str, batch: Batch, settings: Settings = SETTINGS, sign: float = 1.0) -> float:
    model = Segmenter(settings)
    model.unet = Scaled(sign)  # type: ignore[assignment]
    return float(METHODS[method].loss(model, batch, torch.Generator().manual_seed(0)))  # type: ignore[index]


class Scaled(nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, images: Tensor) -> Tensor:
        return self.sign * images


@pytest.mark.parametrize("method", ["unet", "ray_ce", "soft_dp"])
def test_the_perfect_map_is_best_and_its_negative_worst(method: str, batch: Batch) -> None:
    knowing_nothing = math.log(2) if method == "unet" else math.log(SETTINGS.num_radii)
    assert loss(method, batch) < 0.5 * knowing_nothing
    assert loss(method, batch, sign=0.0) == pytest.approx(knowing_nothing, rel=0.2)
    assert loss(method, batch, sign=-1.0) > 1.5 * knowing_nothing


def test_only_the_smoothed_program_knows_of_neighbours(batch: Batch) -> None:
    stiff, loose = (dataclasses.replace(SETTINGS, delta=delta) for delta in (0, 5))
    assert loss("ray_ce", batch, stiff) == loss("ray_ce", batch, loose)
    assert abs(loss("soft_dp", batch, stiff) - loss("soft_dp", batch, loose)) > 0.05


def test_lower_precision_is_that_of_the_layers_alone(batch: Batch) -> None:
    for precision, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = Segmenter(dataclasses.replace(SETTINGS, precision=precision))
        seen = []
        model.unet.head.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output.dtype))
        assert model.output_map(batch.images).dtype == torch.float32
        assert seen == [expected]


def test_crops_lie_around_the_centre_or_the_middle_of_the_image(phantom: SliceSet) -> None:
    around_center, around_middle = (prepare(phantom.slices, 40, at=at) for at in ("center", "image"))
    assert around_middle.corners.unique(dim=0).tolist() == [[32 - 20, 32 - 20]]
    assert len(around_center.corners.unique(dim=0)) > 1
    for crops in (around_center, around_middle):
        places = crops.centers + crops.corners
        torch.testing.assert_close(places, around_center.centers + around_center.corners)
