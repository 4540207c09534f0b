"""A synthetic short-axis heart: the data set that needs no download.

Every patient has a size, an orientation, tissue contrasts and neighbouring organs of its own; the slices of
a patient run from base to past the apex, at end-diastole and end-systole.  Shapes are drawn on a three times
finer grid and averaged, so that border pixels hold partial volume; then come a smooth multiplicative bias
field and Rician noise, the magnitude of a complex signal with Gaussian noise in both channels (Gudbjartsson
and Patz, Magnetic Resonance in Medicine 34, 1995).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from applications.lv_dp.data.slices import LV, MYOCARDIUM, RV, Phase, Slice, SliceSet

FIELD = 180.0  # mm, width of the image
LENGTH = 90.0  # mm, of the ventricle from base to apex
PHASES: tuple[Phase, Phase] = ("ED", "ES")
FINE = 3  # sub-pixels per pixel and direction
Array = NDArray[np.floating]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PhantomConfig:
    """What to draw.

    Attributes:
        patients: number of patients, >= 1.
        levels: slice positions per patient and phase; the last lies past the apex and shows no LV.
        size: side of the square image of 180 mm, in pixels.
        noise: deviation of the complex noise, in units of the blood signal.
    """

    patients: int = 12
    levels: int = 5
    size: int = 128
    noise: float = 0.05

    @property
    def pixel(self) -> float:
        """Side of a pixel in mm."""
        return FIELD / self.size

    @property
    def depths(self) -> list[float]:
        """Depth of every slice: 0 is the base, 1 the apex."""
        return np.linspace(0.1, 1.1, self.levels).tolist()

    @property
    def slice_spacing(self) -> float | None:
        """Distance of neighbouring slices in mm."""
        return LENGTH / (self.levels - 1) if self.levels > 1 else None


@dataclass(frozen=True)
class Anatomy:
    """One drawn slice: image (H, W) and the masks (H, W) of LV cavity, myocardium and RV cavity."""

    image: Array
    lv: Mask
    myocardium: Mask
    rv: Mask


@dataclass(frozen=True)
class Patient:
    """What a patient's slices share; lengths in pixels, angles in radians, signals relative to blood."""

    center: Array  # (2,) of the LV, (x, y)
    radius: float  # of the cavity at the base, end-diastole
    wall: float  # thickness of the myocardium at end-diastole
    septum: float  # direction of the RV
    waves: Array  # (3, 2) amplitude and phase of the cavity's 2nd, 3rd and 4th harmonic
    signal: dict[str, float]
    organs: Array  # (K, 6) x, y, half axes, tilt, signal
    bias: Array  # (5,) coefficients of the log bias field


def draw_patient(rng: np.random.Generator, size: int) -> Patient:
    """Draw one patient's constants."""
    scale = size / 128
    center = size / 2 + rng.normal(0, 5, 2) * scale
    signal = {
        "blood": rng.uniform(0.75, 1.0),
        "muscle": rng.uniform(0.25, 0.4),
        "lung": rng.uniform(0.04, 0.12),
        "fat": rng.uniform(0.7, 1.0),
    }
    septum = math.pi + rng.normal(0, 0.35)
    return Patient(
        center=center,
        radius=rng.uniform(13, 21) * scale,
        wall=rng.uniform(5, 8) * scale,
        septum=septum,
        waves=np.stack([rng.uniform(0, [0.08, 0.05, 0.03]), rng.uniform(0, 2 * np.pi, 3)], axis=1),
        signal=signal,
        organs=_draw_organs(rng, center, scale),
        bias=rng.normal(0, 0.2, 5),
    )


def _draw_organs(rng: np.random.Generator, center: Array, scale: float) -> Array:
    """Liver and stomach below, aorta and spine behind, each moved and tilted at random."""
    typical = np.array(
        [  # dx, dy, half axes, tilt, signal
            [-22.0, 46.0, 30.0, 14.0, 0.2, 0.45],
            [30.0, 42.0, 14.0, 11.0, 0.0, 0.25],
            [34.0, 12.0, 6.0, 6.0, 0.0, 0.85],
            [44.0, 34.0, 9.0, 8.0, 0.0, 0.6],
        ]
    )
    organs = typical * [scale, scale, scale, scale, 1, 1]
    organs[:, :2] += center + rng.normal(0, 3, (len(typical), 2)) * scale
    organs[:, 2:4] *= rng.uniform(0.8, 1.2, (len(typical), 2))
    organs[:, 4] += rng.normal(0, 0.3, len(typical))
    organs[:, 5] *= rng.uniform(0.8, 1.2, len(typical))
    return organs


