from __future__ import annotations

import dataclasses
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from applications.lv_dp import train
from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data import Slice, SliceSet
from applications.lv_dp.data.preprocess import prepare
from applications.lv_dp.reach import furthest, larger_star, warn_beyond_reach
from applications.lv_dp.settings import PROFILES, Settings, read_change

FACTOR = 4


@pytest.fixture(scope="module")
def fine_folder(png_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slices with four times as many rows and columns, as some programs export them."""
    root = tmp_path_factory.mktemp("fine")
    for path in png_folder.glob("*/*.png"):
        (root / path.parent.name).mkdir(exist_ok=True)
        values = np.asarray(Image.open(path)).repeat(FACTOR, 0).repeat(FACTOR, 1)
        Image.fromarray(values).save(root / path.parent.name / path.name)
    return root


def square(half: int) -> Slice:
    mask = torch.zeros(201, 201, dtype=torch.bool)
    mask[100 - half : 101 + half, 100 - half : 101 + half] = True
    return Slice("a", "a", torch.zeros(201, 201), mask)


def test_the_furthest_pixel_of_a_square_is_its_corner() -> None:
    assert furthest(square(30)) == pytest.approx(30 * 2**0.5)


def test_only_masks_beyond_the_reach_are_counted() -> None:
    settings = PROFILES["cpu"]
    warn_beyond_reach([square(30), square(33)], settings, "here")  # 33 sqrt 2 < 48
    with pytest.warns(
        UserWarning, match=r"^here: 2 of the 3 training and held-out masks .* 48 pixels .* 71\)"
    ):
        warn_beyond_reach([square(34), square(33), square(50)], settings, "here")


@pytest.mark.parametrize(
    ("spacing", "resample"), [(None, True), ((0.7, 0.7), True), ((1.36719, 1.36719), False)]
)
def test_larger_pixels_are_proposed_where_they_are_small(
    spacing: tuple[float, float] | None, resample: bool
) -> None:
    item = dataclasses.replace(square(50), spacing=spacing)
    with pytest.warns(UserWarning, match="1 of the 1 training and held-out masks") as caught:
        warn_beyond_reach([item], PROFILES["cpu"], "here")
    message = str(caught[0].message)
    assert ("data png:DIR@MM --pack FILE" in message) == resample
    assert message.endswith("type --change step=1.5 crop=160")
    assert "\n" not in message


@pytest.mark.parametrize("profile", ["smoke", "cpu", "thesis", "paper"])
@pytest.mark.parametrize("radius", [66.0, 75.5, 130.0])
def test_what_is_proposed_is_enough(profile: str, radius: float) -> None:
    settings = PROFILES[profile]  # type: ignore[index]
    changed = dataclasses.replace(settings, **dict(map(read_change, larger_star(settings, radius))))
    assert changed.star.reach >= radius
    assert changed.crop >= 2 * radius
    assert larger_star(changed, radius) == [f"step={changed.step:g}"]


def config(folder: Path, out: Path, *change: str) -> TrainConfig:
    return TrainConfig(
        out, "unet", data=f"png:{folder}", num_train=6, profile="smoke", iterations=1, change=change
    )


def test_training_on_ventricles_beyond_the_star_warns_and_what_it_types_helps(
    fine_folder: Path, tmp_path: Path
) -> None:
    with pytest.warns(
        UserWarning, match=r"training and held-out masks reach beyond the star's 28 pixels"
    ) as caught:
        train.start(config(fine_folder, tmp_path / "a"))
    message = str(caught[0].message)
    proposed = re.search(r"--change (.*)$", message)
    assert proposed is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training = train.start(config(fine_folder, tmp_path / "b", *proposed[1].split()))
    whole = prepare(training.held_out.slices, 512).masks.sum((1, 2))
    torch.testing.assert_close(training.held_out_batch.masks.sum((1, 2)), whole)


def test_the_phantom_lies_within_every_star(phantom: SliceSet) -> None:
    assert max(map(furthest, phantom.slices)) < min(settings.star.reach for settings in PROFILES.values())
    assert Settings().star.reach == 48
