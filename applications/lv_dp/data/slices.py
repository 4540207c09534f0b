"""What every source of data delivers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from applications.lv_dp.errors import DataError as DataError

Phase = Literal["ED", "ES"]  # end-diastole, end-systole
NO_VENTRICLE = "no left ventricle"
RV, MYOCARDIUM, LV = 1, 2, 3  # values of `Slice.labels`, as in ACDC
MAX_SIDE = 4096  # pixels; a broken header may claim anything
MAX_INTENSITY = 1e15  # whose square float32 still holds
SPACINGS = (0.01, 100.0)  # mm, from finest to coarsest


@dataclass(frozen=True)
class Slice:
    """One image with the mask of its LV cavity, and what its source says about both.

    Attributes:
        name: unique within its set.
        patient: whom it shows; splits never part a patient's slices.
        image: (H, W) float32, in the source's intensities.
        mask: (H, W) bool, True in the LV cavity.
        path: the file of the image.
        spacing: distance of neighbouring rows and of neighbouring columns in mm, None where unknown.
        phase: end-diastole or end-systole.
        slice_spacing: distance in mm to the next slice of the volume, gap included.
        position: index of the slice in its volume.
        group: pathology.
        labels: (H, W) uint8, 0 background, 1 RV cavity, 2 myocardium, 3 LV cavity.

    Raises:
        DataError: image, mask and labels differ in size, an intensity is not finite or beyond 1e15, or a spacing is not
            in 0.01 .. 100 mm.
    """

    name: str
    patient: str
    image: Tensor
    mask: Tensor
    path: Path | None = None
    spacing: tuple[float, float] | None = None
    phase: Phase | None = None
    slice_spacing: float | None = None
    position: int | None = None
    group: str | None = None
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        where = self.path or self.name
        if self.image.shape != self.mask.shape:
            raise DataError(
                f"{where}: image and mask must have one size, "
                f"got {tuple(self.image.shape)} and {tuple(self.mask.shape)} (H, W)"
            )
        if self.labels is not None and self.labels.shape != self.mask.shape:
            raise DataError(f"{where}: labels {tuple(self.labels.shape)} must have the mask's size (H, W)")
        if not usable(self.image):
            raise DataError(f"{where}: {UNUSABLE}")
        distances = (*(self.spacing or ()), *(() if self.slice_spacing is None else (self.slice_spacing,)))
        if not all(map(plausible, distances)):
            raise DataError(
                f"{where}: the spacing must be positive, in {SPACINGS[0]} .. {SPACINGS[1]:g}, got {distances} mm"
            )

    @property
    def area(self) -> float | None:
        """Area of the LV cavity in mm², None where the spacing is unknown.

        Example:
            >>> Slice("a", "a", torch.zeros(2, 2), torch.ones(2, 2).bool(), spacing=(1.5, 2.0)).area
            12.0
        """
        return None if self.spacing is None else int(self.mask.sum()) * self.spacing[0] * self.spacing[1]


@dataclass(frozen=True)
class Dropped:
    """A slice that is not used, and why."""

    name: str
    patient: str
    reason: str = NO_VENTRICLE


@dataclass(frozen=True)
class SliceSet:
    """Slices that show an LV, and those that were dropped."""

    slices: tuple[Slice, ...]
    dropped_slices: tuple[Dropped, ...]
    source: str

    @classmethod
    def keep_with_ventricle(
        cls, slices: Iterable[Slice], source: str, dropped: Iterable[Dropped] = (), reason: str = NO_VENTRICLE
    ) -> SliceSet:
        """Drop and count the slices without an LV, next to those that were ``dropped`` before.

        Raises:
            DataError: none remains, or two slices share a name.
        """
        everything = list(slices)
        kept = tuple(item for item in everything if bool(item.mask.any()))
        if not kept:
            raise DataError(f"{source}: none of its {len(everything)} slices shows a left ventricle")
        repeated = [name for name, count in Counter(item.name for item in kept).items() if count > 1]
        if repeated:
            raise DataError(f"{source}: two slices have the name {repeated[0]}")
        empty = (Dropped(item.name, item.patient, reason) for item in everything if not bool(item.mask.any()))
        return cls(kept, (*dropped, *empty), source)

    def of_patients(self, patients: Iterable[str]) -> SliceSet:
        """Return the slices of the given patients, in order."""
        wanted = set(patients)
        kept = tuple(item for item in self.slices if item.patient in wanted)
        dropped = tuple(item for item in self.dropped_slices if item.patient in wanted)
        return SliceSet(kept, dropped, self.source)

    @property
    def spacing(self) -> float | None:
        """The distance of neighbouring pixels in mm, None where it is unknown or not the same for all.

        Two distances are the same that differ by at most 1 %.
        """
        distances = {distance for item in self.slices for distance in item.spacing or (0.0,)}
        low, high = min(distances), max(distances)
        return low if low > 0 and same_spacing(low, high) else None

    @property
    def dropped(self) -> int:
        """How many slices were dropped."""
        return len(self.dropped_slices)

    @property
    def drop_reasons(self) -> dict[str, int]:
        """How many slices were dropped for which reason."""
        return dict(Counter(item.reason for item in self.dropped_slices))

    @property
    def patients(self) -> list[str]:
        """Names of the patients, sorted."""
        return sorted({item.patient for item in self.slices})

    def __len__(self) -> int:
        return len(self.slices)


UNUSABLE = f"holds values that are not finite or beyond {MAX_INTENSITY:g}"


def usable(image: Tensor) -> bool:
    """Whether all intensities are finite, and small enough to compute with."""
    return bool((image.abs() <= MAX_INTENSITY).all())


def plausible(spacing: float) -> bool:
    """Whether a distance of pixels or slices in mm may be one of an image of a heart.

    Example:
        >>> plausible(1.4), plausible(0.0), plausible(float("nan"))
        (True, False, False)
    """
    return SPACINGS[0] <= spacing <= SPACINGS[1]


def centroid(mask: Tensor) -> Tensor:
    """Return the centre of mass (x, y) in pixels of a non-empty mask (H, W): (2,) float32.

    Example:
        >>> centroid(torch.tensor([[0, 1, 1], [0, 1, 1]]))
        tensor([1.5000, 0.5000])
    """
    y, x = mask.nonzero(as_tuple=True)
    return torch.stack([x.float().mean(), y.float().mean()])


def same_spacing(one: float, other: float) -> bool:
    """Whether two distances of pixels differ by at most 1 %, too little for a network to see."""
    return max(one, other) <= 1.01 * min(one, other)