def draw_slice(
    patient: Patient, level: float, systole: bool, rng: np.random.Generator, size: int, noise: float
) -> Anatomy:
    """Draw the slice at ``level``: 0 base, 1 apex; beyond 1 there is muscle but no cavity."""
    taper = math.sqrt(max(0.0, 1 - level**2))  # the ventricle is half an ellipsoid
    radius = patient.radius * taper * (0.7 if systole else 1.0)
    wall = patient.wall * (1.4 if systole else 1.0) * (0.6 + 0.4 * taper)
    fine = ((np.arange(size * FINE) + 0.5) / FINE - 0.5).astype(np.float32)  # pixel coordinates
    x, y = np.meshgrid(fine, fine)
    cx, cy = patient.center.tolist()  # plain floats keep the grids in float32
    dx, dy = x - cx, y - cy
    angle = np.arctan2(dy, dx)
    waves = enumerate(patient.waves.tolist(), start=2)
    outline = radius * (1 + sum(a * np.cos(k * angle + p) for k, (a, p) in waves))
    distance = np.hypot(dx, dy)
    lv = distance < outline
    epicardium = distance < outline + wall
    rv = _right_ventricle(patient, radius + wall, taper, x, y) & ~epicardium
    tissue = _surroundings(patient, x, y, size)
    tissue[rv | lv] = patient.signal["blood"]
    tissue[epicardium & ~lv] = patient.signal["muscle"]
    tissue[_papillary(patient, radius, x, y) & lv] = patient.signal["muscle"]
    signal = _average(tissue) * _bias_field(patient.bias, size)
    image = np.hypot(signal + rng.normal(0, noise, signal.shape), rng.normal(0, noise, signal.shape))
    masks = (_average(part.astype(np.float32)) >= 0.5 for part in (lv, epicardium & ~lv, rv))
    return Anatomy(image, *masks)


def _ellipse(x: Array, y: Array, cx: float, cy: float, a: float, b: float, tilt: float) -> Mask:
    cosine, sine = math.cos(tilt), math.sin(tilt)
    u = (x - cx) * cosine + (y - cy) * sine
    v = (y - cy) * cosine - (x - cx) * sine
    inside: Mask = (u / a) ** 2 + (v / b) ** 2 < 1
    return inside


def _polar(center: Array, radius: float, angle: float) -> tuple[float, float]:
    """Return the point (x, y) at a distance and direction from ``center``."""
    return float(center[0]) + radius * math.cos(angle), float(center[1]) + radius * math.sin(angle)


def _right_ventricle(patient: Patient, outer: float, taper: float, x: Array, y: Array) -> Mask:
    """Return an ellipse beside the septum; what the left ventricle leaves of it is a crescent."""
    cx, cy = _polar(patient.center, 0.8 * outer, patient.septum)
    half = max(outer * taper, 1e-3)
    return _ellipse(x, y, cx, cy, 0.75 * half, 1.1 * half, patient.septum)


def _papillary(patient: Patient, radius: float, x: Array, y: Array) -> Mask:
    """Return the two papillary muscles, dark islands that belong to the cavity's mask."""
    islands = np.zeros(x.shape, dtype=np.bool_)
    for turn in (-1.9, 1.7):
        cx, cy = _polar(patient.center, 0.62 * radius, patient.septum + turn)
        islands |= np.hypot(x - cx, y - cy) < 0.17 * radius
    return islands


def _surroundings(patient: Patient, x: Array, y: Array, size: int) -> Array:
    """Return lung inside a chest wall of fat, with the neighbouring organs."""
    tissue = np.full_like(x, 0.02)  # air
    middle = (size - 1) / 2
    tissue[_ellipse(x, y, middle, middle, 0.49 * size, 0.46 * size, 0)] = patient.signal["fat"]
    tissue[_ellipse(x, y, middle, middle, 0.45 * size, 0.42 * size, 0)] = patient.signal["lung"]
    for *shape, signal in patient.organs.tolist():
        tissue[_ellipse(x, y, *shape)] = signal
    return tissue


def _average(fine: Array) -> Array:
    H, W = fine.shape[0] // FINE, fine.shape[1] // FINE
    averaged: Array = fine.reshape(H, FINE, W, FINE).mean(axis=(1, 3))
    return averaged


def _bias_field(coefficients: Array, size: int) -> Array:
    x, y = np.meshgrid(*(np.linspace(-1, 1, size),) * 2)
    field: Array = np.exp(np.tensordot(coefficients, np.stack([x, y, x * y, x**2, y**2]), axes=1))
    return field


@functools.lru_cache(maxsize=4)  # seconds to draw; nobody changes a slice
def load_phantom(config: PhantomConfig | None = None, seed: int = 0) -> SliceSet:
    """Draw the data set; the same seed gives the same images.

    Example:
        >>> data = load_phantom(PhantomConfig(patients=2, levels=3))
        >>> len(data), data.dropped, data.patients
        (8, 4, ['phantom-000', 'phantom-001'])
    """
    config = config or PhantomConfig()
    slices = []
    for number, child in enumerate(np.random.SeedSequence(seed).spawn(config.patients)):
        rng = np.random.default_rng(child)
        patient = draw_patient(rng, config.size)
        for phase in PHASES:
            for position, depth in enumerate(config.depths):
                drawn = draw_slice(patient, depth, phase == "ES", rng, config.size, config.noise)
                slices.append(_as_slice(f"phantom-{number:03d}", phase, position, drawn, config))
    return SliceSet.keep_with_ventricle(slices, "phantom")


def _as_slice(patient: str, phase: Phase, position: int, drawn: Anatomy, config: PhantomConfig) -> Slice:
    labels = RV * drawn.rv + MYOCARDIUM * drawn.myocardium + LV * drawn.lv
    return Slice(
        name=f"{patient}-IM-{phase}-{position:02d}",
        patient=patient,
        image=torch.from_numpy(drawn.image.astype(np.float32)),
        mask=torch.from_numpy(drawn.lv),
        spacing=(config.pixel, config.pixel),
        phase=phase,
        slice_spacing=config.slice_spacing,
        position=position,
        labels=torch.from_numpy(labels.astype(np.uint8)),
    )
