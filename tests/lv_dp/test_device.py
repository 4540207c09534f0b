"""Nothing is created on another device than the data's: checked on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from applications.lv_dp import evaluate, train
from applications.lv_dp.config import EvaluateConfig, TrainConfig
from applications.lv_dp.errors import UsageError
from applications.lv_dp.provenance import usable_device

WAYS = {
    "unet": {"method": "unet"},
    "ray_ce": {"method": "ray_ce"},
    "soft_dp": {"method": "soft_dp"},
    "diff_bypass": {"estimator": "diff_bypass"},
    "evolution_strategy": {"estimator": "evolution_strategy"},
    "score_function": {"estimator": "score_function"},
    "uniform, augmented": {"estimator": "diff_bypass", "change": ("placement=uniform", "augment=true")},
}


def config(out: Path, **changes: object) -> TrainConfig:
    return dataclasses.replace(TrainConfig(out=out, profile="smoke", num_train=4, iterations=3), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", WAYS)
def test_every_tensor_is_made_where_the_data_is(name: str, tmp_path: Path) -> None:
    """With another default device, a factory without ``device=`` makes what the data cannot be combined with."""
    training = train.start(config(tmp_path, **WAYS[name]))
    train.step(training, 1)  # Adam makes its own state at the first step
    with torch.device("meta"):
        row = train.step(training, 2)
        train.training_dice(training)
    assert row.loss == row.loss


def test_a_device_that_is_not_there_is_one_line() -> None:
    for name in ("cuda:99", "gpu", "meta:x"):
        with pytest.raises(
            UsageError, match=f"--device must be one that torch can use here.*'{name}'"
        ) as error:
            usable_device(name)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", WAYS)
def test_a_gpu_trains_resumes_and_is_scored_on_the_cpu(name: str, tmp_path: Path) -> None:
    short, long = (config(tmp_path, device="cuda", iterations=n, **WAYS[name]) for n in (2, 3))
    train.main(short)
    assert train.main(long)["device"].startswith("cuda")
    scores = [
        evaluate.main(EvaluateConfig(tmp_path, "phantom", tmp_path / f"{device}.json", device=device))[
            "methods"
        ]
        for device in ("cpu", "cuda")
    ]
    for method, found in scores[0].items():
        assert scores[1][method]["dice"]["mean"] == pytest.approx(found["dice"]["mean"], abs=0.02)
