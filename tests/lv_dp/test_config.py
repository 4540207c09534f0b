from __future__ import annotations

from pathlib import Path

import pytest
import torch

from applications.lv_dp.config import TrainConfig
from applications.lv_dp.data import DataError, SliceSet
from applications.lv_dp.data.phantom import PhantomConfig, load_phantom
from applications.lv_dp.errors import UsageError
from applications.lv_dp.settings import PROFILES, TUNED, read_change
from applications.lv_dp.train import set_learning_rate, split


def config(**changes: object) -> TrainConfig:
    return TrainConfig(out=Path("unused"), **changes)  # type: ignore[arg-type]


def test_the_last_word_is_the_command_lines() -> None:
    settings = config(profile="smoke", regime="tuned", change=("sigma=0.5", "iterations=7")).settings
    assert (settings.sigma, settings.iterations, settings.augment) == (0.5, 7, True)
    assert config(profile="smoke", change=("iterations=7",), iterations=5).settings.iterations == 5
    assert config(profile="smoke").settings == PROFILES["smoke"]


@pytest.mark.parametrize("name", TUNED)
def test_tuned_settings_differ_by_method(name: str) -> None:
    if name in ("unet", "ray_ce", "soft_dp"):
        tuned = config(method=name, regime="tuned")
    else:
        tuned = config(estimator=name, regime="tuned")
    assert tuned.trained_as == name
    assert {key: getattr(tuned.settings, key) for key in TUNED[name]} == TUNED[name]
    assert tuned.settings.crop == PROFILES["cpu"].crop


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sigma", r"NAME=VALUE with NAME one of crop, .*got 'sigma'"),
        ("sgima=1", r"one of crop, .*; got 'sgima=1'"),
        ("delta=two", r"--change delta: must be a number of type int, got 'two'"),
        ("borders=none", r"--change borders: must be one of padded, unpadded, low, got 'none'"),
        ("augment=1", r"--change augment: must be one of true, false, got '1'"),
    ],
)
def test_a_change_that_is_none(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_change(text)


def test_the_learning_rate_rises_and_falls() -> None:
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=1.0)

    def rates(*change: str) -> list[float]:
        settings = config(profile="smoke", change=("learning_rate=0.01", *change), iterations=100).settings
        found = []
        for iteration in (1, 5, 51, 100):
            set_learning_rate(optimizer, settings, iteration)
            found.append(optimizer.param_groups[0]["lr"])
        return found

    assert rates() == [0.01] * 4
    assert rates("warmup=10") == pytest.approx([0.001, 0.005, 0.01, 0.01])
    assert rates("schedule=cosine") == pytest.approx([0.01, 0.00996057, 0.005, 2.467e-6], rel=1e-3)


def test_inner_splits_put_the_outer_patients_aside(phantom: SliceSet) -> None:
    whole, outer = split(phantom, config(held_out=0.3))
    known, inner = split(phantom, config(held_out=0.3, inner_seed=1))
    assert whole is phantom
    assert set(known.patients) == set(phantom.patients) - set(outer.patients)
    assert inner.patients
    assert set(inner.patients) < set(known.patients)


def test_seeds_hold_out_each_patient_once() -> None:
    data = load_phantom(PhantomConfig(patients=11, levels=3, size=48))
    folds = [split(data, config(hold_out="thirds", seed=seed))[1].patients for seed in (3, 4, 5)]
    assert sorted(name for fold in folds for name in fold) == data.patients
    assert folds[1] == ["phantom-001", "phantom-004", "phantom-007", "phantom-010"]
    with pytest.raises(
        UsageError, match="leaves none to choose settings on; take --hold-out random or fifth"
    ):
        split(data, config(hold_out="thirds", seed=4, inner_seed=1))
    with pytest.raises(DataError, match="needs 3 patients, got 2"):
        split(data.of_patients(data.patients[:2]), config(hold_out="thirds"))


def test_every_fifth_patient_can_be_held_out() -> None:
    data = load_phantom(PhantomConfig(patients=11, levels=3, size=48))
    known, held_out = split(data, config(hold_out="fifth"))
    assert held_out.patients == ["phantom-004", "phantom-009"]
    assert known is data
    known, inner = split(data, config(hold_out="fifth", inner_seed=1))
    assert not set(known.patients) & {"phantom-004", "phantom-009"}
    assert inner.patients
