"""What the wrapped function returned, as tensors with rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndgrad.errors import OutputError, OutputTypeError
from ndgrad.trees import Rebuild, flatten, places


@dataclass(frozen=True)
class Outputs:
    """The leaves of one result and how to rebuild its containers around others."""

    leaves: tuple[Tensor, ...]
    rebuild: Rebuild

    def check_rows(self, num_rows: int) -> Outputs:
        """Require one row for each row that the function was given."""
        for leaf in self.leaves:
            if leaf.ndim == 0 or leaf.shape[0] != num_rows:
                raise OutputError(
                    f"the wrapped function was given {num_rows} rows and must return {num_rows} rows, that is a "
                    f"leading dimension of {num_rows} in every output; it returned an output of shape "
                    f"{tuple(leaf.shape)}. Rows are those of the inputs that require a gradient, or where none does, "
                    "of the first floating argument: if they are another's, name it in argnums=. If the function takes "
                    "one point at a time, type batched=False, vectorize=True"
                )
        return self

    def with_row(self) -> Outputs:
        """Give the result of a single point a leading dimension of one."""
        return self._map(lambda leaf: leaf.unsqueeze(0))

    def structure(self) -> Outputs:
        """Keep shapes and containers only, in new tensors.

        A view would lead from the outputs' graph back to the outputs, a cycle that is never collected.
        """
        return self._map(lambda leaf: leaf.new_empty((0, *leaf.shape[1:])))

    def check_same_shapes(self, other: Outputs) -> None:
        """Require the same outputs in every call: in the same order in their containers, with the same row shapes."""
        expected = [tuple(leaf.shape[1:]) for leaf in self.leaves]
        arrived = [tuple(leaf.shape[1:]) for leaf in other.leaves]
        if expected != arrived:
            raise OutputError(
                "the wrapped function must return the same outputs for every row and call; the rows of its first call "
                f"had the shapes {expected}, these have {arrived}. If its shapes depend on the values, pad them"
            )
        first, second = (places(outputs.rebuild(outputs.leaves)) for outputs in (self, other))
        if first != second:
            raise OutputError(
                "the wrapped function must return the same outputs for every row and call; its first call returned "
                f"them as {', '.join(first)}, this one as {', '.join(second)}. Let it fill its containers in one order"
            )

    def first_non_finite_row(self) -> int | None:
        """Return the index of the first row with NaN or infinity, None if there is none."""
        for leaf in self.leaves:
            # a finite sum proves finite entries in one pass; an infinite one may be overflow, so look again
            if not leaf.sum().isfinite():
                bad = ~leaf.isfinite().reshape(leaf.shape[0], -1).all(1)  # (R,)
                if bad.any():
                    return int(bad.nonzero()[0])
        return None

    def finite_rows(self) -> Tensor:
        """Return which rows have finite numbers only, (R,) booleans on the CPU."""
        rows = [leaf.isfinite().reshape(leaf.shape[0], -1).all(1) for leaf in self.leaves]
        return torch.stack(rows).all(0).cpu()

    def to(self, device: torch.device) -> Outputs:
        """Move them."""
        return self._map(lambda leaf: leaf.to(device))

    def select(self, rows: Tensor) -> Outputs:
        """Keep some of the rows."""
        return self._map(lambda leaf: leaf[rows.to(leaf.device)])

    @staticmethod
    def assemble(parts: Sequence[tuple[Any, Outputs]], num_rows: int) -> Outputs:
        """Put the rows of several calls, given with their places, together; rows that no call gave are NaN."""
        first = parts[0][1]
        for _, part in parts[1:]:
            first.check_same_shapes(part)
        leaves = []
        for column in zip(*(part.leaves for _, part in parts), strict=True):
            dtype = functools.reduce(torch.promote_types, (leaf.dtype for leaf in column))
            whole = column[0].new_full((num_rows, *column[0].shape[1:]), torch.nan, dtype=dtype)
            for (index, _), leaf in zip(parts, column, strict=True):
                whole[torch.as_tensor(index, device=whole.device)] = leaf.to(dtype)
            leaves.append(whole)
        return replace(first, leaves=tuple(leaves))

    @staticmethod
    def concatenate(parts: Sequence[Outputs]) -> Outputs:
        """Join the rows of several calls."""
        first, *rest = parts
        if not rest:
            return first
        for part in rest:
            first.check_same_shapes(part)
        columns = zip(*(part.leaves for part in parts), strict=True)
        return replace(first, leaves=tuple(torch.cat(column) for column in columns))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Outputs:
        return replace(self, leaves=tuple(function(leaf) for leaf in self.leaves))


def read_outputs(returned: Any, dtype: torch.dtype, device: torch.device) -> Outputs:
    """Convert whatever the function returned to tensors on ``device``.

    Torch results keep their floating dtype; NumPy and Python numbers, integers and booleans take ``dtype``.
    """
    leaves, rebuild = flatten(returned)
    if not leaves:
        raise OutputTypeError(
            f"the wrapped function must return numbers, but returned an empty {type(returned).__name__}"
        )
    return Outputs(tuple(_to_tensor(leaf, dtype, device) for leaf in leaves), rebuild)


def _to_tensor(leaf: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    if leaf is None:
        raise OutputTypeError(
            "the wrapped function must return numbers, but returned None; does it end without a return statement?"
        )
    if isinstance(leaf, Tensor):
        target = leaf.dtype if leaf.is_floating_point() else dtype
        _require_real(not leaf.is_complex(), leaf, leaf.dtype)
        # copied: the function may hand out the same buffer on every call
        return leaf.detach().to(device, target, copy=True)
    array = _to_array(leaf)
    _require_real(array.dtype.kind in "fiub", leaf, array.dtype)
    with np.errstate(over="ignore"):  # becomes infinite, which is refused with its row
        # a copy: torch cannot read negative strides, long doubles or swapped bytes
        native = np.array(array, np.float64 if dtype == torch.float64 else np.float32, order="C")
    return torch.from_numpy(native).to(device, dtype)


def _to_array(leaf: Any) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(leaf)
    except ValueError as error:  # lists of unequal length
        raise OutputTypeError(
            f"the wrapped function must return real numbers, but returned a {type(leaf).__name__} that is no array: "
            f"{error}; pad its rows to one length"
        ) from error


def _require_real(is_real: bool, leaf: Any, dtype: Any) -> None:
    if not is_real:
        named = f"{type(leaf).__name__} of {dtype}" if hasattr(leaf, "dtype") else type(leaf).__name__
        remedy = "its real part" if "complex" in str(dtype) else "a float"
        raise OutputTypeError(
            "the wrapped function must return real numbers (tensors, arrays, numbers, or containers of them), but "
            f"returned {named}; return {remedy}"
        )
