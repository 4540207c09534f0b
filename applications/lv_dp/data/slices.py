"""What every source of data delivers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from applications.lv_dp.errors import UsageError


class DataError(UsageError):
    """Data that cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class Slice:
    """One image (H, W) float32 with the mask (H, W) bool of its LV cavity, and where it came from.

    Attributes:
        name: unique in its data set.
        patient: whose heart it is.
        image: (H, W) float32, rows and columns as displayed.
        mask: (H, W) bool.
        path: the image's file, for messages.
        spacing: millimetres from row to row and from column to column; None where the source does not say.
        phase: end-diastole or end-systole; None where the source does not say.
        slice_spacing: millimetres from slice to slice of the patient's stack; None where it is unknown.
    """

    name: str
    patient: str
    image: Tensor
    mask: Tensor
    path: Path | None = None
    spacing: tuple[float, float] | None = None
    phase: Literal["ED", "ES"] | None = None
    slice_spacing: float | None = None

    def __post_init__(self) -> None:
        if self.image.shape != self.mask.shape:
            raise DataError(
                f"{self.path or self.name}: image and mask must have one size, "
                f"got {tuple(self.image.shape)} and {tuple(self.mask.shape)} (H, W)"
            )


@dataclass(frozen=True)
class SliceSet:
    """Slices that show an LV, and the patients of those that were dropped because they do not."""

    slices: tuple[Slice, ...]
    dropped_patients: tuple[str, ...]
    source: str

    @classmethod
    def keep_with_ventricle(cls, slices: Iterable[Slice], source: str) -> SliceSet:
        """Drop and count the slices without an LV.

        Raises:
            DataError: none remains.
        """
        everything = list(slices)
        kept = tuple(item for item in everything if bool(item.mask.any()))
        if not kept:
            raise DataError(f"{source}: none of its {len(everything)} slices shows a left ventricle")
        dropped = tuple(item.patient for item in everything if not bool(item.mask.any()))
        return cls(kept, dropped, source)

    def of_patients(self, patients: Iterable[str]) -> SliceSet:
        """Return the slices of the given patients, in order."""
        wanted = set(patients)
        kept = tuple(item for item in self.slices if item.patient in wanted)
        dropped = tuple(name for name in self.dropped_patients if name in wanted)
        return SliceSet(kept, dropped, self.source)

    @property
    def dropped(self) -> int:
        """How many slices were dropped."""
        return len(self.dropped_patients)

    @property
    def patients(self) -> list[str]:
        """Names of the patients, sorted."""
        return sorted({item.patient for item in self.slices})

    def __len__(self) -> int:
        return len(self.slices)


def centroid(mask: Tensor) -> Tensor:
    """Return the centre of mass (x, y) in pixels of a non-empty mask (H, W): (2,) float32.

    Example:
        >>> centroid(torch.tensor([[0, 1, 1], [0, 1, 1]]))
        tensor([1.5000, 0.5000])
    """
    y, x = mask.nonzero(as_tuple=True)
    return torch.stack([x.float().mean(), y.float().mean()])
