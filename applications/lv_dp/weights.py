"""A network from tensors that anybody may have sent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from applications.lv_dp.data.slices import plausible
from applications.lv_dp.errors import UsageError
from applications.lv_dp.model import METHODS, Segmenter
from applications.lv_dp.settings import Settings


def fitting_model(settings: Settings, weights: dict[str, Tensor], file: Path, source: str) -> Segmenter:
    """Build the model that the settings in ``source`` describe, once the weights are known to fit.

    Raises:
        UsageError: a tensor is missing, surplus, or of another shape or type.
    """
    with torch.device("meta"):  # shapes without memory
        expected = Segmenter(settings).unet.state_dict()
    odd = sorted(expected.keys() ^ weights.keys())
    if odd:
        word = "lacks" if odd[0] in expected else "holds a surplus"
        raise UsageError(
            f"{file}: {word} tensor {odd[0]!r:.80}; {len(odd)} names differ from {source}'s settings"
        )
    for name, tensor in expected.items():
        got = weights[name]
        if not isinstance(got, Tensor) or (got.shape, got.dtype) != (tensor.shape, tensor.dtype):
            raise UsageError(
                f"{file}: {name} must be {_kind(tensor)} by {source}'s settings, got {_kind(got)}"
            )
    model = Segmenter(settings)
    model.unet.load_state_dict(weights)
    return model


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def check_method(config: dict[str, Any], where: Path) -> None:
    """Refuse a configuration whose method, held-out patients or spacing of pixels cannot be used.

    Raises:
        UsageError: naming the value.
    """
    method, held_out, spacing = (config.get(key) for key in ("method", "held_out_patients", "spacing"))
    if method not in list(METHODS):
        raise UsageError(f"{where}: method must be one of {', '.join(METHODS)}, got {method!r:.60}")
    if not isinstance(held_out, list) or not all(
        isinstance(name, str) and name.isprintable() for name in held_out
    ):
        raise UsageError(f"{where}: held_out_patients must be a list of names, got {held_out!r:.60}")
    if spacing is not None and not (isinstance(spacing, float) and plausible(spacing)):
        raise UsageError(
            f"{where}: spacing must be a positive number of millimetres or null, got {spacing!r:.60}"
        )


def check_outcome(iteration: object, radius: object, where: Path) -> tuple[int, float]:
    """Return how long a model was trained and the mean radius of the masks it was trained on.

    Raises:
        UsageError: one of them is no such number.
    """
    if type(iteration) is not int or iteration < 0:
        raise UsageError(f"{where}: iteration must be an integer, got {iteration!r:.60}")
    if not isinstance(radius, float) or not 0 <= radius < math.inf:
        raise UsageError(f"{where}: mean_radius must be a number of pixels, got {radius!r:.60}")
    return iteration, radius
