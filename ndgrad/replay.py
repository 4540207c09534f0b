"""Evaluations of a black box that outlive the call they were made in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ndgrad.estimator import Rows, join_rows, working_dtype
from ndgrad.missing import good_samples


class Samples(NamedTuple):
    """Evaluations around B inputs, as many around each; row r belongs to input r mod B."""

    inputs: Rows  # (S B, ...)
    targets: Rows  # (S B, ...)
    centers: Rows  # (B, ...)
    good: Rows = ()  # a mark of the rows that came back, (S B,); empty if all did

    @property
    def num_centers(self) -> int:
        """B."""
        return self.centers[0].shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Samples:
        """Apply ``function`` to every tensor."""
        return Samples(*(tuple(map(function, rows)) for rows in self))

    def of_centers(self, keep: Tensor) -> Samples:
        """Return what was evaluated around those of the B inputs that ``keep`` (B,) marks."""
        B = self.num_centers
        part = lambda t: t.unflatten(0, (-1, B))[:, keep].flatten(0, 1)  # noqa: E731
        return Samples(*(tuple(map(part, rows)) for rows in self))

    def failed_last(self, least: int) -> Samples:
        """Put rows that failed, NaN in the targets, behind those that came back, ``least`` around each input."""
        B = self.num_centers
        good = good_samples(tuple(t.unflatten(0, (-1, B)) for t in self.targets), least)
        if good is None:
            return self
        order = (~good).byte().argsort(dim=0, stable=True)  # (S, B)
        rows = (order * B + torch.arange(B, device=order.device)).flatten()
        return self._replace(good=(good.flatten(),))._rows(rows)

    def came_back(self, rows: Rows) -> Rows:
        """Return those of the rows (S B, ...) whose evaluation came back."""
        return tuple(t[self.good] for t in rows)  # t[()] is t

    def first(self, count: int) -> Samples:
        """Return the first ``count`` samples of each input."""
        return self._rows(slice(count * self.num_centers))

    def without_first(self, count: int) -> Samples:
        """Return all but the first ``count`` samples of each input."""
        return self._rows(slice(count * self.num_centers, None))

    def _rows(self, rows: slice | Tensor) -> Samples:
        inputs, targets, good = (
            tuple(t[rows] for t in part) for part in (self.inputs, self.targets, self.good)
        )
        return Samples(inputs, targets, self.centers, good)


class Replay:
    """The samples of the last ``size`` calls."""

    def __init__(self, size: int) -> None:
        self._calls: deque[Samples] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._calls)

    def __getitem__(self, index: int) -> Samples:
        return self._calls[index]

    def append(self, samples: Samples) -> None:
        """Add a call's samples; the oldest go where there is no room."""
        self._calls.append(samples)

    def near(self, centers: Rows, reach: float | None, widths: Sequence[float | Tensor]) -> list[Samples]:
        """Return the samples of inputs no farther than ``reach`` widths per coordinate from one of ``centers``.

        Distances are root mean squares over the coordinates, each in units of its width. None returns the samples of
        all inputs.
        """
        if reach is None:
            return list(self._calls)
        scaled = _in_units(centers, widths)
        return [
            samples.of_centers(_distance(_in_units(samples.centers, widths), scaled) <= reach)
            for samples in self._calls
        ]

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply ``function`` (as of ``Module.to``) to everything kept."""
        self._calls = deque((samples.map(function) for samples in self._calls), self._calls.maxlen)

    def state(self) -> list[Any]:
        """Return lists of tensors, loadable with ``weights_only=True``."""
        return [[list(rows) for rows in samples] for samples in self._calls]

    def load(self, state: Iterable[Any]) -> None:
        """Restore what `state` returned."""
        self._calls.clear()
        self._calls.extend(Samples(*(tuple(rows) for rows in samples)) for samples in state)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts one after the other, in the dtypes of the first."""
    columns = zip(*parts, strict=True)
    return tuple(torch.cat([t.to(column[0].dtype) for t in column]) for column in columns)


def _in_units(rows: Rows, widths: Sequence[float | Tensor]) -> Rows:
    return tuple(x / width for x, width in zip(rows, widths, strict=True))


def _distance(old: Rows, new: Rows) -> Tensor:
    """Return the root-mean-square distance per coordinate of each old input to the nearest new one, (B,)."""
    flat_old, flat_new = (join_rows(rows, working_dtype(*rows)) for rows in (old, new))
    # not by matrix products, whose rounding is as large as small distances
    distance = torch.cdist(flat_old, flat_new, compute_mode="donot_use_mm_for_euclid_dist")  # (old B, new B)
    return distance.amin(1) / math.sqrt(flat_new.shape[1])
