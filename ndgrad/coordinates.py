"""Settings in units of the input: one number for all coordinates, or numbers of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from ndgrad.estimator import FlatFunction, Rows, join_rows, split_rows, working_dtype
from ndgrad.validation import positive_float

Setting: TypeAlias = float | Tensor | Sequence[float | Tensor]
"""A number; a tensor that broadcasts to the row of a single input, or of n values in the order of the flattened inputs;
or a tuple with one of these for each differentiated input."""


class PerInput(torch.nn.Module):
    """A `Setting` that is not one number; made by `as_setting`.

    Tensors are buffers, so that ``.to`` moves them. They are arguments of the constructor as numbers are, so
    ``state_dict`` has neither.
    """

    def __init__(self, name: str, parts: Sequence[float | Tensor], several: bool) -> None:
        super().__init__()
        self.name = name
        self.several = several
        self._keys = [f"input_{k}" for k in range(len(parts))]
        for key, part in zip(self._keys, parts, strict=True):
            if isinstance(part, Tensor):
                self.register_buffer(key, _floating(part).detach().clone(), persistent=False)
            else:
                setattr(self, key, part)

    @property
    def parts(self) -> tuple[float | Tensor, ...]:
        """The number or tensor of each input, or the only one for all."""
        return tuple(getattr(self, key) for key in self._keys)

    def flat(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the numbers of the columns of x (B, n), which is where ``f`` is probed, (n,)."""
        shapes = getattr(f, "row_shapes", (x.shape[1:],))
        if not self.several and len(shapes) > 1:
            shapes = (x.shape[1:],)
        if len(shapes) != len(self.parts):
            raise ValueError(
                f"{self.name} must have one entry for each differentiated input, but has {len(self.parts)} for "
                f"{len(shapes)} with rows of shape {', '.join(str(tuple(s)) for s in shapes)}; for a value per "
                "coordinate, pass a tensor"
            )
        return torch.cat([self._row(part, shape, x) for part, shape in zip(self.parts, shapes, strict=True)])

    def _row(self, part: float | Tensor, shape: torch.Size, x: Tensor) -> Tensor:
        values = torch.as_tensor(part, dtype=x.dtype, device=x.device)
        if values.ndim == 1 and values.numel() == shape.numel():
            return values
        try:
            return values.expand(shape).reshape(-1)
        except RuntimeError:
            raise ValueError(
                f"{self.name} must be a number, or broadcast to the row {tuple(shape)} of its input, or hold its "
                f"{shape.numel()} values in flattened order, but has shape {tuple(values.shape)}; with several "
                "inputs, pass a tuple with one entry for each"
            ) from None

    def extra_repr(self) -> str:
        """Show numbers, and the shapes of tensors."""
        return ", ".join(f"tensor{tuple(p.shape)}" if isinstance(p, Tensor) else repr(p) for p in self.parts)


def as_setting(name: str, value: Setting, check: Callable[[str, Any], float | Tensor]) -> float | PerInput:
    """Return a float, or a module that holds several numbers.

    Args:
        name: the argument's name in messages.
        value: the setting.
        check: ``check(name, part)`` returns a number as a float or a tensor as it is, or raises.

    """
    several = isinstance(value, tuple | list)
    parts = [check(name, part) for part in value] if isinstance(value, tuple | list) else [check(name, value)]
    return parts[0] if not several and isinstance(parts[0], float) else PerInput(name, parts, several)


class ColumnSetting(Protocol):
    """What `columns` lays out: a `PerInput`, or an `AdaptiveSigma`."""

    def flat(self, f: Callable[[Tensor], Tensor], x: Tensor) -> float | Tensor:
        """Return the number, or the numbers (n,) of the columns of x (B, n)."""


def columns(setting: float | ColumnSetting, f: Callable[[Tensor], Tensor], x: Tensor) -> float | Tensor:
    """Return the number, or the numbers (n,) of the columns of x (B, n)."""
    return setting if isinstance(setting, float) else setting.flat(f, x)


def per_input(setting: float | ColumnSetting, inputs: Rows) -> tuple[float | Tensor, ...]:
    """Return the number for each of the inputs (B, ...), or its numbers (1, ...)."""
    if isinstance(setting, float):
        return (setting,) * len(inputs)
    dtype = working_dtype(*inputs)
    x = join_rows(inputs, dtype)  # (B, n)
    flat = torch.as_tensor(setting.flat(FlatFunction(lambda *rows: rows, inputs, dtype), x))  # (n,)
    return split_rows(flat.expand(1, x.shape[1]), inputs)


def positive(name: str, part: Any) -> float | Tensor:
    """Return a positive finite number, or a tensor of such."""
    if not isinstance(part, Tensor):
        return positive_float(name, part)
    if not ((part > 0) & (part < math.inf)).all():
        raise ValueError(
            f"{name} must be positive finite numbers, got a tensor with least {part.min().item():.3g} and largest "
            f"{part.max().item():.3g}"
        )
    return part


def not_nan(name: str, part: Any) -> float | Tensor:
    """Return a number, which may be infinite, or a tensor of such."""
    if isinstance(part, Tensor) and not part.isnan().any():
        return part
    if isinstance(part, bool) or not isinstance(part, int | float) or math.isnan(part):
        raise ValueError(f"{name} must be a number or a tensor of numbers, and not NaN, got {part!r}")
    return float(part)


def show(**settings: Any) -> str:
    """Describe settings for ``extra_repr``; modules among them show themselves."""
    shown = {key: value for key, value in settings.items() if not isinstance(value, torch.nn.Module)}
    return ", ".join(f"{key}={value!r}" for key, value in shown.items())


def _floating(values: Tensor) -> Tensor:
    return values if values.is_floating_point() else values.to(torch.float64)
