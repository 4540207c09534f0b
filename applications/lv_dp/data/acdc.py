"""ACDC (MICCAI 2017): ``patientNNN/patientNNN_frameEE.nii.gz`` with ``..._gt.nii.gz`` and ``Info.cfg``.

Cite Bernard et al., IEEE Transactions on Medical Imaging 37(11), 2018, doi 10.1109/TMI.2018.2837502.

What the files do that one might not expect:

- The affine is diag(-1, -1, 1, 1) in every file; only the header's zooms hold the spacing.
- The axes are (x, y, z): a slice [:, :, z] is transposed to rows and columns.
- Images are int16, float32 or uint8.
- Which frames are end-diastole and end-systole stands in ``Info.cfg``; it is not always frame 1.
- ``patientNNN_4d.nii.gz`` and uncompressed twins may lie beside the two frames, which therefore are named, not
  searched for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from applications.lv_dp.data.nifti import Volume, read_nifti
from applications.lv_dp.data.slices import LV, DataError, Phase, Slice, SliceSet
from applications.lv_dp.files import read_text

LAYOUT = "need DIR/patientNNN/ with Info.cfg, patientNNN_frameEE.nii.gz and patientNNN_frameEE_gt.nii.gz"


@dataclass(frozen=True)
class Info:
    """What ``Info.cfg`` says: the frame of each phase, and the pathology."""

    frames: dict[Phase, int]
    group: str | None


def load_acdc(folder: str | Path) -> SliceSet:
    """Load both phases of every patient; DIR is the folder of the patients or the one above ``training``.

    Raises:
        DataError: no patients, a missing or unreadable file, an image and its labels that do not match, labels
            other than 0 .. 3, or nibabel is not installed.
    """
    root = Path(folder)
    patients = _patients(root) or _patients(root / "training")
    if not patients:
        raise DataError(f"{root}: holds no folder patientNNN ({LAYOUT})")
    slices = (item for patient in patients for item in load_patient(patient))
    return SliceSet.keep_with_ventricle(slices, f"acdc:{root}")


def _patients(root: Path) -> list[Path]:
    return sorted(
        path for path in root.glob("patient*") if re.fullmatch(r"patient\d+", path.name) and path.is_dir()
    )


def load_patient(folder: Path) -> Iterator[Slice]:
    """Yield the slices of both phases, also those without an LV."""
    info = read_info(folder / "Info.cfg")
    for phase, frame in info.frames.items():
        stem = f"{folder.name}_frame{frame:02d}"
        yield from _load_frame(folder, stem, phase, info.group)


def read_info(path: Path) -> Info:
    """Read lines ``key: value``.

    Raises:
        DataError: no such file, not text, no whole numbers ED and ES, or a group of more than 40 characters or
            characters that cannot be printed.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({type(error).__name__}); {LAYOUT}") from error
    values = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    phases: tuple[Phase, Phase] = ("ED", "ES")
    for phase in phases:
        if not re.fullmatch(r"[0-9]{1,4}", values.get(phase, "")):
            got = values.get(phase)
            raise DataError(
                f"{path}: needs the lines 'ED: frame' and 'ES: frame', got {phase}: {got and got[:40]!r}"
            )
    group = values.get("Group")
    if group is not None and not (group.isprintable() and len(group) <= 40):
        raise DataError(f"{path}: Group must be a short word, got {group[:40]!r}")
    return Info({phase: int(values[phase]) for phase in phases}, group)


def _load_frame(folder: Path, stem: str, phase: Phase, group: str | None) -> Iterator[Slice]:
    image_path, label_path = _existing(folder / stem), _existing(folder / f"{stem}_gt")
    image, labels = _read_volume(image_path), _read_volume(label_path)
    if image.voxels.shape != labels.voxels.shape:
        raise DataError(
            f"{label_path}: labels {labels.voxels.shape} do not fit the image {image.voxels.shape} (x, y, z)"
        )
    if not np.isin(labels.voxels, (0, 1, 2, LV)).all():
        raise DataError(f"{label_path}: labels must be 0, 1, 2 or 3")
    x, y, z = image.zooms[:3]
    for position in range(image.voxels.shape[2]):
        label = torch.from_numpy(labels.voxels[:, :, position].T.astype(np.uint8))  # (x, y) -> (H, W)
        yield Slice(
            name=f"{stem}-{position:02d}",
            patient=folder.name,
            image=torch.from_numpy(image.voxels[:, :, position].T.astype(np.float32)),
            mask=label == LV,
            path=image_path,
            spacing=(y, x),
            phase=phase,
            slice_spacing=z,
            position=position,
            group=group,
            labels=label,
        )


def _read_volume(path: Path) -> Volume:
    if not path.is_file():
        raise DataError(f"{path}: no such file ({LAYOUT})")
    volume = read_nifti(path)
    if volume.voxels.ndim != 3:
        raise DataError(f"{path}: needs three dimensions (x, y, z), got {volume.voxels.shape}")
    return volume


def _existing(stem: Path) -> Path:
    """Return the compressed file, else its uncompressed twin, else the name that was expected."""
    packed, plain = (stem.with_name(stem.name + ending) for ending in (".nii.gz", ".nii"))
    return plain if plain.is_file() and not packed.is_file() else packed
