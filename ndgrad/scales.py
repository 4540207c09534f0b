"""Widths of an exploration, in the units of the inputs: one for all of them, or one for each."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from ndgrad.estimator import Rows
from ndgrad.validation import positive_float

Scale: TypeAlias = float | Tensor
Scales: TypeAlias = Scale | tuple[Scale, ...]
"""A number for every input, a tensor that broadcasts against a row of the only one, or a tuple of them for each."""


def read_scales(name: str, value: Scales) -> Scales:
    """Return ``value`` if it is a positive finite number or tensor, or a tuple of them (a list becomes one)."""
    if isinstance(value, tuple | list):
        return tuple(_read(f"{name}[{i}]", item) for i, item in enumerate(value))
    return _read(name, value)


def scales_of(name: str, scales: Scales, inputs: Rows) -> tuple[Scale, ...]:
    """Return one scale for each input (B, ...), tensors on its device and in its dtype."""
    each = scales if isinstance(scales, tuple) else (scales,)
    if isinstance(scales, float):
        each *= len(inputs)
    if len(each) != len(inputs):
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"{name} holds {len(each)} scales, but {len(inputs)} inputs are differentiated, of the shapes {shapes}: "
            "give one for each, first those among the arguments, then the parameters of wrap(parameters=...), both "
            "in their order"
        )
    return tuple(_match(name, scale, x) for scale, x in zip(each, inputs, strict=True))


def _read(name: str, value: Scale) -> Scale:
    if not isinstance(value, Tensor):
        return positive_float(name, value)
    if not value.is_floating_point() or not ((value > 0) & value.isfinite()).all():
        raise ValueError(f"{name} must hold positive finite numbers only, got {value}")
    return value.detach().clone()


def _match(name: str, scale: Scale, x: Tensor) -> Scale:
    if not isinstance(scale, Tensor):
        return scale
    row = x.shape[1:]
    try:
        fits = torch.broadcast_shapes(scale.shape, row) == row
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {tuple(scale.shape)} must broadcast against one row of its input, which has the shape "
            f"{tuple(row)}"
        )
    return scale.to(x.device, x.dtype)
